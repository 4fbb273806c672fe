"""The trained detector that ships with the package: it finds shapes, and every backend finds the same ones."""

from pathlib import Path

import pytest

from ssd_deploy import load_detector, parity_run
from ssd_deploy.parity import TOLERANCES
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.layouts import load_dataset
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.precision import in_precision
from ssd_train.weights.load import SHAPES_WEIGHTS

NETWORK = "ssd_300_mobilenet0.25_custom"
PICTURES = 100


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Held-out pictures: numbered as no training picture is."""
    root = write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=PICTURES, seed=1)
    return load_dataset("voc", root, "val", sorted(SHAPE_CLASSES))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("models")
    network = build_network(NETWORK, "shapes")
    return {name: export_onnx(in_precision(network, name), folder) for name in ("fp32", "fp16")}


def test_the_weights_are_small_enough_for_a_package() -> None:
    assert SHAPES_WEIGHTS.stat().st_size < 3_000_000


def test_it_finds_nine_tenths_of_what_there_is(pictures: Dataset, models: dict[str, Path]) -> None:
    detector = load_detector(models["fp32"])
    found = run_detector(pictures.samples, detector.runner.run, detector.spec)
    numbers = score(pictures, found, detector.spec, metric="coco", protocol=Protocol.STANDARD).numbers
    # 0.924 on the 500 pictures that it was validated on; these are the first hundred of them.
    assert numbers["AP50"] >= 0.9


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_backends_agree_on_a_trained_network(pictures: Dataset, models: dict[str, Path], precision: str) -> None:
    outcome = parity_run.run(
        build_network(NETWORK, "shapes"),
        [models[precision]],
        pictures.limited(40),
        metric="voc",
        protocol=Protocol.STANDARD,
        tolerances=TOLERANCES,
        batch_size=8,
        workers=2,
        reference_device="cpu",
        allow_tf32=False,
    )
    assert outcome.passed, outcome.text()
