"""Are two answers of one detector to the same batch the same but for rounding? Light."""

import numpy as np

from ssd_deploy.parity.criteria import Tolerances
from ssd_deploy.parity.pairs import count_changes, match_detections
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import DetectorSpec

# Of float32 in another order.
TOLERANCES = Tolerances()

# What counts is what scores this much, or half of the best score where nothing does.
WORKING_SCORE = 0.3

# Detections that may change whatever the precision, near a threshold or an overlap's limit, and of how many at least.
EXCUSED, ONE_IN = 2, 4

# How far the scores of a pair may be apart in half precision and below.
ROUNDED_SCORE = 0.05


def describe_difference(found: PaddedDetections, expected: PaddedDetections, spec: DetectorSpec) -> str | None:
    """Say how an answer differs from the one that was expected by more than its precision explains; None for not.

    Args:
        found, expected: for the same images.
        spec: of the detector; limits are those of `parity` for its precision.
    """
    if found.boxes.shape != expected.boxes.shape:
        return f"its boxes have the shape {found.boxes.shape} instead of {expected.boxes.shape}"
    if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
        return "its answer has values that are no numbers"
    rows = range(len(expected.labels))
    reference, candidate = ([_detections(side, row, spec) for row in rows] for side in (expected, found))
    best = max(expected.scores.max(initial=0), found.scores.max(initial=0))
    changes = count_changes(reference, candidate, min(WORKING_SCORE, float(best) / 2))
    limits = PRECISIONS.find(spec.precision).limits
    excused = min(EXCUSED, changes.total // ONE_IN)
    if changes.changed > max(excused, (limits.changed if limits else TOLERANCES.differing) * changes.total):
        return f"of its detections {changes.text()}"
    allowed = ROUNDED_SCORE if limits else TOLERANCES.score
    apart = max(map(_score_difference, reference, candidate))
    return f"a score differs by {apart:.1e}, allowed is {allowed:.0e}" if apart > allowed else None


def _detections(padded: PaddedDetections, row: int, spec: DetectorSpec) -> Detections:
    return Detections.from_padded(padded, row, spec.input_size, spec.input_size)


def _score_difference(reference: Detections, candidate: Detections) -> float:
    pairs = match_detections(reference, candidate, TOLERANCES.pair_iou)
    return float(np.abs(reference.scores[pairs[:, 0]] - candidate.scores[pairs[:, 1]]).max(initial=0))
