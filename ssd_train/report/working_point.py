"""The scores from which on detections count in a report, and what they come to."""

import dataclasses
import math

from ssd_train.metrics.operating_point import BEST_F1, Curves, Goal, OperatingPoint, find_points, point_of
from ssd_train.spec import DetectorSpec
from ssd_train.thresholds import Keeping, keeping

# Of a detector that finds nothing right at any score.
FALLBACK_THRESHOLD = 0.5


def working_point(spec: DetectorSpec, curves: Curves, goal: Goal | None = None) -> Keeping:
    """Return the working thresholds: those of a goal, else those saved with the detector, else those of the best F1.

    Args:
        spec: the detector.
        curves: of this evaluation, where a goal and the best F1 are looked for.
        goal: what was asked for; None where nothing was.
    """
    if goal is None and spec.working_thresholds is not None:
        return keeping(spec)
    found = find_points(curves, goal or BEST_F1).working_thresholds("these images")
    if found is None:
        spec = dataclasses.replace(spec, working_thresholds=None)
        return dataclasses.replace(
            keeping(spec, default=FALLBACK_THRESHOLD), origin="the usual ones, since nothing that is right was found"
        )
    if goal is None:
        origin = "those of the best F1 of each class on these images, since none are saved with the detector"
    else:
        origin = f"those of {goal.text} for each class on these images, as asked"
    return dataclasses.replace(keeping(dataclasses.replace(spec, working_thresholds=found)), origin=origin)


def points_of(curves: Curves, keep: Keeping) -> dict[str, OperatingPoint]:
    """Return what each class's working threshold comes to, by name."""
    thresholds = keep.score_thresholds.tolist()
    return {
        name: curve.at(threshold) for (name, curve), threshold in zip(curves.per_class.items(), thresholds, strict=True)
    }


def together(points: dict[str, OperatingPoint]) -> OperatingPoint:
    """Return all classes as one, each at its own threshold; the threshold is NaN."""
    counts = (sum(getattr(point, name) for point in points.values()) for name in ("true", "false", "missed"))
    return point_of(math.nan, *counts)


def as_values(point: OperatingPoint) -> dict[str, float]:
    """Return the numbers of a point for JSON."""
    return {key: value for key, value in dataclasses.asdict(point).items() if key != "is_reached"}
