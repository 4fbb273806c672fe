"""The arrays of one image's detections, and all that is done with their rows."""

import dataclasses
import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Self, overload

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import areas, clip_boxes
from ssd_train.errors import SpecError
from ssd_train.spec import first_names

# How many a `repr` names.
_NAMED = 5


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


def name_of(label: int, class_names: Sequence[str]) -> str:
    """Return the name of a label from 0; `class 3` where names are not known."""
    return class_names[label] if label < len(class_names) else f"class {label}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DetectionRows:
    """What was found in one image, best first: the fields and rows of `Detections`.

    It has a length and is a sequence of `Detection`; a slice, a boolean mask or an array of indices gives some of them.

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
    def __getitem__(self, key: slice | NDArray[Any] | Sequence[int]) -> Self: ...

    def __getitem__(self, key: "int | np.integer[Any] | slice | NDArray[Any] | Sequence[int]") -> "Detection | Self":
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
            class_name=name_of(int(self.labels[row]), self.class_names),
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
        return [name_of(label, self.class_names) for label in self.labels.tolist()]

    def select(self, keep: NDArray[Any]) -> Self:
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
    ) -> Self:
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
            keep &= np.isin(self.labels, self._labels(wanted))
        return self.select(keep)

    def _labels(self, wanted: Collection[str | int]) -> list[int]:
        label_of = {name: label for label, name in enumerate(self.class_names)}
        for named in wanted:
            if isinstance(named, str) and named not in label_of:
                known = first_names(self.class_names)
                raise SpecError(f"{named!r} is no class; there are {known or 'labels alone'}", arguments=("classes",))
        return [label_of[named] if isinstance(named, str) else operator.index(named) for named in wanted]

    def clipped(self, image_size: tuple[int, int]) -> Self:
        """Return the same detections with boxes clipped to the image; `image_size` is (height, width)."""
        return dataclasses.replace(self, boxes=clip_boxes(self.boxes, image_size))
