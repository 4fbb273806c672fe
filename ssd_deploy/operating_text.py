"""Thresholds and what they come to, as lines for a terminal."""

import math

from ssd_deploy.text_table import text_table, wrapped
from ssd_train.evaluation.evaluate import percent
from ssd_train.metrics.operating_point import OperatingPoint, OperatingPoints

HEADER = ("class", "threshold", "precision", "recall", "F1", "objects")


def operating_lines(points: OperatingPoints, width: int = 80) -> list[str]:
    """Return a headline, a row for all classes and one each, and what there is to say of them; fractions in percent."""
    rows = [_row("all", points.overall), *(_row(name, point) for name, point in points.per_class.items())]
    combined = points.combined
    notes = [
        f"each class at its own threshold: precision {percent(combined.precision)}, "
        f"recall {percent(combined.recall)}, F1 {percent(combined.f1)}"
    ]
    named = {"all": points.overall, **points.per_class}
    nearest = [name for name, point in named.items() if not point.is_reached and not math.isnan(point.threshold)]
    if nearest:
        notes.append(f"no threshold reaches {points.goal.text} for {', '.join(nearest)}; the nearest to it is shown")
    return [
        "",
        f"thresholds for {points.goal.text} (IoU 0.5; scores from the threshold on count)",
        *text_table(HEADER, rows, width=width).splitlines(),
        *wrapped(notes, width),
    ]


def _row(name: str, point: OperatingPoint) -> tuple[str, ...]:
    threshold = "n/a" if math.isnan(point.threshold) else f"{point.threshold:.15g}"
    shares = (point.precision, point.recall, point.f1)
    return name, threshold, *map(percent, shares), str(point.true + point.missed)
