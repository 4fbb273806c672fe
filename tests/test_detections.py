import numpy as np
import pytest

from ssd_train.detections import Detections, PaddedDetections


def padded_batch() -> PaddedDetections:
    """Two images of three rows: one detection and two."""
    boxes = np.full((2, 3, 4), -1, np.float32)
    boxes[0, 0] = [30, 60, 150, 300]
    boxes[1, 0] = [0, 0, 300, 300]
    boxes[1, 1] = [-30, 10, 330, 20]
    scores = np.array([[0.9, -1, -1], [0.8, 0.7, -1]], np.float32)
    labels = np.array([[2, -1, -1], [0, 1, -1]], np.int64)
    return PaddedDetections(boxes, scores, labels)


def test_padding_is_dropped_and_boxes_scale_to_the_image_by_width_and_height() -> None:
    found = Detections.from_padded(padded_batch(), 0, (300, 300), (600, 150))
    # x is halved (150 wide), y doubled (600 high).
    assert found.boxes.tolist() == [[15, 120, 75, 600]]
    assert found.scores.tolist() == [np.float32(0.9)]
    assert found.labels.tolist() == [2]
    assert [array.dtype for array in (found.boxes, found.scores, found.labels)] == ["float32", "float32", "int64"]


def test_detections_outlive_the_arrays_they_came_from() -> None:
    padded = padded_batch()
    found = Detections.from_padded(padded, 1, (300, 300), (300, 300))
    for array in padded:
        array[:] = 0
    assert len(found) == 2
    assert found.labels.tolist() == [0, 1]
    assert found.scores.min() > 0.6


def test_an_image_without_detections_gives_empty_arrays() -> None:
    boxes, scores, labels = padded_batch()
    padded = PaddedDetections(np.full_like(boxes, -1), np.full_like(scores, -1), np.full_like(labels, -1))
    found = Detections.from_padded(padded, 0, (300, 300), (10, 10))
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert len(Detections.empty()) == 0


def test_clipping_takes_height_and_width_in_that_order_and_changes_no_input() -> None:
    found = Detections.from_padded(padded_batch(), 1, (300, 300), (300, 300))
    assert found.clipped((15, 200)).boxes.tolist() == [[0, 0, 200, 15], [0, 10, 200, 15]]
    assert found.boxes[1].tolist() == [-30, 10, 330, 20]


def test_arrays_that_disagree_and_padding_rows_are_refused() -> None:
    boxes, scores, labels = (array[1] for array in padded_batch())
    with pytest.raises(ValueError, match="not \\(K, 4\\)"):
        Detections(boxes, scores[:2], labels)
    with pytest.raises(ValueError, match="negative label"):
        Detections(boxes, scores, labels)
