"""What became of the detections that count: those that score at least the working threshold, on either side.

In each image, in this order and each detection once, best overlap first:

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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.parity.criteria import MOVED_IOU
from ssd_deploy.parity.pairs import best_pairs, overlaps, same_label
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

    def __add__(self, other: "Changes") -> "Changes":
        names = [field.name for field in dataclasses.fields(self)]
        return Changes(**{name: getattr(self, name) + getattr(other, name) for name in names})

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


def count_changes(reference: Sequence[Detections], candidate: Sequence[Detections], score_threshold: float) -> Changes:
    """Count over all images; the module says what counts."""
    return sum(
        (_of_image(ours, theirs, score_threshold) for ours, theirs in zip(reference, candidate, strict=True)), Changes()
    )


def _of_image(reference: Detections, candidate: Detections, threshold: float) -> Changes:
    # The threshold as float32, like the scores, so that one of exactly 0.3 reaches it.
    reaches, other_reaches = (side.scores >= np.float32(threshold) for side in (reference, candidate))
    both = reaches[:, None] & other_reaches[None]
    either = reaches[:, None] | other_reaches[None]
    close = np.abs(reference.scores[:, None] - candidate.scores[None]) <= HAIR * threshold
    same = same_label(reference, candidate)
    left, other_left = np.ones(len(reference), bool), np.ones(len(candidate), bool)

    def pair_up(allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
        pairs = best_pairs(reference, candidate, allowed & left[:, None] & other_left[None], SAME_OBJECT_IOU)
        left[pairs[:, 0]] = other_left[pairs[:, 1]] = False
        return pairs

    found = pair_up(same & both)
    crossed = pair_up(same & either & close)
    relabelled = pair_up(both)
    same_pairs = np.concatenate([found, crossed])
    moved = int((overlaps(reference, candidate)[same_pairs[:, 0], same_pairs[:, 1]] < MOVED_IOU).sum())
    return Changes(
        kept=len(same_pairs) - moved,
        moved=moved,
        relabelled=len(relabelled),
        vanished=int((reaches & left).sum()),
        appeared=int((other_reaches & other_left).sum()),
        crossed=len(crossed),
    )
