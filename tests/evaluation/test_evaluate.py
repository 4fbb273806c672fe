import json
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.datasets.coco import load_coco
from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.datasets.voc import load_voc
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, DatasetError, ImageError
from ssd_train.evaluation.evaluate import Predict, run_detector, score
from ssd_train.evaluation.protocol import Protocol
from ssd_train.files import write_json
from ssd_train.networks.zoo import COCO_CLASSES
from ssd_train.preprocess import preprocess
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


def infinite_box(images: NDArray[np.float32]) -> PaddedDetections:
    answer = GreyDetector()(images)
    answer.boxes[-1, 0, 2] = np.inf
    return answer


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (one_row_short, "tiny: the backend answered with 3 images for 4"),
        (label_out_of_range, "label 3 .*but there are 3 classes"),
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


def scored_dataset(notes: tuple[str, ...] = ()) -> tuple[Dataset, list[Detections]]:
    """Two images of 60x30; one object is found, one repeated, a difficult one and one of class c missed."""
    rows = [
        {"box": (10, 10, 20, 20), "label": 0, "is_difficult": False, "is_crowd": False, "area": 100.0},
        {"box": (30, 10, 40, 20), "label": 0, "is_difficult": True, "is_crowd": False, "area": 100.0},
    ]
    other = [{"box": (0, 0, 1, 20), "label": 2, "is_difficult": False, "is_crowd": False, "area": 20.0}]
    samples = tuple(
        Sample(image_id=name, path=Path(f"{name}.png"), image_size=(30, 60), ground_truth=make_ground_truth(truth))
        for name, truth in (("x", rows), ("y", other))
    )
    dataset = Dataset(
        name="voc test", class_names=("a", "b", "c"), samples=samples, category_ids=(1, 2, 3), notes=notes
    )
    box = np.array([[10, 10, 20, 20]] * 2, np.float32)
    found = Detections(box, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    return dataset, [found, Detections.empty()]


def test_a_voc_report_holds_the_score_and_what_it_means() -> None:
    dataset, found = scored_dataset(("left out 1 objects",))
    report = score(dataset, found, SPEC, metric="voc", protocol=Protocol.STANDARD)
    # Class a: found first, repeated after: 1. Class c: missed: 0. Class b: nothing to find.
    assert report.headline_name == "VOC07 mAP"
    assert report.headline == pytest.approx(0.5)
    assert report.numbers["VOC12 mAP"] == pytest.approx(0.5)
    assert report.per_class["a"] == {"AP07": pytest.approx(1), "AP12": pytest.approx(1), "objects": 1}
    assert np.isnan(report.per_class["b"]["AP07"])
    assert (report.images, report.objects, report.difficult_objects, report.crowd_objects) == (2, 3, 1, 0)
    assert (report.detections, report.capped_images) == (2, 1)
    assert report.notes == ("left out 1 objects",)
    assert report.postprocess["nms_iou_threshold"] == 0.45


def test_a_gluoncv_report_notes_the_objects_its_rule_leaves_out() -> None:
    dataset, found = scored_dataset()
    report = score(dataset, found, SPEC, metric="voc", protocol=Protocol.GLUONCV)
    # The object of class c is one pixel wide.
    assert report.headline == pytest.approx(1)
    assert report.notes == ("left out 1 objects that break GluonCV's bounds rule",)
    assert "gluoncv" in report.protocol_text


def test_the_protocol_decides_which_of_two_equal_scores_ranks_first() -> None:
    dataset, _ = scored_dataset()
    # Class a is found in the first image, and seen in the second where it is not, with the same score.
    box, scores, labels = np.array([[10, 10, 20, 20]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64)
    found = [Detections(box, scores, labels)] * 2
    for protocol, expected in ((Protocol.STANDARD, 1), (Protocol.GLUONCV, 0.5)):
        report = score(dataset, found, SPEC, metric="voc", protocol=protocol)
        assert report.per_class["a"]["AP12"] == pytest.approx(expected)


def test_a_report_is_json_with_unrounded_fractions_and_null_for_undefined(tmp_path: Path) -> None:
    dataset, found = scored_dataset()
    report = score(dataset, found, SPEC, metric="coco", protocol=Protocol.STANDARD)
    write_json(tmp_path / "report.json", report.to_dict())
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["headline"] == content["numbers"]["AP"] == report.headline
    assert content["per_class"]["b"]["AP"] is None
    assert content["protocol"] == "standard"
    assert content["capped_images"] == 1


@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_report_lines_state_score_rules_thresholds_and_notes(metric: str) -> None:
    dataset, found = scored_dataset(("took the size from the file",))
    report = score(dataset, found, SPEC, metric=metric, protocol=Protocol.STANDARD)
    text = "\n".join(report.lines())
    assert report.lines()[0].startswith(f"{report.headline_name} {100 * report.headline:.2f} %")
    for part in (
        "tiny on voc test",
        "protocol standard",
        "score_threshold 0.01",
        "2 images, 3 objects (1 difficult, 0 crowd), 2 detections",
        "1 images at the limit of 2 detections",
        "note: took the size from the file",
        "n/a",
    ):
        assert part in text


def test_a_metric_that_does_not_exist_or_another_class_list_is_refused() -> None:
    dataset, found = scored_dataset()
    with pytest.raises(DatasetError, match="'map' does not exist; choose voc or coco"):
        score(dataset, found, SPEC, metric="map", protocol=Protocol.STANDARD)
    other = DetectorSpec(network="tiny", class_names=("a", "c", "b"), input_size=(30, 60))
    with pytest.raises(DatasetError, match="load the data set with the detector's class list"):
        score(dataset, found, other, metric="voc", protocol=Protocol.STANDARD)
    with pytest.raises(ValueError, match="1 images were detected, but voc test has 2"):
        score(dataset, found[:1], SPEC, metric="voc", protocol=Protocol.STANDARD)


def answers_of(dataset: Dataset, spec: DetectorSpec) -> Predict:
    """A detector that knows the answers: every object that counts, in network-input pixels."""
    order = iter(dataset.samples)

    def predict(images: NDArray[np.float32]) -> PaddedDetections:
        boxes = np.full((len(images), 100, 4), -1, np.float32)
        scores = np.full((len(images), 100), -1, np.float32)
        labels = np.full((len(images), 100), -1, np.int64)
        for row in range(len(images)):
            sample = next(order)
            truth = sample.ground_truth
            counts = ~truth.is_crowd
            found = int(counts.sum())
            scale = np.tile(np.array(spec.input_size[::-1]) / sample.image_size[::-1], 2)
            boxes[row, :found] = truth.boxes[counts] * scale
            scores[row, :found] = 0.9
            labels[row, :found] = truth.labels[counts]
        return PaddedDetections(boxes, scores, labels)

    return predict


def test_a_detector_that_knows_the_answers_scores_one_on_real_coco_images(real_data: Path) -> None:
    spec = DetectorSpec(network="oracle", class_names=COCO_CLASSES, input_size=(300, 300))
    dataset = load_coco(real_data / "coco_tiny", None, COCO_CLASSES)
    found = run_detector(dataset.samples, answers_of(dataset, spec), spec)
    report = score(dataset, found, spec, metric="coco", protocol=Protocol.STANDARD)
    assert report.headline == pytest.approx(1, abs=1e-9)
    assert score(dataset, found, spec, metric="voc", protocol=Protocol.STANDARD).headline == pytest.approx(1)
    # One pixel more costs small boxes their high thresholds.
    assert 0.5 < score(dataset, found, spec, metric="coco", protocol=Protocol.GLUONCV).headline < 1


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_detector_that_knows_the_answers_scores_one_on_real_voc_images(real_data: Path, protocol: Protocol) -> None:
    spec = DetectorSpec(network="oracle", class_names=("RBC", "WBC", "Platelets"), input_size=(300, 300))
    dataset = load_voc(real_data / "bccd", "test", spec.class_names).limited(20)
    found = run_detector(dataset.samples, answers_of(dataset, spec), spec)
    report = score(dataset, found, spec, metric="voc", protocol=protocol)
    assert report.headline == pytest.approx(1, abs=1e-9)
    assert report.objects > 100
