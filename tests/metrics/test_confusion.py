"""The confusion matrix, counted by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.datasets.dataset import GroundTruth, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.metrics.confusion import MOST_ROWS, confusion_matrix, matrix_rows

CAT, DOG, BACKGROUND = 0, 1, 2


def truth_of(*rows: tuple[list[float], int, str]) -> GroundTruth:
    return make_ground_truth(
        [
            {"box": box, "label": label, "is_difficult": kind == "difficult", "is_crowd": kind == "crowd", "area": 1.0}
            for box, label, kind in rows
        ]
    )


def found_of(*rows: tuple[list[float], float, int]) -> Detections:
    if not rows:
        return Detections.empty()
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64))


def matrix_of(truth: GroundTruth, found: Detections) -> NDArray[np.int64]:
    return confusion_matrix([truth], [found], 2)


def test_no_image_is_nothing() -> None:
    assert confusion_matrix([], [], 2).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_rows_are_truth_and_columns_are_detections() -> None:
    truth = truth_of(([0, 0, 10, 10], CAT, ""), ([50, 50, 60, 60], CAT, ""), ([80, 80, 90, 90], DOG, ""))
    found = found_of(([0, 0, 10, 10], 0.9, DOG), ([80, 80, 90, 90], 0.8, DOG), ([20, 20, 30, 30], 0.7, CAT))
    #                  cat dog missed
    assert matrix_of(truth, found).tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_pairs_of_one_class_come_before_those_that_overlap_more() -> None:
    # The dog fits the cat exactly, and the cat by 0.6: were overlap first, the cat would have nothing to find.
    truth = truth_of(([0, 0, 10, 10], CAT, ""))
    found = found_of(([0, 0, 10, 10], 0.9, DOG), ([0, 0, 10, 6], 0.5, CAT))
    assert matrix_of(truth, found).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_of_several_the_largest_overlap_is_paired() -> None:
    # Overlaps: first detection 0.6 with the first object, 0.9 with the second; the other detection 0.55 with the first.
    truth = truth_of(([0, 0, 10, 6], CAT, ""), ([0, 0, 10, 9], CAT, ""))
    found = found_of(([0, 0, 10, 10], 0.9, DOG), ([0, 0, 10, 3.3], 0.5, DOG))
    assert matrix_of(truth, found).tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_half_an_overlap_pairs_and_less_does_not() -> None:
    truth = truth_of(([0, 0, 10, 10], CAT, ""))
    assert matrix_of(truth, found_of(([0, 0, 10, 5], 0.9, DOG)))[CAT, DOG] == 1
    assert matrix_of(truth, found_of(([0, 0, 10, 4.9], 0.9, DOG))).tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_each_object_and_each_detection_counts_once() -> None:
    truth = truth_of(([0, 0, 10, 10], CAT, ""))
    found = found_of(([0, 0, 10, 10], 0.9, CAT), ([0, 0, 10, 9], 0.8, CAT))
    assert matrix_of(truth, found).tolist() == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_what_is_to_be_ignored_is_left_out_with_what_finds_it(kind: str) -> None:
    truth = truth_of(([0, 0, 10, 10], CAT, kind))
    assert matrix_of(truth, found_of(([0, 0, 10, 10], 0.9, CAT))).sum() == 0
    # Of another class it finds nothing.
    assert matrix_of(truth, found_of(([0, 0, 10, 10], 0.9, DOG))).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("seed", range(20))
def test_rows_sum_to_objects_and_columns_to_detections(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 12, (16, 2))
    boxes = np.concatenate([corners, corners + random.integers(2, 9, (16, 2))], axis=1).astype(float)
    labels = random.integers(0, 2, 16).tolist()
    truth = truth_of(*((boxes[i].tolist(), labels[i], "") for i in range(7)))
    found = found_of(*((boxes[i].tolist(), 0.9 - i / 100, labels[i]) for i in range(7, 16)))
    matrix = matrix_of(truth, found)
    assert matrix.sum(axis=1)[:2].tolist() == np.bincount(truth.labels, minlength=2).tolist()
    assert matrix.sum(axis=0)[:2].tolist() == np.bincount(found.labels, minlength=2).tolist()
    assert matrix[BACKGROUND, BACKGROUND] == 0


def test_images_add_up_and_do_not_mix() -> None:
    truth, nothing = truth_of(([0, 0, 10, 10], CAT, "")), truth_of()
    found = found_of(([0, 0, 10, 10], 0.9, CAT))
    assert confusion_matrix([truth, nothing], [Detections.empty(), found], 2).tolist() == [
        [0, 0, 1],
        [0, 0, 0],
        [1, 0, 0],
    ]


def test_as_many_detections_as_images() -> None:
    with pytest.raises(ValueError):
        confusion_matrix([truth_of()], [], 2)


def test_of_very_many_classes_those_that_occur_most_have_rows_of_their_own() -> None:
    names = [f"c{label}" for label in range(40_000)]
    box, away = [0, 0, 10, 10], [50, 50, 60, 60]
    truth = truth_of((box, 39_999, ""), (away, 30_000, ""))
    # Every class but the last two once, so that more occur than have rows.
    one_each = [found_of((away, 0.9, label)) for label in range(3000)]
    found = [found_of((box, 0.9, 39_998)), *one_each]
    truths = [truth, *(truth_of() for _ in one_each)]
    truths += [truth_of((box, 39_999, "")), truth_of((box, 30_000, "")), truth_of((box, 39_998, ""))]
    found += [found_of()] * 3
    kept, rows_of = matrix_rows(truths, found, names)
    assert len(kept) == MOST_ROWS and kept[-4:] == (
        "c30000",
        "c39998",
        "c39999",
        f"({40_001 - MOST_ROWS:,} other classes)",
    )
    matrix = confusion_matrix(truths, found, 40_000, rows_of)
    assert matrix.shape == (MOST_ROWS + 1, MOST_ROWS + 1)
    assert matrix[kept.index("c39999"), kept.index("c39998")] == 1
    assert matrix[-1].sum() == 3000 and matrix[-1, -2] == 3000 - (MOST_ROWS - 4)
    assert matrix[:, -1].sum() == 4


def test_of_few_classes_each_has_its_row() -> None:
    kept, rows_of = matrix_rows([truth_of()], [found_of()], ["cat", "dog"])
    assert kept == ("cat", "dog") and rows_of.tolist() == [0, 1]
