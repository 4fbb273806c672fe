"""What `Detector.detect` takes, what it gives for each, and what it leaves out."""

import logging
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from numpy.typing import NDArray
from tiny_data import FakeRunner, Image, blocks, write_image

from ssd_deploy.detector import Detector, load_detector
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, ImageError, SpecError
from ssd_train.spec import DetectorSpec, PostprocessSettings, WorkingThresholds

SPEC = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(30, 60))
ROWS = [(0, 0, 30, 30, 0.75, 1), (0, 0, 9, 9, 0.5, 0), (0, 0, 9, 9, 0.25, 1)]
BLACK = np.zeros((9, 9, 3), np.uint8)


class Brightness(FakeRunner):
    """One detection an image, whose score is the mean of its pixels before normalisation."""

    def __init__(self) -> None:
        everything = PostprocessSettings(score_threshold=0)
        spec = DetectorSpec(
            network="tiny", class_names=("cat",), input_size=(4, 4), mean=(0, 0, 0), std=(1, 1, 1),
            postprocess=everything,
        )  # fmt: skip
        super().__init__(spec, [])

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        self.batch_sizes.append(len(images))
        boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (len(images), 1, 1))
        return PaddedDetections(boxes, images.mean(axis=(1, 2, 3))[:, None], np.zeros((len(images), 1), np.int64))


def grey(level: int) -> Image:
    return np.full((4, 4, 3), level, np.uint8)


def levels(found: list[Detections]) -> list[int]:
    return [round(255 * float(each.scores[0])) for each in found]


def same(one: Detections, other: Detections) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


def test_one_picture_gives_the_same_detections_in_every_form(model_path: Path, tmp_path: Path) -> None:
    picture = blocks(90, 120, 15, 3)
    path = write_image(tmp_path / "a.png", picture)
    tensor = torch.tensor(picture).permute(2, 0, 1)
    detector = load_detector(model_path)
    expected = detector.detect(picture)
    assert len(expected) and expected.image_size == (90, 120) and expected.class_names == detector.spec.class_names
    forms = [
        detector.detect(path),
        detector.detect(str(path)),
        detector.detect(PIL.Image.open(path)),
        detector.detect(tensor),
        detector.detect(tensor / 255),
        detector.detect(picture[:, :, ::-1], color="bgr"),
        detector.detect(np.dstack([picture, picture[:, :, 0]])),
        *detector.detect([picture]),
        *detector.detect(picture for _ in range(1)),
        *detector.detect(picture[None]),
        *detector.detect(tensor[None]),
    ]
    assert [same(each, expected) for each in forms] == [True] * len(forms)


@pytest.mark.parametrize("many", [[grey(10), grey(20)], (grey(10), grey(20)), np.stack([grey(10), grey(20)])])
def test_several_give_a_list(many: Any) -> None:
    found = Detector(Brightness()).detect(many)
    assert isinstance(found, list) and levels(found) == [10, 20]


def test_a_stack_of_tensors_is_several() -> None:
    found: Any = Detector(Brightness()).detect(torch.stack([torch.full((3, 4, 4), level / 255) for level in (10, 20)]))
    assert isinstance(found, list) and levels(found) == [10, 20]


def test_a_list_may_mix_everything(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", grey(30))
    mixed = [grey(10), path, str(path), PIL.Image.fromarray(grey(40)), torch.full((3, 4, 4), 50, dtype=torch.uint8)]
    assert levels(Detector(Brightness(), batch_size=2).detect(mixed)) == [10, 30, 30, 40, 50]


def test_nothing_gives_nothing() -> None:
    detector = Detector(Brightness())
    assert detector.detect([]) == [] and detector.detect(()) == []
    assert list(detector.detect(iter([]))) == []


def test_a_folder_and_a_pattern_are_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for level in (10, 20, 30):
        write_image(tmp_path / "photos" / f"{level}.png", grey(level))
    monkeypatch.setenv("HOME", str(tmp_path))
    detector: Any = Detector(Brightness())
    for folder in (tmp_path / "photos", str(tmp_path / "photos"), "~/photos"):
        assert levels(detector.detect(folder)) == [10, 20, 30]
    assert levels(detector.detect(f"{tmp_path}/photos/[23]*.png")) == [20, 30]
    assert levels(detector.detect("~/photos/10.*")) == [10]
    # A file whose own name looks like a pattern is that file.
    write_image(tmp_path / "a[1].png", grey(40))
    assert isinstance(detector.detect(tmp_path / "a[1].png"), Detections)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "images are a NoneType"),
        (7, "images are a int"),
        ({"a.jpg": 1}, "images are a dict"),
        (b"\xff\xd8", "an image is a bytes"),
        ("", "an empty name"),
        ("nosuch/*.jpg", "no file matches"),
        ("nosuch.jpg", "nosuch.jpg: cannot be read"),
        (np.zeros((9, 9, 2), np.uint8), r"^an image has dtype uint8 and shape \(9, 9, 2\)"),
        ([BLACK, BLACK / 255], r"^images\[1\]: an image has dtype float64"),
        ([[BLACK]], r"^images\[0\]: an image is a list"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(given: Any, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Detector(FakeRunner(SPEC, [])).detect(given)


def test_a_colour_that_does_not_exist_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ImageError, match="expected rgb or bgr"):
        Detector(FakeRunner(SPEC, [])).detect(iter([]), color="gbr")  # type: ignore[call-overload]


# --- Generators ---


def test_a_generator_gives_a_generator_that_takes_images_as_it_needs_them() -> None:
    taken: list[int] = []

    def endless() -> Iterator[Image]:
        for level in range(10_000):
            taken.append(level)
            yield grey(level % 256)

    runner = Brightness()
    found = Detector(runner, batch_size=2).detect(endless())
    assert isinstance(found, Generator) and taken == []
    assert levels([next(found) for _ in range(5)]) == [0, 1, 2, 3, 4]
    assert len(taken) <= 5 + 2 * 2 + 1 and set(runner.batch_sizes) == {2}
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]
    assert list(found) == []


def test_a_generator_may_give_the_same_array_again() -> None:
    def frames() -> Iterator[Image]:
        frame = grey(0)
        for level in range(20):
            frame[:] = level
            yield frame

    assert levels(list(Detector(Brightness(), batch_size=3).detect(frames()))) == list(range(20))
    tensors = (torch.full((3, 4, 4), 0, dtype=torch.uint8) for _ in range(1))
    shared = next(tensors)
    refilled = (shared.fill_(level) for level in range(20))
    assert levels(list(Detector(Brightness(), batch_size=3).detect(refilled))) == list(range(20))


def test_a_generator_may_close_its_files(tmp_path: Path) -> None:
    for level in range(10):
        write_image(tmp_path / f"{level}.png", grey(level))

    def opened() -> Iterator[PIL.Image.Image]:
        for level in range(10):
            with PIL.Image.open(tmp_path / f"{level}.png") as image:
                yield image

    assert levels(list(Detector(Brightness(), batch_size=3).detect(opened()))) == list(range(10))


def test_what_is_wrong_in_a_generator_is_raised_behind_what_came_before_it(tmp_path: Path) -> None:
    for bad in (tmp_path / "missing.png", BLACK / 255):
        found = Detector(Brightness(), batch_size=1).detect(iter([grey(1), grey(2), bad, grey(3)]))
        assert levels([next(found), next(found)]) == [1, 2]
        with pytest.raises(ImageError, match=r"images\[2\]: "):
            next(found)


def test_an_error_of_the_generator_is_its_own() -> None:
    def broken() -> Iterator[Image]:
        yield grey(1)
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="camera"):
        list(Detector(Brightness()).detect(broken()))


# --- Thresholds ---


def counts(**options: Any) -> list[str]:
    return Detector(FakeRunner(SPEC, ROWS), **options).detect(BLACK).names


def test_without_a_threshold_everything_of_the_graph_is_given() -> None:
    assert counts() == ["dog", "cat", "dog"]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"score_threshold": 0.5}, ["dog", "cat"]),
        ({"score_threshold": 0.6}, ["dog"]),
        ({"class_thresholds": {"dog": 0.8}}, ["cat"]),
        ({"score_threshold": 0.6, "class_thresholds": {"cat": 0.1}}, ["dog", "cat"]),
        ({"max_detections": 1}, ["dog"]),
        ({"score_threshold": 0.9}, []),
    ],
)
def test_thresholds_of_the_detector_and_of_a_call(asked: dict[str, Any], names: list[str]) -> None:
    assert counts(**asked) == names
    assert Detector(FakeRunner(SPEC, ROWS)).detect(BLACK, **asked).names == names
    # For each of many, and of a generator.
    detector = Detector(FakeRunner(SPEC, ROWS))
    assert [found.names for found in detector.detect([BLACK, BLACK], **asked)] == [names, names]
    assert [found.names for found in detector.detect(iter([BLACK]), **asked)] == [names]


def test_a_call_asks_beside_what_the_detector_was_made_with() -> None:
    detector = Detector(FakeRunner(SPEC, ROWS), score_threshold=0.6, max_detections=2)
    assert detector.detect(BLACK, score_threshold=0.1).names == ["dog", "cat"]
    assert detector.detect(BLACK, class_thresholds={"cat": 0.1}).names == ["dog", "cat"]
    assert detector.detect(BLACK).names == ["dog"]


def test_saved_thresholds_hold_where_none_is_asked_for() -> None:
    spec = DetectorSpec(
        network="tiny", class_names=("cat", "dog"), input_size=(30, 60),
        working_thresholds=WorkingThresholds(overall=0.6, per_class={"cat": 0.4}),
    )  # fmt: skip
    detector = Detector(FakeRunner(spec, ROWS))
    assert detector.detect(BLACK).names == ["dog", "cat"]
    assert detector.detect(BLACK, score_threshold=0.2).names == ["dog", "cat", "dog"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"score_threshold": 1.5}, "score_threshold 1.5: expected 0 to 1"),
        ({"score_threshold": 0.001}, "keeps no score of 0.01 or less"),
        ({"class_thresholds": {"cow": 0.5}}, "'cow' is no class of tiny; it has cat, dog"),
        ({"max_detections": 0}, "gives 1 to 100 an image"),
    ],
)
def test_a_threshold_that_cannot_be_is_refused_before_anything_is_detected(asked: dict[str, Any], words: str) -> None:
    runner = FakeRunner(SPEC, ROWS)
    with pytest.raises(SpecError, match=words):
        Detector(runner, **asked)
    with pytest.raises(SpecError, match=words):
        Detector(runner).detect(iter([BLACK]), **asked)
    assert runner.batch_sizes == []


def test_where_nothing_is_left_the_log_says_what_to_try(caplog: pytest.LogCaptureFixture) -> None:
    detector = Detector(FakeRunner(SPEC, ROWS), score_threshold=0.9)
    with caplog.at_level(logging.INFO, "ssd_deploy"):
        detector.detect([BLACK, BLACK])
        assert len(detector.detect(BLACK, score_threshold=0.1)) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"images[{index}]: nothing found; highest score 0.75; try score_threshold=0.5" for index in (0, 1)
    ]


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(BackendError, match="batch size of 0"):
        Detector(FakeRunner(SPEC, []), batch_size=0)


def test_the_picture_is_drawn_into_as_it_was_given(tmp_path: Path) -> None:
    picture = blocks(90, 120, 15, 3)
    path = write_image(tmp_path / "a.png", picture)
    found = Detector(FakeRunner(SPEC, ROWS)).detect(path)
    drawn = found.draw(path)
    np.testing.assert_array_equal(found.draw(PIL.Image.open(path)), drawn)
    np.testing.assert_array_equal(found.draw(cv2.imread(str(path)), color="bgr")[:, :, ::-1], drawn)
