"""Which detection of one side is which of the other?"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import iou
from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageComparison:
    """Detections of one image on both sides, whatever their scores.

    Attributes:
        image_id: the data set's name of the image.
        matched: pairs of one label that overlap.
        score_difference, box_difference: largest over the pairs; the box's in image pixels.
        moved: pairs whose boxes differ by more than was allowed.
        only_reference, only_candidate: what has no partner: class name, score and box.
    """

    image_id: int | str
    matched: int
    score_difference: float
    box_difference: float
    moved: int
    only_reference: tuple[dict[str, Any], ...]
    only_candidate: tuple[dict[str, Any], ...]


def compare_image(
    sample: Sample,
    reference: Detections,
    candidate: Detections,
    class_names: tuple[str, ...],
    *,
    pair_iou: float,
    box_tolerance: float,
) -> ImageComparison:
    """Pair the detections of an image and measure the pairs."""
    pairs = match_detections(reference, candidate, pair_iou)
    ours, theirs = pairs[:, 0], pairs[:, 1]
    scores = np.abs(reference.scores[ours] - candidate.scores[theirs])
    boxes = np.abs(reference.boxes[ours] - candidate.boxes[theirs]).max(axis=1, initial=0)
    return ImageComparison(
        image_id=sample.image_id,
        matched=len(pairs),
        score_difference=float(scores.max(initial=0)),
        box_difference=float(boxes.max(initial=0)),
        moved=int((boxes > box_tolerance).sum()),
        only_reference=_listed(reference, ours, class_names),
        only_candidate=_listed(candidate, theirs, class_names),
    )


def match_detections(reference: Detections, candidate: Detections, pair_iou: float) -> NDArray[np.int64]:
    """Pair detections of the same label that overlap by `pair_iou` or more, best overlap first, each at most once.

    Returns:
        (P, 2) indices into `reference` and `candidate`.
    """
    return best_pairs(reference, candidate, same_label(reference, candidate), pair_iou)


def same_label(reference: Detections, candidate: Detections) -> NDArray[np.bool_]:
    """Return a (K, M) mask."""
    return reference.labels[:, None] == candidate.labels[None]


def overlaps(reference: Detections, candidate: Detections) -> NDArray[np.float64]:
    """Return the (K, M) IoU; identical boxes without area are the same object too, and have 1."""
    identical = (reference.boxes[:, None] == candidate.boxes[None]).all(axis=-1)
    return np.where(identical, 1.0, iou(reference.boxes, candidate.boxes))


def best_pairs(
    reference: Detections, candidate: Detections, may_pair: NDArray[np.bool_], pair_iou: float
) -> NDArray[np.int64]:
    """Pair greedily what `may_pair` (K, M) allows and overlaps by `pair_iou`, above 0, or more.

    Returns:
        (P, 2) indices, the best overlap first; among equal overlaps the closer scores.
    """
    overlap = np.where(may_pair, overlaps(reference, candidate), 0.0)
    apart = np.abs(reference.scores[:, None] - candidate.scores[None])
    pairs = []
    ours_taken, theirs_taken = np.zeros(len(reference), bool), np.zeros(len(candidate), bool)
    for flat in np.lexsort((apart.ravel(), -overlap.ravel())):
        ours, theirs = divmod(int(flat), len(candidate))
        if overlap[ours, theirs] < pair_iou:
            break
        if not ours_taken[ours] and not theirs_taken[theirs]:
            ours_taken[ours] = theirs_taken[theirs] = True
            pairs.append((ours, theirs))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _listed(
    detections: Detections, matched: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[dict[str, Any], ...]:
    alone = np.setdiff1d(np.arange(len(detections)), matched)
    return tuple(
        {
            "class_name": class_names[detections.labels[index]],
            "score": float(detections.scores[index]),
            "box": detections.boxes[index].tolist(),
        }
        for index in alone
    )
