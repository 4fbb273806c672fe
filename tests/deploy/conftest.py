"""One small network with random weights, exported once, and tiny data sets whose score is known."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_data import Annotated, Image, blocks, write_coco, write_voc
from typer.testing import CliRunner

from ssd_deploy.benchmark import measure
from ssd_deploy.cli import app
from ssd_train import build_network
from ssd_train.detections import Detections
from ssd_train.networks.zoo import VOC_CLASSES

if TYPE_CHECKING:
    from ssd_deploy.detector import Detector
    from ssd_train.networks.ssd import SSD

NAME = "ssd_300_mobilenet0.25_voc"


@pytest.fixture(scope="session", autouse=True)
def engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No engine of a test lands in the user's cache, nor comes from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _short_turns() -> Iterator[None]:
    """`benchmark` times one call in every turn, and not calls for half a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "BenchmarkSettings", functools.partial(measure.BenchmarkSettings, turn_seconds=0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _shared_traces(shared_traces: None) -> None:
    """Whatever exports here, the command line included."""


@pytest.fixture(scope="session")
def shared_network() -> "SSD":
    # Several threads that wait for each other are many times slower where other jobs share the cores.
    torch.set_num_threads(1)
    return build_network(NAME, weights="random")


@pytest.fixture
def network(shared_network: "SSD") -> "SSD":
    """A network of the test's own: runners move theirs to a device."""
    return copy.deepcopy(shared_network)


@pytest.fixture(scope="session")
def model_path(shared_network: "SSD", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file; nobody writes to it."""
    from export.onnx import export_onnx

    return export_onnx(copy.deepcopy(shared_network), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def torch_detector(shared_network: "SSD") -> "Detector":
    from ssd_deploy.backends.pytorch import TorchRunner
    from ssd_deploy.detector import Detector

    return Detector(TorchRunner(copy.deepcopy(shared_network)))


@pytest.fixture(scope="session")
def pictures(torch_detector: "Detector") -> list[Image]:
    """Five pictures of different sizes with no, some and all 100 detections; the third is the partly filled one."""
    faint = (blocks(240, 320, 60, 2, contrast / 20) for contrast in range(20))
    partly = next(image for image in faint if 20 < len(torch_detector.detect([image])[0]) < 90)
    made = [
        blocks(240, 320, 150, 150),
        np.zeros((200, 300, 3), np.uint8),
        partly,
        blocks(480, 360, 20, 20),
        blocks(301, 299, 4, 4),
    ]
    counts = [len(found) for found in torch_detector.detect(made)]
    assert [counts[0], counts[1], counts[3], counts[4]] == [100, 0, 100, 100], counts
    return made


@pytest.fixture(scope="session")
def objects(torch_detector: "Detector", pictures: list[Image]) -> list[Annotated]:
    """Two objects that make an AP of 1 and of 1/2 by definition.

    The first is where the best detection of its class in all pictures is: found at rank 1. The second
    is where the second best of another class is: a false positive comes first, so precision is 1/2.
    """
    everything = sorted(
        (
            (float(score), int(label), picture, tuple(round(value) for value in box))
            for picture, (image, found) in enumerate(zip(pictures, torch_detector.detect(pictures), strict=True))
            for box, score, label in zip(
                found.clipped(image.shape[:2]).boxes.tolist(), found.scores, found.labels, strict=True
            )
        ),
        reverse=True,
    )
    chosen: list[Annotated] = []
    for label in dict.fromkeys(row[1] for row in everything):
        ranked = [row for row in everything if row[1] == label][:3]
        score, _, picture, box = ranked[len(chosen)] if len(ranked) == 3 else (0.0, 0, 0, (0, 0, 0, 0))
        well_apart = all(better[0] - worse[0] > 1e-3 for better, worse in pairwise(ranked))
        large = min(box[2] - box[0], box[3] - box[1]) > 30
        first = ranked[0]
        separate = len(chosen) == 0 or first[2] != picture or overlap(first[3], box) < 0.3
        if score and well_apart and large and separate:
            chosen.append(Annotated(picture, VOC_CLASSES[label], box))
        if len(chosen) == 2:
            return chosen
    raise AssertionError("the random network finds no two classes to make objects of; choose another seed")


def overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """IoU of two boxes, by hand."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (both - shared)


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory, pictures: list[Image], objects: list[Annotated]) -> Path:
    """A VOC folder with a VOC07 mAP of 75 % for the network; copy it before changing it."""
    return write_voc(tmp_path_factory.mktemp("voc"), pictures, objects)


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory: pytest.TempPathFactory, pictures: list[Image], objects: list[Annotated]) -> Path:
    """The same objects and some that nobody finds in COCO's layout; copy it before changing it."""
    missed = [Annotated(1, "cat", (10, 10, 60, 90)), Annotated(3, objects[0].class_name, (5, 5, 30, 30))]
    return write_coco(tmp_path_factory.mktemp("coco"), pictures, [*objects, *missed], VOC_CLASSES)


@pytest.fixture(autouse=True)
def _unlimited_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output as in a pipe, whatever this terminal says; a test of a terminal sets its width itself."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def run_cli() -> Callable[..., tuple[int, str]]:
    """Run the command line here; returns its exit code and all it printed. A traceback fails the test."""

    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


@pytest.fixture
def mistake(run_cli: Callable[..., tuple[int, str]]) -> Callable[..., str]:
    """Run a command that is a user's mistake; returns the one line that says so."""

    def run(*arguments: object) -> str:
        code, output = run_cli(*arguments)
        lines = [line for line in output.splitlines() if line.startswith("Error: ")]
        assert code == 2, output
        assert len(lines) == 1, output
        assert output.rstrip().endswith(lines[0]), "something follows the error"
        return lines[0]

    return run


@pytest.fixture
def assert_same_detections() -> Callable[..., None]:
    """Compare as sets of (label, box, score), so that equals to the last bits may stand in either order."""

    def check(found: Detections, expected: Detections, *, box_px: float, score: float) -> None:
        assert len(found) == len(expected)
        left = list(range(len(expected)))
        for index in range(len(found)):
            partner = next(
                (
                    other
                    for other in left
                    if found.labels[index] == expected.labels[other]
                    and np.abs(found.boxes[index] - expected.boxes[other]).max() <= box_px
                    and abs(found.scores[index] - expected.scores[other]) <= score
                ),
                None,
            )
            assert partner is not None, (found.boxes[index], found.scores[index], found.labels[index])
            left.remove(partner)

    return check
