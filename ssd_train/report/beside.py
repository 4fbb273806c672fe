"""One image twice, side by side, with what was found in it on each side and what differs marked."""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import resize_factors
from ssd_train.detections import Detections
from ssd_train.draw import draw
from ssd_train.report.pictures import shrunk

# Of each of the two pictures, in pixels.
LONGEST_SIDE = 900
GAP = 6
# What is marked has a frame of these colors around its box. A class may be red, too, but its boxes have no white edge.
MARK, EDGE = (230, 0, 0), (255, 255, 255)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Side:
    """What one of the two pictures shows.

    Attributes:
        detections: in pixels of the image.
        marked: indices of those with a thick red frame.
        with_scores: False for annotations, which have none.
    """

    detections: Detections
    marked: NDArray[np.int64]
    with_scores: bool = True


def beside(image: NDArray[np.uint8], left: Side, right: Side, class_names: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return an (H, W, 3) RGB picture of two copies of an image, each at most `LONGEST_SIDE` wide and high."""
    small = shrunk(image, LONGEST_SIDE, LONGEST_SIDE)
    size = (small.shape[0], small.shape[1])
    scale = resize_factors((image.shape[0], image.shape[1]), size)
    drawn = []
    for side in (left, right):
        boxes = (side.detections.boxes * scale).astype(np.float32)
        detections = dataclasses.replace(side.detections, boxes=boxes, image_size=size)
        marked = _marked(small, detections.select(side.marked).clipped(size))
        drawn.append(draw(marked, detections, class_names, with_scores=side.with_scores))
    return np.concatenate([drawn[0], np.full((small.shape[0], GAP, 3), 255, np.uint8), drawn[1]], axis=1)


def _marked(image: NDArray[np.uint8], what: Detections) -> NDArray[np.uint8]:
    """Return a copy with a frame around each box, which the box itself is then drawn into."""
    canvas = image.copy()
    thickness = max(7, round(min(image.shape[:2]) / 50))
    for color, width in ((EDGE, thickness + 4), (MARK, thickness)):
        for left, top, right, bottom in what.boxes.round().astype(int).tolist():
            cv2.rectangle(canvas, (left, top), (right, bottom), color, width)
    return canvas
