import contextlib
import importlib.metadata
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_train.datasets.dataset import Dataset, GroundTruth, make_ground_truth
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.errors import BackendError, DatasetError
from ssd_train.metrics import coco_ap
from ssd_train.metrics.coco_ap import NUMBER_NAMES, coco_average_precision
from ssd_train.metrics.evaluators import EVALUATORS
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.zoo import COCO_CLASSES
from ssd_train.spec import DetectorSpec


@pytest.fixture(scope="module")
def tiny(real_data: Path) -> Dataset:
    return find_source("coco", real_data / "coco_tiny").load(None, COCO_CLASSES)


def perfect(dataset: Dataset) -> list[Detections]:
    """Every object that is not crowd, exactly."""
    found = []
    for sample in dataset.samples:
        truth = sample.ground_truth
        boxes = truth.boxes[~truth.is_crowd].astype(np.float32)
        found.append(Detections(boxes, np.full(len(boxes), 0.9, np.float32), truth.labels[~truth.is_crowd]))
    return found


def noisy(dataset: Dataset, seed: int) -> list[Detections]:
    """Moved, relabelled, repeated and missing objects with random scores."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in dataset.samples:
        truth = sample.ground_truth
        chosen = rng.integers(0, len(truth), 2 * len(truth))
        sides = truth.boxes[chosen, 2:] - truth.boxes[chosen, :2]
        boxes = truth.boxes[chosen] + rng.normal(0, 0.06, (len(chosen), 4)) * np.tile(sides, 2)
        labels = np.where(rng.random(len(chosen)) < 0.1, rng.integers(0, 80, len(chosen)), truth.labels[chosen])
        order = np.argsort(-(scores := rng.random(len(chosen)).astype(np.float32)))
        found.append(Detections(boxes[order].astype(np.float32), scores[order], labels[order]))
    return found


def official_stats(annotation_file: Path, dataset: Dataset, detections: list[Detections]) -> np.ndarray:
    """pycocotools the usual way: the JSON file itself and a result list."""
    results = [
        {
            "image_id": sample.image_id,
            "category_id": dataset.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for sample, found in zip(dataset.samples, detections, strict=True)
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file))
        evaluated = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return np.array(evaluated.stats)


def test_perfect_detections_of_real_annotations_score_one(tiny: Dataset) -> None:
    truths = [sample.ground_truth for sample in tiny.samples]
    result = coco_average_precision(truths, perfect(tiny), tiny.class_names)
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "ARs"):
        assert result.numbers[name] == pytest.approx(1, abs=1e-9)
    present = {name: of["AP"] for name, of in result.per_class.items() if of["objects"]}
    assert len(present) > 10
    assert all(ap == pytest.approx(1, abs=1e-9) for ap in present.values())
    assert all(np.isnan(of["AP"]) for name, of in result.per_class.items() if name not in present)


@pytest.mark.parametrize(("seed", "evaluator"), [(0, "faster-coco-eval"), (1, "faster-coco-eval"), (0, "pycocotools")])
def test_noisy_detections_score_as_pycocotools_scores_the_json_file(
    tiny: Dataset, real_data: Path, seed: int, evaluator: str
) -> None:
    found = noisy(tiny, seed)
    truths = [sample.ground_truth for sample in tiny.samples]
    result = coco_average_precision(truths, found, tiny.class_names, evaluator=evaluator)
    path = real_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    expected = official_stats(path, tiny, found)
    assert list(result.numbers) == list(NUMBER_NAMES)
    assert 0.2 < result.numbers["AP"] < 0.8
    # Only the rounding of x + width - x differs.
    np.testing.assert_allclose(list(result.numbers.values()), expected, atol=1e-9)
    assert np.nanmean([of["AP"] for of in result.per_class.values()]) == pytest.approx(result.numbers["AP"], abs=1e-9)


def test_every_evaluator_gives_the_same_numbers_class_by_class(tiny: Dataset) -> None:
    found, truths = noisy(tiny, 2), [sample.ground_truth for sample in tiny.samples]
    first, *others = (coco_average_precision(truths, found, tiny.class_names, evaluator=name) for name in EVALUATORS)
    assert others
    for other in others:
        np.testing.assert_allclose(list(other.numbers.values()), list(first.numbers.values()), atol=1e-9, rtol=0)
        for name, expected in first.per_class.items():
            assert other.per_class[name] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_the_evaluator_that_is_asked_for_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    original = COCOeval.evaluate
    monkeypatch.setattr(COCOeval, "evaluate", lambda self: used.append("pycocotools") or original(self))
    coco_average_precision(one_object(), one_detection((0, 0, 10, 10)), ("a", "b"))
    assert used == []
    coco_average_precision(one_object(), one_detection((0, 0, 10, 10)), ("a", "b"), evaluator="pycocotools")
    assert used == ["pycocotools"]


def test_only_what_another_evaluator_computed_says_so() -> None:
    spec = DetectorSpec(network="tiny", class_names=("a",), input_size=(300, 300))
    texts = [coco_ap.describe(Protocol.STANDARD, spec, evaluator=name) for name in EVALUATORS]
    assert texts[0] == coco_ap.describe(Protocol.STANDARD, spec) and "computed" not in texts[0]
    assert texts[1] == f"{texts[0]}; computed by pycocotools {importlib.metadata.version('pycocotools')}"


def test_an_evaluator_that_is_missing_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"The evaluator pycocotools needs pycocotools.*ssd-deploy\[pycocotools\]"):
        coco_average_precision(one_object(), one_detection((0, 0, 10, 10)), ("a", "b"), evaluator="pycocotools")
    with pytest.raises(DatasetError, match="'other' does not exist; choose faster-coco-eval, pycocotools"):
        coco_average_precision(one_object(), one_detection((0, 0, 10, 10)), ("a", "b"), evaluator="other")


def test_positives_are_the_objects_that_are_not_crowd(tiny: Dataset, real_data: Path) -> None:
    result = coco_average_precision([sample.ground_truth for sample in tiny.samples], perfect(tiny), tiny.class_names)
    content = json.loads((real_data / "coco_tiny" / "annotations" / "instances_val2017.json").read_text())
    people = [row for row in content["annotations"] if row["category_id"] == 1 and not row["iscrowd"]]
    assert result.per_class["person"]["objects"] == len(people) > 0
    assert sum(of["objects"] for of in result.per_class.values()) == 592 - 11


def one_object(is_crowd: bool = False, area: float = 100.0) -> list[GroundTruth]:
    box = {"box": (0, 0, 10, 10), "label": 1, "is_difficult": False, "is_crowd": is_crowd, "area": area}
    return [make_ground_truth([box])]


def one_detection(box: tuple[float, ...], label: int = 1) -> list[Detections]:
    return [Detections(np.array([box], np.float32), np.array([0.5], np.float32), np.array([label]))]


def test_an_overlap_of_three_quarters_counts_at_half_of_the_thresholds() -> None:
    # IoU 0.77 passes 0.50, 0.55, ..., 0.75: six of ten thresholds.
    result = coco_average_precision(one_object(), one_detection((0, 0, 10, 7.7)), ("a", "b"))
    assert result.numbers["AP"] == pytest.approx(0.6)
    assert result.numbers["AP50"] == pytest.approx(1)
    assert result.numbers["AP75"] == pytest.approx(1)
    assert result.per_class["b"]["AP"] == pytest.approx(0.6)
    assert np.isnan(result.per_class["a"]["AP"])


def test_size_classes_follow_the_annotated_area_not_the_box() -> None:
    # 32 x 32 = 1024 is the border between small and medium.
    result = coco_average_precision(one_object(area=5000.0), one_detection((0, 0, 10, 10)), ("a", "b"))
    assert np.isnan(result.numbers["APs"])
    assert result.numbers["APm"] == pytest.approx(1)
    assert np.isnan(result.numbers["APl"])


def test_no_detections_score_zero() -> None:
    result = coco_average_precision(one_object(), [Detections.empty()], ("a", "b"))
    assert result.numbers["AP"] == result.numbers["AR100"] == result.per_class["b"]["AP"] == 0


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    coco_average_precision(one_object(), one_detection((0, 0, 10, 10)), ("a", "b"))
    assert capsys.readouterr().out == ""


def test_nothing_to_score_is_an_error_not_a_number() -> None:
    with pytest.raises(DatasetError, match="no images"):
        coco_average_precision([], [], ("a",))
    with pytest.raises(DatasetError, match="no object that counts"):
        coco_average_precision([make_ground_truth([])], one_detection((0, 0, 1, 1)), ("a", "b"))
    with pytest.raises(DatasetError, match="no object that counts"):
        coco_average_precision(one_object(is_crowd=True), [Detections.empty()], ("a", "b"))
    with pytest.raises(ValueError, match="2 images were detected, but 1 are annotated"):
        coco_average_precision(one_object(), [Detections.empty()] * 2, ("a", "b"))
