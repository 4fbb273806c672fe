"""Matching at an IoU of 0.5, against pycocotools and by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_train.boxes import xyxy_to_xywh
from ssd_train.datasets.dataset import GroundTruth, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.metrics.matching import match_image


def truth_of(*rows: tuple[list[float], int, str]) -> GroundTruth:
    return make_ground_truth(
        [
            {"box": box, "label": label, "is_difficult": kind == "difficult", "is_crowd": kind == "crowd", "area": 1.0}
            for box, label, kind in rows
        ]
    )


def found_of(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64))


def test_a_second_detection_of_an_object_is_false() -> None:
    matches = match_image(
        truth_of(([0, 0, 10, 10], 0, "")), found_of(([0, 0, 10, 9], 0.9, 0), ([0, 0, 10, 10], 0.8, 0))
    )
    assert matches.is_true.tolist() == [True, False]
    assert matches.is_false.tolist() == [False, True]


def test_half_an_overlap_matches_and_less_does_not() -> None:
    truth = truth_of(([0, 0, 10, 10], 0, ""))
    assert match_image(truth, found_of(([0, 0, 10, 5], 0.9, 0))).is_true.tolist() == [True]
    assert match_image(truth, found_of(([0, 0, 10, 4.9], 0.9, 0))).is_true.tolist() == [False]


def test_another_class_does_not_match() -> None:
    assert match_image(truth_of(([0, 0, 10, 10], 0, "")), found_of(([0, 0, 10, 10], 0.9, 1))).is_false.all()


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_what_only_an_ignored_object_matches_is_ignored_however_often(kind: str) -> None:
    matches = match_image(
        truth_of(([0, 0, 10, 10], 0, kind)), found_of(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 9], 0.8, 0))
    )
    assert matches.is_ignored.all() and not matches.is_true.any() and not matches.is_false.any()


def test_a_small_detection_inside_a_crowd_is_ignored() -> None:
    found = found_of(([2, 2, 4, 4], 0.9, 0))
    assert match_image(truth_of(([0, 0, 100, 100], 0, "crowd")), found).is_ignored.all()
    assert match_image(truth_of(([0, 0, 100, 100], 0, "difficult")), found).is_false.all()


def test_an_object_that_counts_comes_before_an_ignored_one_that_fits_better() -> None:
    truth = truth_of(([0, 0, 10, 10], 0, "difficult"), ([0, 0, 10, 7], 0, ""))
    assert match_image(truth, found_of(([0, 0, 10, 10], 0.9, 0))).objects.tolist() == [1]


def test_nothing_found_and_nothing_there() -> None:
    assert len(match_image(truth_of(([0, 0, 1, 1], 0, "")), Detections.empty()).objects) == 0
    assert match_image(truth_of(), found_of(([0, 0, 1, 1], 0.5, 0))).is_false.tolist() == [True]


def pycocotools_matches(truth: GroundTruth, found: Detections, classes: int) -> tuple[NDArray[np.bool_], ...]:
    """Return what pycocotools makes of each detection at its first IoU: true, and ignored."""
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 1}],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": [
            {
                "id": index + 1, "image_id": 1, "category_id": int(truth.labels[index]),
                "iscrowd": int(truth.is_crowd[index]), "bbox": xyxy_to_xywh(truth.boxes)[index].tolist(), "area": 1.0,
            }
            for index in range(len(truth))
        ],
    }  # fmt: skip
    coco.createIndex()
    boxes = xyxy_to_xywh(found.boxes.astype(np.float64))
    results = [
        {"image_id": 1, "category_id": int(label), "bbox": box.tolist(), "score": float(score)}
        for box, score, label in zip(boxes, found.scores, found.labels, strict=True)
    ]
    evaluated = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluated.params.areaRng, evaluated.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluated.evaluate()
    is_true, is_ignored = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for of_class in filter(None, evaluated.evalImgs):
        rows = np.array(of_class["dtIds"], int) - 1
        ignored = of_class["dtIgnore"][0].astype(bool)
        is_ignored[rows] = ignored
        is_true[rows] = (of_class["dtMatches"][0] > 0) & ~ignored
    return is_true, is_ignored


@pytest.mark.parametrize("seed", range(40))
def test_any_image_is_matched_as_pycocotools_does(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 12, (14, 2))
    boxes = np.concatenate([corners, corners + random.integers(2, 9, (14, 2))], axis=1).astype(float)
    labels = random.integers(0, 2, 14)
    kinds = ["crowd" if value < 0.2 else "" for value in random.random(6)]
    truth = truth_of(*((boxes[i].tolist(), int(labels[i]), kinds[i]) for i in range(6)))
    # Scores that differ: pycocotools orders equal ones as it pleases.
    scores = random.permutation(8) / 10 + 0.05
    found = found_of(*((boxes[i + 6].tolist(), float(scores[i]), int(labels[i + 6])) for i in range(8)))
    matches = match_image(truth, found)
    is_true, is_ignored = pycocotools_matches(truth, found, 2)
    assert matches.is_true.tolist() == is_true.tolist()
    assert matches.is_ignored.tolist() == is_ignored.tolist()


def test_leaving_out_low_scores_changes_nothing_above_them() -> None:
    truth = truth_of(([0, 0, 10, 10], 0, ""), ([0, 0, 10, 12], 0, ""))
    found = found_of(([0, 0, 10, 11], 0.9, 0), ([0, 0, 10, 10], 0.5, 0), ([0, 0, 10, 12], 0.3, 0))
    whole, part = match_image(truth, found), match_image(truth, found.select(np.array([True, True, False])))
    assert whole.objects[:2].tolist() == part.objects.tolist()


def test_matches_of_what_thresholds_leave_are_those_that_were_found_with_the_rest() -> None:
    truth = truth_of(([0, 0, 10, 10], 0, ""), ([0, 0, 10, 12], 0, ""), ([20, 0, 30, 10], 1, "crowd"))
    found = found_of(
        ([0, 0, 10, 11], 0.9, 0), ([20, 0, 30, 10], 0.7, 1), ([0, 0, 10, 10], 0.5, 0), ([20, 0, 25, 5], 0.4, 1)
    )
    rows = np.array([0, 1, 3])
    selected, alone = match_image(truth, found).select(rows), match_image(truth, found.select(rows))
    for name in ("objects", "is_true", "is_ignored"):
        assert getattr(selected, name).tolist() == getattr(alone, name).tolist()
