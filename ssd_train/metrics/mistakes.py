"""What went wrong, detection by detection and object by object.

The kinds and both overlaps follow TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020, section 2.2). Here every wrong detection is of the first kind that fits, in the order of `KINDS`;
TIDE's "both" (wrong class and bad box) counts as false.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import GroundTruth
from ssd_train.detections import Detections
from ssd_train.metrics.matching import MATCH_IOU_THRESHOLD, Matches, overlaps

# An overlap of less has nothing to do with the object.
BACKGROUND_IOU_THRESHOLD = 0.1

# In the order in which they are tried. What each means, for people.
KINDS = {
    "duplicate": "A second detection of an object that a better one of its class found.",
    "wrong class": "A detection that lies on an object of another class (IoU 0.5 or more).",
    "bad box": "A detection near an object of its class that does not fit it (IoU 0.1 to 0.5).",
    "false": "A detection where no object is that it could mean.",
    "missed": "An object that no detection found, and that no wrong class and no bad box is about.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake in an image.

    Attributes:
        kind: key of `KINDS`.
        label: class that was detected; of a missed object its own.
        score: of the detection; None for a missed object.
        box: xyxy in image pixels, of the detection, or of the missed object.
        detection: index of the detection; None for a missed object.
        object: index of the object that it is about; None for a false detection.
        iou: their overlap; 0 without one of them.
    """

    kind: str
    label: int
    score: float | None
    box: tuple[float, float, float, float]
    detection: int | None
    object: int | None
    iou: float


def find_mistakes(truth: GroundTruth, found: Detections, matches: Matches) -> list[Mistake]:
    """Name every mistake in one image: those of detections, best first, then missed objects.

    Args:
        truth: objects; difficult and crowd ones are left out, and so are detections that only they match.
        found: boxes in image pixels, clipped to it; those of the scores that count only.
        matches: of both, from `matching.match_image`.
    """
    counts = ~(truth.is_difficult | truth.is_crowd)
    values = np.where(counts, overlaps(found, truth), -1.0)
    is_same = found.labels[:, None] == truth.labels
    mistakes = []
    for index in np.flatnonzero(matches.is_false).tolist():
        kind, about = _kind(values[index], is_same[index])
        mistakes.append(
            Mistake(
                kind=kind,
                label=int(found.labels[index]),
                score=float(found.scores[index]),
                box=_as_box(found.boxes[index]),
                detection=index,
                object=about,
                iou=0.0 if about is None else float(values[index, about]),
            )
        )
    explained = {mistake.object for mistake in mistakes if mistake.kind in ("wrong class", "bad box")}
    explained |= set(matches.objects[matches.is_true].tolist())
    for index in np.flatnonzero(counts).tolist():
        if index not in explained:
            box = _as_box(truth.boxes[index])
            label = int(truth.labels[index])
            mistakes.append(
                Mistake(kind="missed", label=label, score=None, box=box, detection=None, object=index, iou=0.0)
            )
    return mistakes


def _kind(values: NDArray[np.float64], is_same: NDArray[np.bool_]) -> tuple[str, int | None]:
    """Return what is wrong with a detection, of its overlaps with every object, and the object that it is about."""
    if not len(values):
        return "false", None
    own, other = np.where(is_same, values, -1.0), np.where(is_same, -1.0, values)
    nearest_own, nearest_other = int(own.argmax()), int(other.argmax())
    if own[nearest_own] >= MATCH_IOU_THRESHOLD:
        # A free object would have been found, so another detection has it.
        return "duplicate", nearest_own
    if other[nearest_other] >= MATCH_IOU_THRESHOLD:
        return "wrong class", nearest_other
    if own[nearest_own] >= BACKGROUND_IOU_THRESHOLD:
        return "bad box", nearest_own
    return "false", None


def _as_box(box: NDArray[np.floating]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom
