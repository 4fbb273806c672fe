"""The NumPy suppression against PyTorch's, which an exported graph holds."""

import numpy as np
import pytest
import torch

from ssd_train.networks.postprocess import suppress as torch_suppress
from ssd_train.nms import is_settled, rank, suppress


def random_boxes(rng: np.random.Generator, count: int, *, grid: bool) -> np.ndarray:
    """Boxes that overlap a lot; on a grid many pairs have the same overlap, some of them at the threshold."""
    corners = rng.uniform(0, 60, (count, 2))
    sizes = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    return (np.round(boxes / 5) * 5 if grid else boxes).astype(np.float32)


@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("iou_threshold", [0.2, 0.45, 0.5, 0.7])
def test_the_same_boxes_stand_as_in_the_graph(grid: bool, iou_threshold: float) -> None:
    rng = np.random.default_rng(1)
    dropped = 0
    for count in (1, 2, 30, 150):
        boxes, labels = random_boxes(rng, count, grid=grid), rng.integers(0, 3, count)
        kept = suppress(boxes, labels, iou_threshold)
        standing = torch_suppress(torch.tensor(boxes)[None], torch.tensor(labels)[None, :, None], iou_threshold)
        np.testing.assert_array_equal(kept, np.flatnonzero(standing[0, :, 0].numpy() > 0))
        assert is_settled(boxes[kept], labels[kept], iou_threshold)
        assert is_settled(boxes, labels, iou_threshold) == (len(kept) == count)
        dropped += count - len(kept)
    assert dropped > 0


def test_boxes_without_area_suppress_nothing_and_none_are_fine() -> None:
    assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0.45).tolist() == []
    boxes = np.array([[5, 5, 5, 9], [5, 5, 5, 9], [9, 0, 4, 8]], np.float32)
    assert suppress(boxes, np.zeros(3, np.int64), 0.45).tolist() == [0, 1, 2]


def test_an_overlap_of_the_threshold_itself_is_no_reason() -> None:
    # By hand: 10 x 10 and its right half and as much again: shared 50, union 150.
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [5, 0, 15, 10]], np.float32)
    labels = np.array([0, 0, 1])
    assert suppress(boxes, labels, float(np.float32(50) / np.float32(150))).tolist() == [0, 1, 2]
    assert suppress(boxes, labels, 0.33).tolist() == [0, 2]


def test_equal_scores_go_to_the_lower_label_and_then_to_the_earlier_row() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.5, 0.9], np.float32)
    assert rank(scores, np.array([2, 1, 0, 2, 1])).tolist() == [1, 4, 2, 0, 3]
