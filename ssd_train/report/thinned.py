"""A curve of any number of points as one that a chart shows and a file holds."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.metrics.operating_point import Curve

POINTS = 200


def thinned_points(curve: Curve) -> NDArray[np.int64]:
    """Return indices of at most 600 points, spread over the order, the thresholds and the recall, ends included."""
    count = len(curve.thresholds)
    if count <= POINTS:
        return np.arange(count)
    spread = np.linspace(0, count - 1, POINTS).round().astype(np.int64)
    # Each step of recall at its first point, where precision is highest.
    by_recall = np.searchsorted(curve.true, np.linspace(0, curve.true[-1], POINTS))
    by_threshold = np.searchsorted(-curve.thresholds, -np.linspace(0, 1, POINTS))
    chosen: NDArray[np.int64] = np.unique(np.minimum(np.concatenate([spread, by_recall, by_threshold]), count - 1))
    return chosen


def thinned(curve: Curve) -> dict[str, Any]:
    """Return a curve's points as lists for JSON."""
    chosen = thinned_points(curve)
    # A float32 as its shortest decimal.
    thresholds = [float(str(value)) for value in curve.thresholds[chosen]]
    of_points = {name: getattr(curve, name)[chosen].tolist() for name in ("precision", "recall", "f1", "true", "false")}
    return {"threshold": thresholds, **of_points, "objects": curve.positives}
