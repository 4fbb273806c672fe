"""Detections of one image, and the padded arrays a detector returns for a batch."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import clip_boxes, resize_factors

# Value of every field in the rows after an image's last detection.
PADDING = -1


class PaddedDetections(NamedTuple):
    """What a detector returns for a batch: N images, K rows each, best first, padded with -1.

    Attributes:
        boxes: (N, K, 4) float32 xyxy in network-input pixels, not clipped.
        scores: (N, K) float32, in (0, 1], descending.
        labels: (N, K) int64, index into the class list from 0.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first.

    Attributes:
        boxes: (K, 4) float32 xyxy in pixels of that image, 0 at its top-left edge; not clipped to it
            (see `clipped`).
        scores: (K,) float32 softmax scores.
        labels: (K,) int64, index into the class list from 0.
        class_names: label order; empty where they are not known.
        image_size: (height, width) of the image in pixels; None where it is not known.
        track_ids: (K,) int64, the same number for the same object in every frame of a video, -1 where a detection has
            none yet; None without tracking.

    Raises:
        ValueError: the arrays disagree on K, or a label is negative.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and labels {self.labels.shape} "
                "are not (K, 4), (K,) and (K,)"
            )
        if count and self.labels.min() < 0:
            raise ValueError("a detection has a negative label; padding rows must be dropped first")
        if self.track_ids is not None and self.track_ids.shape != (count,):
            raise ValueError(f"track ids {self.track_ids.shape} are not ({count},)")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> "Detections":
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def from_padded(
        cls,
        padded: PaddedDetections,
        row: int,
        input_size: tuple[int, int],
        image_size: tuple[int, int],
        class_names: tuple[str, ...] = (),
    ) -> "Detections":
        """Take image `row` of a batch: drop its padding, scale its boxes to the original image.

        Args:
            padded: a detector's answer, boxes in network-input pixels.
            row: which image of the batch.
            input_size, image_size: (height, width) of the network input and of the original image.
            class_names: label order.
        """
        real = padded.labels[row] >= 0
        boxes = (padded.boxes[row][real] * resize_factors(input_size, image_size)).astype(np.float32)
        labels = padded.labels[row][real].astype(np.int64, copy=False)
        return cls(boxes, padded.scores[row][real], labels, class_names, image_size)

    def select(self, keep: NDArray[Any]) -> "Detections":
        """Return the rows that a boolean mask or an index array names."""
        rows = {"boxes": self.boxes[keep], "scores": self.scores[keep], "labels": self.labels[keep]}
        track_ids = None if self.track_ids is None else self.track_ids[keep]
        return dataclasses.replace(self, **rows, track_ids=track_ids)

    def clipped(self, image_size: tuple[int, int]) -> "Detections":
        """Return the same detections with boxes clipped to the image; `image_size` is (height, width)."""
        return dataclasses.replace(self, boxes=clip_boxes(self.boxes, image_size))
