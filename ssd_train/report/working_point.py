"""The scores from which on detections count in a report, and what they come to."""

import dataclasses
import math

import numpy as np

from ssd_train.metrics.operating_point import Curve, Curves, OperatingPoint
from ssd_train.spec import DetectorSpec
from ssd_train.thresholds import Keeping, keeping

# Of a detector that finds nothing right at any score.
FALLBACK_THRESHOLD = 0.5


def working_point(spec: DetectorSpec, curves: Curves) -> Keeping:
    """Return the working thresholds: those saved with the detector, else those of the best F1 in this evaluation.

    A class in which no score finds anything right takes the threshold that is best for all classes together.
    """
    if spec.working_thresholds is not None:
        return keeping(spec)
    overall = _found(curves.overall, FALLBACK_THRESHOLD)
    return Keeping(
        score_thresholds=np.array([_found(curve, overall) for curve in curves.per_class.values()], np.float64),
        max_detections=spec.postprocess.max_detections,
        origin="those of the best F1 of each class on these images, since none are saved with the detector",
    )


def _found(curve: Curve, fallback: float) -> float:
    threshold = curve.find().threshold
    return fallback if math.isnan(threshold) else threshold


def points_of(curves: Curves, keep: Keeping) -> dict[str, OperatingPoint]:
    """Return what each class's working threshold comes to, by name."""
    thresholds = keep.score_thresholds.tolist()
    return {
        name: curve.at(threshold) for (name, curve), threshold in zip(curves.per_class.items(), thresholds, strict=True)
    }


def together(points: dict[str, OperatingPoint]) -> OperatingPoint:
    """Return all classes as one, each at its own threshold; the threshold is NaN where they differ."""
    true, false, missed = (
        sum(getattr(point, name) for point in points.values()) for name in ("true", "false", "missed")
    )
    thresholds = {point.threshold for point in points.values()}
    return OperatingPoint(
        threshold=thresholds.pop() if len(thresholds) == 1 else math.nan,
        precision=_ratio(true, true + false),
        recall=_ratio(true, true + missed),
        f1=_ratio(2 * true, 2 * true + false + missed) if true + missed else math.nan,
        true=true,
        false=false,
        missed=missed,
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def as_values(point: OperatingPoint) -> dict[str, float]:
    """Return the numbers of a point for JSON."""
    return {key: value for key, value in dataclasses.asdict(point).items() if key != "is_reached"}
