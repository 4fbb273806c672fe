"""Detections of one image, and the padded arrays a detector returns for a batch."""

import dataclasses
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import areas, clip_boxes, resize_factors
from ssd_train.errors import ImageError, SpecError

if TYPE_CHECKING:
    import supervision

    from ssd_train.image_input import Color, OneImage

# Value of every field in the rows after an image's last detection.
PADDING = -1

# How many a `repr` names.
_NAMED = 5


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


class Detection(NamedTuple):
    """One of them.

    Attributes:
        box: xyxy in pixels of the image, not clipped to it.
        score: in (0, 1].
        label: index into the class list from 0.
        class_name: `class 3` where names are not known.
        track_id: -1 where it has none yet; None without tracking.
    """

    box: tuple[float, float, float, float]
    score: float
    label: int
    class_name: str
    track_id: int | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """What was found in one image, best first.

    It has a length and is a sequence of `Detection`; a slice, a boolean mask or an array of indices gives Detections.

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

    @overload
    def __getitem__(self, key: "int | np.integer[Any]") -> Detection: ...

    @overload
    def __getitem__(self, key: slice | NDArray[Any] | Sequence[int]) -> "Detections": ...

    def __getitem__(
        self, key: "int | np.integer[Any] | slice | NDArray[Any] | Sequence[int]"
    ) -> "Detection | Detections":
        """Return one detection, counted from the best, or some.

        Raises:
            IndexError: there are not so many.
        """
        if isinstance(key, slice):
            return self.select(np.arange(len(self))[key])
        if isinstance(key, Sequence) or (isinstance(key, np.ndarray) and key.ndim):
            # An empty list would become an array of floats.
            return self.select(np.asarray(key) if len(key) else np.zeros(0, np.int64))
        row = operator.index(key)
        left, top, right, bottom = self.boxes[row].tolist()
        return Detection(
            box=(left, top, right, bottom),
            score=float(self.scores[row]),
            label=int(self.labels[row]),
            class_name=self._name(int(self.labels[row])),
            track_id=None if self.track_ids is None else int(self.track_ids[row]),
        )

    def __iter__(self) -> Iterator[Detection]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        """For example `Detections(3: dog 0.98, cat 0.61, cat 0.40)`."""
        named = [f"{each.class_name} {each.score:.2f}" for each in self[:_NAMED]]
        rest = [f"{len(self) - _NAMED} more"] if len(self) > _NAMED else []
        return f"Detections({len(self)}{': ' if named else ''}{', '.join(named + rest)})"

    @property
    def names(self) -> list[str]:
        """The class of each detection; `class 3` where names are not known."""
        return [self._name(label) for label in self.labels.tolist()]

    def _name(self, label: int) -> str:
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

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

    def filter(
        self,
        *,
        score_threshold: float = 0.0,
        classes: Collection[str | int] | str | int | None = None,
        min_area: float = 0.0,
    ) -> "Detections":
        """Return those that fulfil all of what is asked.

        Args:
            score_threshold: lowest score, included.
            classes: names or labels, or one; None for all.
            min_area: smallest area of a box in square pixels, included.

        Raises:
            SpecError: a name that is no class.
        """
        keep = (self.scores >= np.float32(score_threshold)) & (areas(self.boxes) >= min_area)
        if classes is not None:
            wanted = [classes] if isinstance(classes, str | int) else classes
            keep &= np.isin(self.labels, [self._label(each) for each in wanted])
        return self.select(keep)

    def _label(self, named: str | int) -> int:
        if isinstance(named, str) and named not in self.class_names:
            known = ", ".join(self.class_names[:10]) + (", ..." if len(self.class_names) > 10 else "")
            raise SpecError(f"{named!r} is no class; there are {known or 'labels alone'}", arguments=("classes",))
        return self.class_names.index(named) if isinstance(named, str) else operator.index(named)

    def clipped(self, image_size: tuple[int, int]) -> "Detections":
        """Return the same detections with boxes clipped to the image; `image_size` is (height, width)."""
        return dataclasses.replace(self, boxes=clip_boxes(self.boxes, image_size))

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
        from ssd_train.draw import draw
        from ssd_train.image_input import to_rgb

        pixels = to_rgb(image, color)
        if self.image_size is not None and pixels.shape[:2] != self.image_size:
            (height, width), (own_height, own_width) = pixels.shape[:2], self.image_size
            raise ImageError(
                f"the image has {width}x{height} pixels, but these detections are of one of {own_width}x{own_height}; "
                "draw into the image that they were found in"
            )
        names = tuple(self._name(label) for label in range(max(self.labels, default=-1) + 1))
        drawn = draw(pixels, self, names, with_scores=with_scores)
        return np.ascontiguousarray(drawn[:, :, ::-1]) if color == "bgr" else drawn

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; see `detection_formats.to_dict`."""
        from ssd_train.detection_formats import to_dict

        return to_dict(self)

    def to_coco(
        self, image_id: int | str, category_ids: "Sequence[int | str | None] | Mapping[str, int] | None" = None
    ) -> list[dict[str, Any]]:
        """Return entries of COCO's result format; see `detection_formats.to_coco`."""
        from ssd_train.detection_formats import to_coco

        return to_coco(self, image_id, category_ids)

    def to_yolo(self, *, with_scores: bool = True) -> str:
        """Return the text of a YOLO label file; see `detection_formats.to_yolo`."""
        from ssd_train.detection_formats import to_yolo

        return to_yolo(self, with_scores=with_scores)

    def to_voc(self, filename: str) -> str:
        """Return the text of a Pascal VOC annotation; see `detection_formats.to_voc`."""
        from ssd_train.detection_formats import to_voc

        return to_voc(self, filename)

    def to_supervision(self) -> "supervision.Detections":
        """Return what Roboflow's supervision takes; see `detection_formats.to_supervision`."""
        from ssd_train.detection_formats import to_supervision

        return to_supervision(self)
