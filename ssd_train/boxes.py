"""Arithmetic of boxes in NumPy: xyxy corners, continuous, unless a name says otherwise.

Two more overlaps exist, both in PyTorch: `postprocess.pairwise_iou`, whose form an exported graph depends on, and
`targets.anchor_iou`, which works in place since its tensors are the largest of a training step.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[Any]


def areas(boxes: Boxes) -> NDArray[Any]:
    """Return the (K,) areas of (K, 4) boxes; 0 where an edge lies on the wrong side of its opposite."""
    left, top, right, bottom = boxes.T
    return np.maximum(right - left, 0) * np.maximum(bottom - top, 0)


def shared_areas(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Return the (K, M) areas that (K, 4) and (M, 4) float64 boxes have in common."""
    # A coordinate at a time: NumPy's loops over an innermost axis of 2 take several times as long.
    left, top, right, bottom = boxes.T[:, :, None]
    width = np.minimum(right, others[:, 2]) - np.maximum(left, others[:, 0])
    height = np.minimum(bottom, others[:, 3]) - np.maximum(top, others[:, 1])
    shared: NDArray[np.float64] = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def iou(boxes: Boxes, others: Boxes) -> NDArray[np.float64]:
    """Return the (K, M) overlaps of (K, 4) and (M, 4) boxes; 0 where a pair has no area."""
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    shared = shared_areas(boxes, others)
    union = areas(boxes)[:, None] + areas(others) - shared
    overlaps: NDArray[np.float64] = np.zeros_like(union)
    np.divide(shared, union, out=overlaps, where=union > 0)
    return overlaps


def clip_boxes(boxes: Boxes, image_size: tuple[int, int]) -> Boxes:
    """Return (K, 4) boxes of the same type with every edge moved into an image of (height, width)."""
    height, width = image_size
    return np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))


def resize_factors(from_size: tuple[int, int], to_size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the (4,) factors of a box's corners when its image of (height, width) is resized."""
    return np.tile([to_size[1] / from_size[1], to_size[0] / from_size[0]], 2)


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """Turn (K, 4) corners into COCO's form: left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
