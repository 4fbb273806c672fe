"""A detector's order and suppression of candidates in NumPy, for detections that were made in several passes.

What is kept is what `ssd_train/networks/postprocess.py` keeps of the same candidates: float32 arithmetic in the same
order, and the same rule for equal scores. That one stays as it is, since an exported graph depends on its form.
"""

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import areas, iou

# More than rescaling boxes to the pixels of a picture changes of an overlap.
ROUNDING = 1e-3


def rank(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of (K,) scores and labels, best first; of equal scores the lower label, then the earlier row."""
    order: NDArray[np.int64] = np.lexsort((np.arange(len(scores)), labels, -scores))
    return order


def suppress(boxes: NDArray[np.float32], labels: NDArray[np.int64], iou_threshold: float) -> NDArray[np.int64]:
    """Greedy NMS within each class; returns the rows that stand, in order.

    Args:
        boxes: (K, 4) float32 xyxy, best first; boxes without area suppress nothing and are not suppressed.
        labels: (K,).
        iou_threshold: suppressed strictly above it.
    """
    standing = np.ones(len(boxes), bool)
    area = areas(boxes)
    for row in range(len(boxes)):
        if standing[row]:
            rivals = row + 1 + np.flatnonzero(standing[row + 1 :] & (labels[row + 1 :] == labels[row]))
            overlaps = _iou(boxes[rivals], area[rivals], boxes[row], area[row])
            standing[rivals[overlaps > iou_threshold]] = False
    return np.flatnonzero(standing)


def _iou(
    boxes: NDArray[np.float32], area: NDArray[np.float32], best: NDArray[np.float32], best_area: np.float32
) -> NDArray[np.float32]:
    """Overlap of (K, 4) boxes with one, in float32 like the graph's, so that a tie at the threshold falls alike."""
    left, top, right, bottom = boxes.T
    width = np.maximum(np.minimum(right, best[2]) - np.maximum(left, best[0]), np.float32(0))
    height = np.maximum(np.minimum(bottom, best[3]) - np.maximum(top, best[1]), np.float32(0))
    shared = width * height
    union = area + best_area - shared
    overlaps: NDArray[np.float32] = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return overlaps


def is_settled(boxes: NDArray[np.float32], labels: NDArray[np.int64], iou_threshold: float) -> bool:
    """Whether detections are what greedy NMS keeps: no two of one class overlap above its threshold.

    The rounds of `postprocess.suppress` keep all that greedy NMS keeps. Where a chain is longer than they can follow
    they keep more, and each of those overlaps one that greedy NMS kept, which scores more and so is a detection too.

    Args:
        boxes: (K, 4) xyxy, in pixels of the network's input or of the picture.
        labels: (K,).
        iou_threshold: that of the detector.
    """
    overlaps = (iou(boxes, boxes) > iou_threshold + ROUNDING) & (labels[:, None] == labels)
    return not np.triu(overlaps, k=1).any()
