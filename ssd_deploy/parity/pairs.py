"""Which detection of one side is which of the other, and what became of those that count?

Those count that score at least the working threshold, on either side. In each image, in this order and each detection
once, best overlap first:

1. Two that both reach the threshold, of one label, with an IoU of 0.5 or more, are the same: kept, or `moved` where
   the IoU is below 0.8.
2. What is left and has a partner like that below the threshold is kept too where the two scores differ by no more than
   a tenth of the threshold: 0.31 and 0.29 are a hair apart, and no one's decision hangs on which side of a round number
   they fell. 0.9 and 0.29 are not the same.
3. What is left of both sides, reaches the threshold and overlaps by 0.5 or more changed its label.
4. What is left of the reference vanished, what is left of the candidate appeared.

A share is of all of these together, where a pair counts once.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.parity.criteria import MOVED_IOU
from ssd_train.boxes import iou
from ssd_train.detections import Detections

SAME_OBJECT_IOU = 0.5
HAIR = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """How many of the detections that count stayed, and what happened to the others.

    Attributes:
        kept, moved, relabelled: pairs.
        vanished, appeared: detections without a partner.
        crossed: of the pairs, those with one side just below the threshold.
    """

    kept: int = 0
    moved: int = 0
    relabelled: int = 0
    vanished: int = 0
    appeared: int = 0
    crossed: int = 0

    @property
    def changed(self) -> int:
        return self.moved + self.relabelled + self.vanished + self.appeared

    @property
    def total(self) -> int:
        return self.kept + self.changed

    @property
    def share(self) -> float:
        """Fraction that changed; 0 of nothing."""
        return self.changed / max(self.total, 1)

    def text(self) -> str:
        """Say it in numbers."""
        parts = (
            (self.relabelled, "changed label"),
            (self.vanished, "vanished"),
            (self.appeared, "appeared"),
            (self.moved, f"moved to an IoU below {MOVED_IOU:g}"),
        )
        what = ", ".join(f"{count} {name}" for count, name in parts if count)
        crossed = f"; {self.crossed} more crossed the threshold by a hair" if self.crossed else ""
        return f"{self.changed} of {self.total} changed" + (f" ({what})" if what else "") + crossed

    def to_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self) | {"changed": self.changed, "total": self.total, "share": self.share}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageChanges:
    """Which detections of one image stayed, and what became of the others.

    Attributes:
        kept, moved, relabelled: (P, 2) int64 indices into the reference's detections and the candidate's.
        vanished: (V,) indices into the reference's.
        appeared: (A,) indices into the candidate's.
        crossed: of the pairs kept or moved, those with one side just below the threshold.
    """

    kept: NDArray[np.int64]
    moved: NDArray[np.int64]
    relabelled: NDArray[np.int64]
    vanished: NDArray[np.int64]
    appeared: NDArray[np.int64]
    crossed: int

    def counts(self) -> Changes:
        """Count them."""
        names = ("kept", "moved", "relabelled", "vanished", "appeared")
        return Changes(**{name: len(getattr(self, name)) for name in names}, crossed=self.crossed)


def count_changes(reference: Sequence[Detections], candidate: Sequence[Detections], score_threshold: float) -> Changes:
    """Count over all images; the module says what counts."""
    counts: Counter[str] = Counter()
    for ours, theirs in zip(reference, candidate, strict=True):
        counts.update(dataclasses.asdict(find_changes(ours, theirs, score_threshold).counts()))
    return Changes(**counts)


def find_changes(reference: Detections, candidate: Detections, score_threshold: float) -> ImageChanges:
    """Say of every detection of an image that counts what became of it; the module says what counts."""
    # The threshold as float32, like the scores, so that one of exactly 0.3 reaches it.
    reaches, other_reaches = (side.scores >= np.float32(score_threshold) for side in (reference, candidate))
    both = reaches[:, None] & other_reaches[None]
    either = reaches[:, None] | other_reaches[None]
    close = np.abs(reference.scores[:, None] - candidate.scores[None]) <= HAIR * score_threshold
    same = reference.labels[:, None] == candidate.labels[None]
    left, other_left = np.ones(len(reference), bool), np.ones(len(candidate), bool)

    def pair_up(allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        pairs = _best_pairs(reference, candidate, allowed & left[:, None] & other_left[None], SAME_OBJECT_IOU)
        left[pairs[:, 0]] = other_left[pairs[:, 1]] = False
        return pairs

    found = pair_up(same & both)
    crossed = pair_up(same & either & close)
    relabelled = pair_up(both)
    same_pairs = np.concatenate([found, crossed])
    is_moved = _overlaps(reference, candidate)[same_pairs[:, 0], same_pairs[:, 1]] < MOVED_IOU
    return ImageChanges(
        kept=same_pairs[~is_moved],
        moved=same_pairs[is_moved],
        relabelled=relabelled,
        vanished=np.flatnonzero(reaches & left),
        appeared=np.flatnonzero(other_reaches & other_left),
        crossed=len(crossed),
    )


def match_detections(reference: Detections, candidate: Detections, pair_iou: float) -> NDArray[np.int64]:
    """Pair detections of the same label that overlap by `pair_iou` or more, best overlap first, each at most once.

    Returns:
        (P, 2) indices into `reference` and `candidate`.
    """
    return _best_pairs(reference, candidate, reference.labels[:, None] == candidate.labels[None], pair_iou)


def _overlaps(reference: Detections, candidate: Detections) -> NDArray[np.float64]:
    """Return the (K, M) IoU; identical boxes without area are the same object too, and have 1."""
    identical = (reference.boxes[:, None] == candidate.boxes[None]).all(axis=-1)
    return np.where(identical, 1.0, iou(reference.boxes, candidate.boxes))


def _best_pairs(
    reference: Detections, candidate: Detections, may_pair: NDArray[np.bool_], pair_iou: float
) -> NDArray[np.int64]:
    """Pair greedily what `may_pair` (K, M) allows and overlaps by `pair_iou`, above 0, or more.

    Returns:
        (P, 2) indices, the best overlap first; among equal overlaps the closer scores.
    """
    overlap = np.where(may_pair, _overlaps(reference, candidate), 0.0)
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
