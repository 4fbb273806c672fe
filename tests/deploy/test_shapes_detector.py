"""The trained detector that ships with the package: it finds shapes, and every backend finds the same ones."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_deploy import load_detector
from ssd_deploy.parity.compare import images_as_dataset
from ssd_deploy.parity.report import ParityOutcome
from ssd_deploy.parity.run import run as run_parity
from ssd_train import build_network
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.evaluation.evaluate import score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import in_precision
from ssd_train.weights.load import SHAPES_WEIGHTS

NETWORK = "ssd_300_mobilenet0.25_custom"
PICTURES = 100


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Held-out pictures: numbered as no training picture is."""
    root = write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=PICTURES, seed=1)
    return find_source("voc", root).load("val", sorted(SHAPE_CLASSES))


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


def against_pytorch(models: list[Path], dataset: Dataset, metric: str | None) -> ParityOutcome:
    return run_parity(build_network(NETWORK, "shapes"), models, dataset, metric=metric, batch_size=8)


def last_line(outcome: ParityOutcome) -> str:
    return outcome.text().splitlines()[-1]


def test_backends_agree_on_a_trained_network(pictures: Dataset, models: dict[str, Path]) -> None:
    outcome = against_pytorch([models["fp32"], models["fp16"]], pictures.limited(40), "voc")
    assert outcome.passed, outcome.text()
    assert last_line(outcome).startswith("PASS: fp32: nothing was lost; fp16: the metric decided: VOC07 mAP ")
    # Most pictures have two shapes or three.
    assert all(comparison.changes.total > 60 for comparison in outcome.comparisons)


def test_int8_is_never_said_to_lose_nothing_and_a_bad_calibration_fails(
    pictures: Dataset, models: dict[str, Path], tmp_path: Path
) -> None:
    from export.quantize_options import QuantizeOptions
    from export.steps import STEPS

    def calibrated_on(folder: Path, out: str) -> Path:
        path = STEPS["int8"].apply(models["fp32"], tmp_path / out, QuantizeOptions(calibration_data=folder)).path
        assert path is not None
        return path

    few = pictures.limited(30)
    paths = [sample.path for sample in few.samples]
    # Pictures of one color tell nothing of what is activated by shapes.
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "gray.png"), np.full((90, 90, 3), 90, np.uint8))
    good, bad = calibrated_on(paths[0].parent, "good"), calibrated_on(tmp_path / "flat", "bad")
    of_good = against_pytorch([good], images_as_dataset(paths, few.class_names), None)
    of_bad = against_pytorch([bad], images_as_dataset(paths, few.class_names), None)
    # Some of the detections change, which a float32 comparison never sees.
    assert of_good.comparisons[0].changes.changed > 0
    assert last_line(of_good).startswith("PASS: int8: the detections decided: ") and "10 % may" in last_line(of_good)
    assert last_line(of_bad).startswith("FAIL: int8: the detections decided: ")
    assert last_line(against_pytorch([bad], few, "voc")).startswith("FAIL: int8: the metric decided: VOC07 mAP lost ")
