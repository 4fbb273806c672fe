"""Detections of one image, and the padded arrays a detector returns for a batch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_train import detection_formats
from ssd_train.boxes import resize_factors
from ssd_train.detection_rows import Detection, DetectionRows
from ssd_train.draw import draw
from ssd_train.errors import ImageError
from ssd_train.image_input import Color, OneImage, to_rgb

if TYPE_CHECKING:
    import supervision

__all__ = ["PADDING", "Detection", "Detections", "PaddedDetections"]

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

    def first(self, count: int) -> "PaddedDetections":
        """Return those of the first images."""
        return PaddedDetections(self.boxes[:count], self.scores[:count], self.labels[:count])


class Detections(DetectionRows):
    """What was found in one image, best first: a sequence of `Detection`, as pictures and in other programs' formats.

    A slice, a boolean mask or an array of indices gives Detections. Fields and rows are those of `DetectionRows`.
    """

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

    def draw(self, image: "OneImage", *, with_scores: bool = True, color: "Color" = "rgb") -> NDArray[np.uint8]:
        """Return a copy of the image with boxes, class names and scores in it.

        Args:
            image: what was detected in, as `Detector.detect` takes one.
            with_scores: False for names alone.
            color: the order of the channels of an array, and of what is returned.

        Returns:
            (H, W, 3) uint8.

        Raises:
            ImageError: no image, or one of another size than that of the boxes.
        """
        pixels = to_rgb(image, color)
        if self.image_size is not None and pixels.shape[:2] != self.image_size:
            (height, width), (own_height, own_width) = pixels.shape[:2], self.image_size
            raise ImageError(
                f"the image has {width}x{height} pixels, but these detections are of one of {own_width}x{own_height}; "
                "draw into the image that they were found in"
            )
        drawn = draw(pixels, self, self.class_names, with_scores=with_scores)
        return np.ascontiguousarray(drawn[:, :, ::-1]) if color == "bgr" else drawn

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see `detection_formats.to_dict`."""
        return detection_formats.to_dict(self)

    def to_coco(
        self, image_id: int | str, category_ids: "Sequence[int | str | None] | Mapping[str, int] | None" = None
    ) -> list[dict[str, Any]]:
        """Return entries of COCO's result format; see `detection_formats.to_coco`."""
        return detection_formats.to_coco(self, image_id, category_ids)

    def to_yolo(self, *, with_scores: bool = True) -> str:
        """Return the text of a YOLO label file; see `detection_formats.to_yolo`."""
        return detection_formats.to_yolo(self, with_scores=with_scores)

    def to_voc(self, filename: str) -> str:
        """Return the text of a Pascal VOC annotation; see `detection_formats.to_voc`."""
        return detection_formats.to_voc(self, filename)

    def to_supervision(self) -> "supervision.Detections":
        """Return what Roboflow's supervision takes; see `detection_formats.to_supervision`."""
        return detection_formats.to_supervision(self)
