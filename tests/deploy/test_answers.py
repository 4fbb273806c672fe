"""Two answers to one batch: what rounding explains passes, and nothing else."""

import dataclasses

import numpy as np
import pytest

from ssd_deploy.backends.answers import describe_difference
from ssd_train.detections import PaddedDetections
from ssd_train.spec import DetectorSpec

SPEC = DetectorSpec(network="tiny", class_names=("a", "b"), input_size=(300, 300))


@pytest.fixture
def expected() -> PaddedDetections:
    """Fifty boxes an image in two images, far apart, scores 0.95 down to 0.46, and padding."""
    corner = np.stack(np.divmod(np.arange(50), 8), axis=1).astype(np.float32) * 35
    boxes = np.full((2, 60, 4), -1, np.float32)
    scores, labels = np.full((2, 60), -1, np.float32), np.full((2, 60), -1, np.int64)
    boxes[:, :50] = np.concatenate([corner, corner + 30], axis=1)
    scores[:, :50], labels[:, :50] = 0.95 - np.arange(50) / 100, np.arange(50) % 2
    return PaddedDetections(boxes, scores, labels)


def changed(padded: PaddedDetections, **fields: np.ndarray) -> PaddedDetections:
    return padded._replace(**fields)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "tf32", "int8"])
def test_an_answer_is_the_same_as_itself(expected: PaddedDetections, precision: str) -> None:
    assert describe_difference(expected, expected, dataclasses.replace(SPEC, precision=precision)) is None


@pytest.mark.parametrize(("apart", "precision", "is_same"), [
    (5e-5, "fp32", True), (1e-3, "fp32", False), (1e-3, "fp16", True), (0.1, "fp16", False),
])  # fmt: skip
def test_scores_may_differ_as_the_precision_rounds(
    expected: PaddedDetections, apart: float, precision: str, is_same: bool
) -> None:
    scores = expected.scores.copy()
    scores[1, 49] -= apart
    problem = describe_difference(
        changed(expected, scores=scores), expected, dataclasses.replace(SPEC, precision=precision)
    )
    assert (problem is None) == is_same
    assert is_same or (problem is not None and f"a score differs by {apart:.1e}" in problem)


@pytest.mark.parametrize(("count", "precision", "is_same"), [(2, "fp32", True), (3, "fp32", False), (2, "fp16", True)])
def test_two_detections_may_change_and_no_more(
    expected: PaddedDetections, count: int, precision: str, is_same: bool
) -> None:
    labels = expected.labels.copy()
    labels[0, :count] = 1 - labels[0, :count]
    problem = describe_difference(
        changed(expected, labels=labels), expected, dataclasses.replace(SPEC, precision=precision)
    )
    assert problem is None if is_same else problem == "of its detections 3 of 100 changed (3 changed label)"


def test_what_is_no_number_or_another_shape_is_said(expected: PaddedDetections) -> None:
    boxes = expected.boxes.copy()
    boxes[0, 3, 2] = np.nan
    assert (
        describe_difference(changed(expected, boxes=boxes), expected, SPEC)
        == "its answer has values that are no numbers"
    )
    fewer = PaddedDetections(*(array[:1] for array in expected))
    assert describe_difference(fewer, expected, SPEC) == "its boxes have the shape (1, 60, 4) instead of (2, 60, 4)"


def test_low_scores_are_compared_too_where_there_are_no_others(expected: PaddedDetections) -> None:
    faint = changed(expected, scores=np.where(expected.scores > 0, expected.scores / 20, -1).astype(np.float32))
    moved = changed(faint, boxes=faint.boxes + np.float32(20) * (faint.labels >= 0)[..., None])
    assert describe_difference(faint, faint, SPEC) is None
    assert "of its detections 192 of 192 changed" in (describe_difference(moved, faint, SPEC) or "")


@pytest.mark.parametrize(
    ("total", "count", "is_same"), [(1, 1, False), (3, 1, False), (4, 1, True), (7, 2, False), (8, 2, True)]
)
def test_of_few_detections_fewer_may_change(expected: PaddedDetections, total: int, count: int, is_same: bool) -> None:
    few = PaddedDetections(*(array[:1, :total].copy() for array in expected))
    labels = few.labels.copy()
    labels[0, :count] = 1 - labels[0, :count]
    assert (describe_difference(changed(few, labels=labels), few, SPEC) is None) == is_same
