"""The one loop: every image its own detections, in order, and every answer checked."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, DatasetError, ImageError
from ssd_train.evaluation.loop import Predict, detect_images, run_detector
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import DetectorSpec, PostprocessSettings

SPEC = DetectorSpec(
    network="tiny",
    class_names=("a", "b", "c"),
    input_size=(30, 60),
    postprocess=PostprocessSettings(max_detections=2),
)
KEPT = 3


def sample_of(path: Path, grey: int, image_size: tuple[int, int]) -> Sample:
    """Write an image of one grey level, which tells the images apart inside the network."""
    cv2.imwrite(str(path), np.full((*image_size, 3), grey, np.uint8))
    return Sample(image_id=path.stem, path=path, image_size=image_size, ground_truth=make_ground_truth([]))


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return [sample_of(tmp_path / f"{index}.png", 10 * index, (60 + index, 90)) for index in range(11)]


class GreyDetector:
    """Answers one box over the right half of the input, scored by the image's grey level; keeps its batch sizes."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []
        self.answer = PaddedDetections(
            np.empty((0, KEPT, 4), np.float32), np.empty((0, KEPT), np.float32), np.empty((0, KEPT), np.int64)
        )

    def __call__(self, images: NDArray[np.float32]) -> PaddedDetections:
        assert images.dtype == np.float32
        assert images.shape[1:] == (3, 30, 60)
        for array in self.answer:  # what was answered before need not outlive this call
            array[...] = -1
        count = len(images)
        self.batch_sizes.append(count)
        boxes = np.full((count, KEPT, 4), -1, np.float32)
        scores = np.full((count, KEPT), -1, np.float32)
        labels = np.full((count, KEPT), -1, np.int64)
        boxes[:, 0] = (30, 0, 60, 30)
        grey = (images[:, 0, 0, 0] * np.float32(0.229) + np.float32(0.485)) * 255
        scores[:, 0] = (grey + 1) / 256
        labels[:, 0] = 1
        self.answer = PaddedDetections(boxes, scores, labels)
        return self.answer


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (4, 1), (4, 3), (11, 2), (50, 2)])
def test_every_sample_gets_its_own_detections_in_order_whatever_the_batch(
    samples: list[Sample], batch_size: int, workers: int
) -> None:
    detector = GreyDetector()
    done: list[int] = []
    found = run_detector(samples, detector, SPEC, batch_size=batch_size, workers=workers, on_progress=done.append)
    assert len(found) == 11
    for index, (sample, of_image) in enumerate(zip(samples, found, strict=True)):
        height, width = sample.image_size
        np.testing.assert_allclose(of_image.boxes, [[width / 2, 0, width, height]], rtol=1e-6)
        # Grey levels are 10 apart; float32 rounding of the normalisation is far below 0.1 of one.
        np.testing.assert_allclose(of_image.scores * 256 - 1, [10 * index], atol=0.1)
        assert of_image.labels.tolist() == [1]
    # The last batch is not padded.
    assert detector.batch_sizes == [batch_size] * (11 // batch_size) + [11 % batch_size] * (11 % batch_size > 0)
    assert done == np.cumsum(detector.batch_sizes).tolist()


def test_the_network_sees_what_preprocess_makes(samples: list[Sample]) -> None:
    seen = []

    def predict(images: NDArray[np.float32]) -> PaddedDetections:
        seen.append(images.copy())
        return GreyDetector()(images)

    run_detector(samples, predict, SPEC, batch_size=4)
    expected = np.stack([preprocess(sample.load_image(), SPEC) for sample in samples])
    assert (np.concatenate(seen) == expected).all()


@pytest.mark.parametrize("broken", [0, 5, 10])
def test_a_broken_image_stops_the_run_and_is_named(samples: list[Sample], broken: int) -> None:
    samples[broken].path.write_bytes(b"")
    with pytest.raises(ImageError, match=rf"/{broken}\.png: the file is empty"):
        run_detector(samples, GreyDetector(), SPEC, batch_size=4)


def test_an_image_of_another_size_stops_the_run_and_is_named(samples: list[Sample]) -> None:
    cv2.imwrite(str(samples[7].path), np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"/7\.png: the image is 6x5 pixels"):
        run_detector(samples, GreyDetector(), SPEC, batch_size=4)


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DatasetError, match="no images to evaluate"):
        run_detector([], GreyDetector(), SPEC)


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 1), (1, 0)])
def test_batches_and_workers_below_one_are_refused(samples: list[Sample], batch_size: int, workers: int) -> None:
    with pytest.raises(ValueError, match="must be 1 or more"):
        run_detector(samples, GreyDetector(), SPEC, batch_size=batch_size, workers=workers)


def test_images_load_ahead_by_one_batch_and_no_further(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    load = Sample.load_image

    def counting_load(sample: Sample) -> NDArray[np.uint8]:
        loaded.append(sample.image_id)
        return load(sample)

    monkeypatch.setattr(Sample, "load_image", counting_load)
    done: list[int] = []

    def predict(images: NDArray[np.float32]) -> PaddedDetections:
        done.append(len(images))
        allowed = min(sum(done) + 3, len(samples))
        deadline = time.monotonic() + 10
        while len(loaded) < allowed and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # long enough to load more, were it allowed
        assert len(loaded) == allowed
        return GreyDetector()(images)

    run_detector(samples, predict, SPEC, batch_size=3, workers=2)
    assert done == [3, 3, 3, 2]


def test_an_error_in_the_network_leaves_no_threads_behind(samples: list[Sample]) -> None:
    def fail(images: NDArray[np.float32]) -> PaddedDetections:
        raise RuntimeError("out of memory")

    # The traceback keeps the loop's frame alive, and with it the generator that owns the threads.
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run_detector(samples, fail, SPEC, batch_size=2)
    assert caught.tb is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]


def one_row_short(images: NDArray[np.float32]) -> PaddedDetections:
    boxes, scores, labels = GreyDetector()(images)
    return PaddedDetections(boxes[:-1], scores[:-1], labels[:-1])


def label_out_of_range(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.labels[0, 0] = 3
    return answer


def nan_score(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.scores[-1, 0] = np.nan
    return answer


def minus_two_as_label(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.labels[0, 1] = -2
    return answer


def nan_score_without_a_label(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.scores[0, 0], answer.labels[0, 0] = np.nan, -1
    return answer


def score_without_a_label(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.labels[0, 0] = -1
    return answer


def box_without_a_label(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.scores[0, 0], answer.labels[0, 0] = -1, -1
    return answer


def label_without_a_score(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.scores[0, 0] = -1
    return answer


def boxes_of_three_numbers(images: NDArray[np.float32]) -> PaddedDetections:
    boxes, scores, labels = GreyDetector()(images)
    return PaddedDetections(boxes[:, :, :3], scores, labels)


def fewer_scores_than_labels(images: NDArray[np.float32]) -> PaddedDetections:
    boxes, scores, labels = GreyDetector()(images)
    return PaddedDetections(boxes, scores[:, :-1], labels)


def infinite_box(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.boxes[-1, 0, 2] = np.inf
    return answer


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (one_row_short, "tiny: the backend answered with 3 images for 4"),
        (label_out_of_range, "label 3 .*but there are 3 classes"),
        (minus_two_as_label, "label -2 .*but there are 3 classes"),
        (nan_score_without_a_label, "not finite"),
        (score_without_a_label, "neither detections nor all -1"),
        (box_without_a_label, "neither detections nor all -1"),
        (label_without_a_score, "neither detections nor all -1"),
        (boxes_of_three_numbers, r"boxes \(4, 3, 3\).*expected \(N, K, 4\)"),
        (fewer_scores_than_labels, r"scores \(4, 2\) and labels \(4, 3\)"),
        (nan_score, "not finite"),
        (infinite_box, "not finite"),
    ],
)
def test_an_impossible_answer_is_an_error_that_names_the_images(
    samples: list[Sample], predict: Predict, message: str
) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        run_detector(samples, predict, SPEC, batch_size=4)
    assert "0.png to 3.png" in str(caught.value)


# --- Images that are no samples of a data set ---


def read(path: Path) -> NDArray[np.uint8]:
    if path.name in ("0.png", "5.png", "6.png", "7.png"):
        raise ImageError(f"{path.name}: broken")
    return load_image(path)


def test_what_cannot_be_read_is_told_in_order_and_the_others_go_on(samples: list[Sample]) -> None:
    paths = [sample.path for sample in samples]
    detector, failed, done = GreyDetector(), [], []
    found = detect_images(
        paths, read, detector, SPEC, name_of=str, batch_size=3, keep_images=True,
        on_failed=lambda path, error: failed.append((path.name, str(error))), on_progress=done.append,
    )  # fmt: skip
    names = []
    for of_image in found:
        names.append(of_image.item.name)
        np.testing.assert_array_equal(of_image.image, load_image(of_image.item))
        np.testing.assert_allclose(of_image.detections.scores * 256 - 1, [of_image.image[0, 0, 0]], atol=0.1)
    assert names == [f"{index}.png" for index in (1, 2, 3, 4, 8, 9, 10)]
    assert failed == [(f"{index}.png", f"{index}.png: broken") for index in (0, 5, 6, 7)]
    # The batches are those of the items, and what is left of them is run.
    assert detector.batch_sizes == [2, 2, 1, 2]
    assert done == [3, 6, 9, 11]


def test_a_batch_of_which_nothing_is_left_is_not_run(samples: list[Sample]) -> None:
    detector = GreyDetector()
    paths = [sample.path for sample in samples[5:8]]
    assert not list(detect_images(paths, read, detector, SPEC, name_of=str, on_failed=lambda *_: None))
    assert detector.batch_sizes == []


def test_without_someone_to_tell_the_first_broken_image_ends_the_run(samples: list[Sample]) -> None:
    with pytest.raises(ImageError, match=r"0\.png: broken"):
        list(detect_images([sample.path for sample in samples], read, GreyDetector(), SPEC, name_of=str))


def test_no_items_are_no_detections_and_images_are_dropped_unless_they_are_to_be_kept(samples: list[Sample]) -> None:
    assert not list(detect_images([], read, GreyDetector(), SPEC, name_of=str))
    (found,) = detect_images([samples[1].path], read, GreyDetector(), SPEC, name_of=str)
    assert found.image.size == 0


def test_who_stops_early_ends_the_threads_by_closing(samples: list[Sample]) -> None:
    paths = [sample.path for sample in samples[1:5]]
    found = detect_images(paths, read, GreyDetector(), SPEC, name_of=str, batch_size=1)
    next(found)
    found.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("load")]
