"""What a user's type checker sees of the Python interface."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")
# Half a minute: mypy reads every module that is imported.
pytestmark = pytest.mark.slow

SCRIPT = """\
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssd_deploy import Detection, Detections, Detector, load_detector


def frames() -> Iterator[NDArray[np.uint8]]:
    yield np.zeros((9, 9, 3), np.uint8)


image = np.zeros((9, 9, 3), np.uint8)
reveal_type(load_detector("net.onnx", threads=2, score_threshold=0.3))  # ssd_deploy.detector.Detector
detector: Detector = load_detector(b"", "onnxruntime", device="cpu", class_thresholds={"cat": 0.5})
reveal_type(detector.detect(image))  # ssd_train.detections.Detections
reveal_type(detector.detect("a.jpg"))  # ssd_train.detections.Detections
reveal_type(detector.detect(Path("a.jpg")))  # ssd_train.detections.Detections
reveal_type(detector.detect(Image.open("a.jpg")))  # ssd_train.detections.Detections
reveal_type(detector.detect(torch.zeros(3, 9, 9)))  # ssd_train.detections.Detections
reveal_type(detector.detect([image, image], color="bgr"))  # list[ssd_train.detections.Detections]
reveal_type(detector.detect(["a.jpg", Path("b.jpg"), image]))  # list[ssd_train.detections.Detections]
reveal_type(detector.detect(frames()))  # typing.Generator[ssd_train.detections.Detections, None, None]
each: Iterator[Detections] = detector.detect(path for path in ["a.jpg"])
found = detector.detect(image, score_threshold=0.5)
one: Detection = found[0]
reveal_type(one.box)  # tuple[float, float, float, float]
reveal_type(found[1:])  # ssd_train.detections.Detections
reveal_type(found[found.scores > 0.5])  # ssd_train.detections.Detections
reveal_type(found.filter(classes=["cat", 3]).names)  # list[str]
reveal_type([kept.class_name for kept in found])  # list[str]
reveal_type(found.to_yolo())  # str
drawn: NDArray[np.uint8] = found.draw(image)
with load_detector(Path("net.onnx")) as opened:
    reveal_type(opened)  # ssd_deploy.detector.Detector
"""
WRONG = """\
from ssd_deploy import load_detector

load_detector("net.onnx", scoreThreshold=0.3)
detector = load_detector("net.onnx")
detector.detect(7)
detector.detect("a.jpg", color="BGR")
detector.detect("a.jpg").boxen
"""


def mypy(folder: Path, text: str) -> tuple[list[str], int]:
    """Check a script in a folder of its own; returns what is said, a line each."""
    (folder / "script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", folder.parent / "cache"]
        + ["--config-file", "", "script.py"],
        cwd=folder,
        # Without an installation, and beside one of another version.
        env=os.environ | {"MYPYPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines(), done.returncode


def test_a_strict_type_checker_knows_what_is_returned(tmp_path: Path) -> None:
    lines, code = mypy(tmp_path, SCRIPT)
    assert code == 0, lines
    revealed = {int(line.split(":")[1]): line.split('"')[1] for line in lines if "Revealed type" in line}
    wanted = {
        number: line.split("# ")[1] for number, line in enumerate(SCRIPT.splitlines(), start=1) if "reveal_type" in line
    }
    assert revealed == wanted


def test_a_type_checker_finds_the_mistakes(tmp_path: Path) -> None:
    lines, code = mypy(tmp_path, WRONG)
    assert code == 1
    assert {int(line.split(":")[1]) for line in lines if ": error:" in line} == {3, 5, 6, 7}
