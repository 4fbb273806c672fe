"""A rectangle goes the whole way: exported, compared, run on pictures, described."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_data import blocks, write_image

from ssd_deploy.detector import Detector, load_detector
from ssd_train import build_network
from ssd_train.detections import Detections
from ssd_train.weights.network_file import save_network

NAME = "ssd_160x96_mobilenet0.25_custom"
CLASSES = ("cat", "dog", "owl")

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "wide.safetensors"
    save_network(build_network(NAME, weights="random", classes=CLASSES), path)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.onnx import export_onnx
    from ssd_train.weights.network_file import read_network

    return export_onnx(read_network(NAME, weights), tmp_path_factory.mktemp("wide"))


def test_parity_of_a_rectangle_passes(run_cli: Run, weights: Path, exported: Path, tmp_path: Path) -> None:
    for index, (height, width) in enumerate(((96, 160), (120, 120), (90, 200))):
        write_image(tmp_path / f"{index}.png", blocks(height, width, 12, index))
    code, output = run_cli(
        "parity", weights, exported, "--images", tmp_path, "--batch-size", 2,
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["passed"] and report["images"] == 3
    assert all(comparison["matched"] > 20 for comparison in report["comparisons"])


def test_boxes_are_scaled_to_the_picture_along_each_axis(
    exported: Path, weights: Path, assert_same_detections: Callable[..., None]
) -> None:
    """A picture of the input's own size needs no resizing; twice as large along one axis it gives boxes as large."""
    detector = load_detector(exported)
    assert isinstance(detector, Detector) and detector.spec.input_size == (96, 160)
    picture = np.random.default_rng(0).integers(0, 255, (96, 160, 3), np.uint8)
    ((plain,), (network,)) = detector.detect([picture]), load_detector(weights).detect([picture])
    assert len(plain) > 10
    assert_same_detections(plain, network, box_px=1e-2, score=1e-5)
    # By hand from the padded output, whose boxes are in pixels of the input.
    assert plain.boxes[:, [0, 2]].max() > 96
    padded = Detections(boxes=plain.boxes * [2, 1, 2, 1], scores=plain.scores, labels=plain.labels)
    wide = np.repeat(picture, 2, axis=1)
    assert wide.shape == (96, 320, 3)
    (found,) = detector.detect([wide])
    assert_same_detections(found, padded, box_px=0.5, score=1e-2)


def test_a_description_says_width_and_height_in_the_projects_order(run_cli: Run, weights: Path, exported: Path) -> None:
    for named in (NAME, weights, exported):
        code, output = run_cli("info", named)
        assert code == 0 and f"network: {NAME}" in output and "input size: 96, 160" in output
