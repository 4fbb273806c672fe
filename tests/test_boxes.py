import numpy as np
import pytest

from ssd_train.boxes import areas, clip_boxes, iou, resize_factors, xyxy_to_xywh

BOXES = np.array([[0, 0, 10, 10], [5, 5, 15, 10], [3, 3, 3, 9], [9, 9, 2, 2]], np.float64)


def test_the_area_of_a_box_that_is_inside_out_is_nothing() -> None:
    assert areas(BOXES).tolist() == [100, 50, 0, 0]
    assert areas(np.zeros((0, 4))).tolist() == []


def test_overlaps_are_those_worked_out_by_hand() -> None:
    # 5x5 of the first two boxes is shared, of 100 + 50 - 25.
    assert iou(BOXES[:2], BOXES[:2]).tolist() == [[1, 0.2], [0.2, 1]]
    assert iou(BOXES, BOXES[2:]).tolist() == [[0, 0]] * 4
    assert iou(np.zeros((0, 4)), BOXES).shape == (0, 4)
    assert iou(BOXES.astype(np.float32), BOXES).dtype == np.float64


def test_overlaps_are_to_the_bit_those_of_one_pair_at_a_time() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-50, 300, (2, 40, 2))
    ours, others = np.concatenate([low, low + rng.uniform(-5, 200, low.shape)], axis=2)
    for box, row in zip(ours.tolist(), iou(ours, others).tolist(), strict=True):
        for other, overlap in zip(others.tolist(), row, strict=True):
            width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
            height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
            sizes = [max(each[2] - each[0], 0) * max(each[3] - each[1], 0) for each in (box, other)]
            union = sizes[0] + sizes[1] - width * height
            assert overlap == (width * height / union if union > 0 else 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clipping_keeps_the_type_and_the_argument(dtype: type) -> None:
    boxes = np.array([[-5, 2, 99, 200], [1, 1, 2, 2]], dtype)
    clipped = clip_boxes(boxes, (40, 50))
    assert clipped.tolist() == [[0, 2, 50, 40], [1, 1, 2, 2]]
    assert clipped.dtype == dtype and boxes[0, 0] == -5


def test_sizes_are_height_and_width_and_boxes_x_and_y() -> None:
    assert resize_factors((100, 400), (50, 100)).tolist() == [0.25, 0.5, 0.25, 0.5]
    assert xyxy_to_xywh(np.array([[1.5, 2, 4, 8]])).tolist() == [[1.5, 2, 2.5, 6]]
    assert xyxy_to_xywh(np.zeros((0, 4))).shape == (0, 4)
