import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.boxes import iou
from ssd_train.datasets.dataset import GroundTruth, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.scored import Scored
from ssd_train.metrics.voc_ap import voc_average_precision

# Boxes far from each other, so that each overlaps itself alone.
A, B, C, FAR = ((0, 0, 10, 10), (100, 0, 110, 10), (200, 0, 210, 10), (900, 900, 910, 910))


def truth_of(*rows: tuple[Any, ...]) -> GroundTruth:
    """Rows are box, label and optionally flags, `difficult` or `crowd`."""
    return make_ground_truth([
        {
            "box": box,
            "label": label,
            "is_difficult": "difficult" in flags,
            "is_crowd": "crowd" in flags,
            "area": 1.0,
        }
        for box, label, *flags in rows
    ])  # fmt: skip


def found_of(*rows: tuple[Any, ...]) -> Detections:
    """Rows are box, label and score."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int64),
    )


def of_each(result: Scored, key: str) -> dict[str, float]:
    return {name: numbers[key] for name, numbers in result.per_class.items()}


def test_golden_flags_true_duplicate_and_ignored() -> None:
    # Golden vector 9, from GluonCV: 0.9 hits, 0.8 repeats it, 0.7 hits the difficult object, the third is missed.
    result = voc_average_precision(
        [truth_of((A, 0), (B, 0, "difficult"), (C, 0))],
        [found_of((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7))],
        ("thing",),
    )
    assert result.per_class["thing"]["AP07"] == pytest.approx(6 / 11, abs=1e-12)
    assert result.per_class["thing"]["AP12"] == pytest.approx(0.5, abs=1e-12)
    assert of_each(result, "objects") == {"thing": 2}


def test_a_recall_of_exactly_three_tenths_does_not_reach_the_fourth_point() -> None:
    boxes = [(100 * index, 0, 100 * index + 10, 10) for index in range(10)]
    result = voc_average_precision(
        [truth_of(*((box, 0) for box in boxes))],
        [found_of(*((box, 0, 0.9 - index / 10) for index, box in enumerate(boxes[:3])))],
        ("thing",),
    )
    # np.arange(0, 1.1, 0.1)[3] is 0.30000000000000004; recalls 0.1 and 0.2 reach their points.
    assert result.per_class["thing"]["AP07"] == pytest.approx(3 / 11, abs=1e-12)
    assert result.per_class["thing"]["AP12"] == pytest.approx(0.3, abs=1e-12)


def test_an_overlap_of_exactly_one_half_matches_and_less_does_not() -> None:
    truth = [truth_of(((0, 0, 10, 10), 0))]
    assert voc_average_precision(truth, [found_of(((0, 0, 10, 5), 0, 0.9))], ("a",)).numbers["VOC07 mAP"] == 1
    assert voc_average_precision(truth, [found_of(((0, 0, 10, 4.99), 0, 0.9))], ("a",)).numbers["VOC07 mAP"] == 0


def test_there_is_no_second_choice_after_a_taken_object() -> None:
    # Both detections overlap the first object most; the second object overlaps them by 0.6 / 1.0.
    first, second = (0, 0, 10, 10), (0, 0, 10, 6)
    result = voc_average_precision(
        [truth_of((first, 0), (second, 0))], [found_of((first, 0, 0.9), ((0, 0, 10, 9), 0, 0.8))], ("a",)
    )
    assert result.per_class["a"]["AP12"] == pytest.approx(0.5)


def test_the_first_of_two_equally_overlapped_objects_decides() -> None:
    found = [found_of((A, 0, 0.9))]
    for rows, expected in (
        (((A, 0, "difficult"), (A, 0)), 0.0),
        (((A, 0), (A, 0, "difficult")), 1.0),
    ):
        assert voc_average_precision([truth_of(*rows)], found, ("a",)).numbers["VOC12 mAP"] == expected


def test_crowd_objects_are_ignored_like_difficult_ones() -> None:
    result = voc_average_precision(
        [truth_of((A, 0, "crowd"), (B, 0))], [found_of((A, 0, 0.9), (A, 0, 0.8), (B, 0, 0.7))], ("a",)
    )
    assert result.numbers["VOC07 mAP"] == 1
    assert of_each(result, "objects") == {"a": 1}


def test_a_detection_of_another_class_or_image_matches_nothing() -> None:
    truths = [truth_of((A, 0)), truth_of((B, 1))]
    found = [found_of((A, 1, 0.9), (B, 0, 0.9)), found_of((A, 0, 0.9))]
    result = voc_average_precision(truths, found, ("a", "b"))
    assert of_each(result, "AP07") == {"a": 0, "b": 0}


def test_a_class_without_positives_is_nan_and_left_out_of_the_mean() -> None:
    result = voc_average_precision(
        [truth_of((A, 0), (B, 1, "difficult"))],
        [found_of((A, 0, 0.9), (B, 1, 0.8), (C, 2, 0.7))],
        ("a", "b", "c"),
    )
    assert np.isnan([result.per_class[name][ap] for name in ("b", "c") for ap in ("AP07", "AP12")]).all()
    assert result.numbers["VOC07 mAP"] == result.numbers["VOC12 mAP"] == 1
    assert of_each(result, "objects") == {"a": 1, "b": 0, "c": 0}


def test_a_class_that_is_never_detected_scores_zero() -> None:
    result = voc_average_precision([truth_of((A, 0), (B, 1))], [found_of((A, 0, 0.9))], ("a", "b"))
    assert of_each(result, "AP07") == {"a": 1, "b": 0}
    assert result.numbers["VOC12 mAP"] == 0.5
    assert voc_average_precision([truth_of((A, 0))], [Detections.empty()], ("a",)).numbers["VOC07 mAP"] == 0


def test_equal_scores_rank_in_order_or_reversed() -> None:
    truths = [truth_of((A, 0)), truth_of()]
    found = [found_of((A, 0, 0.5)), found_of((FAR, 0, 0.5))]
    # True before false: precision 1 at recall 1. False before true: 1/2.
    assert voc_average_precision(truths, found, ("a",)).numbers["VOC12 mAP"] == 1
    assert voc_average_precision(truths, found, ("a",), later_first_on_ties=True).numbers["VOC12 mAP"] == 0.5


def test_equal_scores_in_one_image_are_reversed_twice() -> None:
    # GluonCV reverses the rows of the image (false, hit, repeated hit) and then the list of all images:
    # repeated hit (false), hit, false. Precision is 1/2 at the hit; reversed once it would be 1/3.
    truths, found = [truth_of((A, 0))], [found_of((A, 0, 0.5), (A, 0, 0.5), (FAR, 0, 0.5))]
    assert voc_average_precision(truths, found, ("a",)).numbers["VOC12 mAP"] == 1
    assert voc_average_precision(truths, found, ("a",), later_first_on_ties=True).numbers["VOC12 mAP"] == 0.5


def test_nothing_to_score_is_an_error_not_a_number() -> None:
    with pytest.raises(DatasetError, match="no images"):
        voc_average_precision([], [], ("a",))
    with pytest.raises(DatasetError, match="no object that counts"):
        voc_average_precision([truth_of()], [found_of((A, 0, 0.5))], ("a",))
    with pytest.raises(DatasetError, match="1 difficult or crowd"):
        voc_average_precision([truth_of((A, 0, "difficult"))], [Detections.empty()], ("a",))
    with pytest.raises(ValueError, match="2 images were detected, but 1 are annotated"):
        voc_average_precision([truth_of((A, 0))], [Detections.empty()] * 2, ("a",))


def devkit_average_precision(
    truths: list[GroundTruth], detections: list[Detections], label: int
) -> tuple[float, float]:
    """VOCevaldet.m and VOCap.m of the devkit, loop by loop, on 1-based inclusive corners."""
    objects: list[list[dict[str, Any]]] = [
        [
            {"box": (box[0] + 1, box[1] + 1, box[2], box[3]), "difficult": bool(difficult), "taken": False}
            for box, of_class, difficult in zip(truth.boxes.tolist(), truth.labels, truth.is_difficult, strict=True)
            if of_class == label
        ]
        for truth in truths
    ]
    positives = sum(not each["difficult"] for of_image in objects for each in of_image)
    rows = [
        (float(score), image, (box[0] + 1, box[1] + 1, box[2], box[3]))
        for image, found in enumerate(detections)
        for box, score, of_class in zip(found.boxes.tolist(), found.scores, found.labels, strict=True)
        if of_class == label
    ]
    true, false = 0, 0
    recall, precision = [], []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        best: dict[str, Any] | None = None
        best_overlap = -np.inf
        for each in objects[image]:
            other = each["box"]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                union = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, other)) - width * height
                if width * height / union > best_overlap:
                    best, best_overlap = each, width * height / union
        if best is not None and best_overlap >= 0.5:
            if best["difficult"]:
                continue
            true, false = (true, false + 1) if best["taken"] else (true + 1, false)
            best["taken"] = True
        else:
            false += 1
        recall.append(true / positives)
        precision.append(true / (true + false))
    eleven = [
        max((p for r, p in zip(recall, precision, strict=True) if r >= point), default=0.0)
        for point in np.arange(0.0, 1.1, 0.1)
    ]
    recall, precision = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    area = sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
    return sum(eleven) / 11, area


def crowded_images(seed: int, count: int) -> tuple[list[GroundTruth], list[Detections]]:
    """Integer boxes, most detections beside an object: many duplicates and equal overlaps, but unique scores."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(count * 30).astype(np.float32) / (count * 30) + 0.01
    truths, detections = [], []
    for image in range(count):
        objects = rng.integers(1, 8)
        low = rng.integers(0, 20, (objects, 2))
        boxes = np.hstack([low, low + rng.integers(2, 9, low.shape)])
        labels = rng.integers(0, 3, objects)
        flags = [["difficult"] if each else [] for each in rng.random(objects) < 0.2]
        truths.append(truth_of(*((box, label, *flag) for box, label, flag in zip(boxes, labels, flags, strict=True))))
        chosen = rng.integers(0, objects, rng.integers(0, 30))
        moved = boxes[chosen] + rng.integers(-1, 2, (len(chosen), 4))
        relabelled = np.where(rng.random(len(chosen)) < 0.2, rng.integers(0, 3, len(chosen)), labels[chosen])
        detections.append(found_of(*zip(moved, relabelled, scores[image * 30 : image * 30 + len(chosen)], strict=True)))
    return truths, detections


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_score_as_the_devkit_scores_them(seed: int) -> None:
    truths, detections = crowded_images(seed, 25)
    result = voc_average_precision(truths, detections, ("a", "b", "c"))
    for label, name in enumerate("abc"):
        eleven, area = devkit_average_precision(truths, detections, label)
        assert 0.1 < eleven < 0.95
        assert 0.1 < area < 0.95
        assert result.per_class[name]["AP07"] == pytest.approx(eleven, abs=1e-12)
        assert result.per_class[name]["AP12"] == pytest.approx(area, abs=1e-12)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_finding_every_object_first_scores_one_whatever_else_is_found_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = [(100 * index, 0, 100 * index + 10, 10) for index in range(rng.integers(1, 6))]
    extra = [(FAR, 0, 0.1)] * int(rng.integers(0, 4))
    found = found_of(*((box, 0, 0.5 + rng.random() / 2) for box in boxes), *extra)
    result = voc_average_precision([truth_of(*((box, 0) for box in boxes))], [found], ("a",))
    assert result.numbers["VOC07 mAP"] == pytest.approx(1, abs=1e-12)
    assert result.numbers["VOC12 mAP"] == pytest.approx(1, abs=1e-12)


def test_overlap_of_boxes_without_area_is_zero() -> None:
    boxes = np.array([[5, 5, 5, 5], [9, 9, 1, 1], [0, 0, 10, 10]], np.float32)
    assert iou(boxes, boxes).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert iou(np.zeros((0, 4)), boxes).shape == (0, 3)


def test_a_set_as_large_as_voc_2007_test_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((4952, 100, 2)) * 400
    boxes = np.concatenate([low, low + rng.random(low.shape) * 100 + 1], axis=2).astype(np.float32)
    labels = rng.integers(0, 20, (4952, 100))
    scores = rng.random((4952, 100)).astype(np.float32)
    detections = [Detections(*arrays) for arrays in zip(boxes, scores, labels, strict=True)]
    truth = truth_of((A, 0), (B, 1), (C, 2))
    start = time.perf_counter()
    voc_average_precision([truth] * 4952, detections, tuple("abcdefghijklmnopqrst"))
    # About 0.5 s on two cores; a loop over images, classes and boxes takes minutes.
    assert time.perf_counter() - start < 10
