from typing import Any

import numpy as np
import pytest

from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.agreement import agreement_ap

SIZE = (100, 200)


def found_of(*rows: tuple[Any, ...]) -> Detections:
    """Rows are box, label and score."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[2] for row in rows], np.float32),
        np.array([row[1] for row in rows], np.int64),
    )


def random_detections(seed: int, count: int, num_classes: int = 5) -> Detections:
    """Boxes of which many reach outside or lie wholly outside the image, with few distinct scores."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-60, 220, (count, 2))
    boxes = np.hstack([low, low + rng.uniform(0, 80, (count, 2))]).astype(np.float32)
    scores = np.sort(rng.integers(1, 9, count) / 10)[::-1].astype(np.float32)
    return Detections(boxes, scores, rng.integers(0, num_classes, count))


@pytest.mark.parametrize("count", [1, 30, 100, 400])
def test_equal_detections_agree_wholly_even_beyond_100_an_image(count: int) -> None:
    found = [found_of(((10, 10, 50, 50), 4, 0.9)), *(random_detections(seed, count) for seed in range(3))]
    assert agreement_ap(found, found, [SIZE] * 4, 5) == pytest.approx(1, abs=1e-9)


def test_400_equal_detections_of_one_class_agree_wholly() -> None:
    found = [random_detections(0, 400, num_classes=1)]
    assert agreement_ap(found, found, [SIZE], 1) == pytest.approx(1, abs=1e-9)


def test_a_shifted_box_agrees_at_the_thresholds_it_passes() -> None:
    # IoU 0.77 passes six of the ten thresholds, in either direction.
    reference, candidate = [found_of(((0, 0, 10, 10), 0, 0.9))], [found_of(((0, 0, 10, 7.7), 0, 0.9))]
    assert agreement_ap(reference, candidate, [SIZE], 2) == pytest.approx(0.6)
    assert agreement_ap(candidate, reference, [SIZE], 2) == pytest.approx(0.6)


def test_a_class_that_only_one_side_finds_lowers_the_agreement() -> None:
    both = ((0, 0, 10, 10), 0, 0.9)
    one, two = [found_of(both)], [found_of(both, ((50, 50, 90, 90), 1, 0.8))]
    # One class agrees wholly, the other not at all.
    assert agreement_ap(one, two, [SIZE], 2) == pytest.approx(0.5)
    assert agreement_ap(two, one, [SIZE], 2) == pytest.approx(0.5)


def test_a_lost_detection_is_seen_in_either_direction() -> None:
    rows = [((20 * index, 0, 20 * index + 10, 10), 0, 0.9 - index / 10) for index in range(4)]
    whole, part = [found_of(*rows)], [found_of(*rows[:2])]
    # Recall 0.5 at precision 1: 51 of COCO's 101 recall points.
    assert agreement_ap(whole, part, [SIZE], 1) == pytest.approx(51 / 101)
    assert agreement_ap(part, whole, [SIZE], 1) == pytest.approx(51 / 101)


def test_one_empty_side_agrees_not_at_all() -> None:
    found = [found_of(((0, 0, 10, 10), 0, 0.9))]
    assert agreement_ap(found, [Detections.empty()], [SIZE], 1) == 0
    assert agreement_ap([Detections.empty()], found, [SIZE], 1) == 0


def test_comparing_nothing_is_an_error() -> None:
    with pytest.raises(DatasetError, match="nothing was compared"):
        agreement_ap([Detections.empty()] * 3, [Detections.empty()] * 3, [SIZE] * 3, 1)
    with pytest.raises(DatasetError, match="nothing was compared"):
        agreement_ap([], [], [], 1)
    outside = [found_of(((300, 10, 400, 50), 0, 0.9))]
    with pytest.raises(DatasetError, match="nothing was compared"):
        agreement_ap(outside, outside, [SIZE], 1)


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="1 reference and 2 candidate images, 2 sizes"):
        agreement_ap([Detections.empty()], [Detections.empty()] * 2, [SIZE] * 2, 1)
