"""What went wrong, named by hand."""

import numpy as np
import pytest

from ssd_train.datasets.dataset import GroundTruth, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.metrics.matching import match_image
from ssd_train.metrics.mistakes import KINDS, Mistake, find_mistakes

CAT, DOG = 0, 1
SQUARE = [0.0, 0.0, 10.0, 10.0]


def truth_of(*rows: tuple[list[float], int, str]) -> GroundTruth:
    return make_ground_truth(
        [
            {"box": box, "label": label, "is_difficult": kind == "difficult", "is_crowd": kind == "crowd", "area": 1.0}
            for box, label, kind in rows
        ]
    )


def mistakes_of(truth: GroundTruth, *rows: tuple[list[float], float, int]) -> list[Mistake]:
    found = Detections.empty()
    if rows:
        boxes, scores, labels = zip(*rows, strict=True)
        found = Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64))
    return find_mistakes(truth, found, match_image(truth, found))


def kinds(mistakes: list[Mistake]) -> list[tuple[str, int | None, int | None]]:
    return [(mistake.kind, mistake.detection, mistake.object) for mistake in mistakes]


def test_what_is_right_is_no_mistake() -> None:
    assert mistakes_of(truth_of((SQUARE, CAT, "")), (SQUARE, 0.9, CAT)) == []
    assert mistakes_of(truth_of()) == []


@pytest.mark.parametrize(
    ("box", "label", "kind", "iou"),
    [
        # 5 of 10 rows overlap the object by exactly 0.5, 4.9 by 0.49, 1 by 0.1, 0.9 by 0.09.
        ([0, 0, 10, 5], DOG, "wrong class", 0.5),
        ([0, 0, 10, 4.9], CAT, "bad box", 0.49),
        ([0, 0, 10, 1], CAT, "bad box", 0.1),
    ],
)
def test_a_wrong_detection_that_is_about_an_object_explains_it(
    box: list[float], label: int, kind: str, iou: float
) -> None:
    (mistake,) = mistakes_of(truth_of((SQUARE, CAT, "")), (box, 0.9, label))
    assert (mistake.kind, mistake.detection, mistake.object) == (kind, 0, 0)
    assert mistake.iou == pytest.approx(iou) and mistake.label == label and mistake.score == pytest.approx(0.9)


@pytest.mark.parametrize(("box", "label"), [([0, 0, 10, 0.9], CAT), ([0, 0, 10, 4.9], DOG), ([50, 50, 60, 60], CAT)])
def test_a_detection_of_nothing_is_false_and_the_object_is_missed(box: list[float], label: int) -> None:
    found = mistakes_of(truth_of((SQUARE, CAT, "")), (box, 0.9, label))
    assert kinds(found) == [("false", 0, None), ("missed", None, 0)]
    assert found[1].box == (0, 0, 10, 10) and found[1].score is None and found[1].label == CAT


def test_a_second_detection_of_an_object_is_a_duplicate() -> None:
    truth = truth_of((SQUARE, CAT, ""))
    assert kinds(mistakes_of(truth, ([0, 0, 10, 8], 0.9, CAT), (SQUARE, 0.8, CAT))) == [("duplicate", 1, 0)]


def test_a_duplicate_comes_before_a_wrong_class_and_that_before_a_bad_box() -> None:
    # Both objects are found; the third detection, a cat, lies on both.
    both = truth_of((SQUARE, CAT, ""), ([0, 0, 10, 9], DOG, ""))
    found = mistakes_of(both, (SQUARE, 0.9, CAT), ([0, 0, 10, 9], 0.8, DOG), ([0, 0, 10, 9.5], 0.7, CAT))
    assert kinds(found) == [("duplicate", 2, 0)]
    # A cat on a dog exactly, and over a cat by 0.2.
    apart = truth_of(([0, 8, 10, 18], DOG, ""), ([0, 14, 10, 26], CAT, ""))
    found = mistakes_of(apart, ([0, 8, 10, 18], 0.9, CAT))
    assert kinds(found) == [("wrong class", 0, 0), ("missed", None, 1)]


def test_an_object_that_was_found_stays_found_whatever_else_lies_on_it() -> None:
    truth = truth_of((SQUARE, CAT, ""))
    assert kinds(mistakes_of(truth, (SQUARE, 0.9, CAT), (SQUARE, 0.8, DOG))) == [("wrong class", 1, 0)]


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_objects_that_do_not_count_are_neither_missed_nor_an_excuse(kind: str) -> None:
    truth = truth_of((SQUARE, CAT, kind))
    assert mistakes_of(truth) == []
    assert mistakes_of(truth, (SQUARE, 0.9, CAT)) == []
    assert kinds(mistakes_of(truth, (SQUARE, 0.9, DOG))) == [("false", 0, None)]


@pytest.mark.parametrize("seed", range(20))
def test_every_wrong_detection_has_one_kind_and_every_object_is_accounted_for(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 12, (16, 2))
    boxes = np.concatenate([corners, corners + random.integers(2, 9, (16, 2))], axis=1).astype(np.float32)
    labels = random.integers(0, 2, 16)
    truth = truth_of(*((boxes[i].tolist(), int(labels[i]), "") for i in range(7)))
    found = Detections(boxes[7:], np.linspace(0.9, 0.1, 9).astype(np.float32), labels[7:])
    matches = match_image(truth, found)
    mistakes = find_mistakes(truth, found, matches)
    of_detections = [mistake.detection for mistake in mistakes if mistake.detection is not None]
    assert of_detections == np.flatnonzero(matches.is_false).tolist()
    missed = {mistake.object for mistake in mistakes if mistake.kind == "missed"}
    explained = {mistake.object for mistake in mistakes if mistake.kind in ("wrong class", "bad box")}
    taken = set(matches.objects[matches.is_true].tolist())
    assert missed | explained | taken == set(range(7))
    assert not missed & (explained | taken)
    assert {mistake.kind for mistake in mistakes} <= set(KINDS)
