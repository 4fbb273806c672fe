"""Which score a detector is best used at: precision, recall and F1 for every threshold there is.

A detection counts when its score is the threshold or more; right and wrong are `metrics.matching`'s, at an IoU of 0.5
in image pixels, whatever rules the score goes by. Scores and thresholds are compared as float32, as
`thresholds.Keeping` does when a detector is used, so that what is promised here is what is found there.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Dataset
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.by_label import rows_by_label
from ssd_train.metrics.matching import Matches
from ssd_train.spec import WorkingThresholds


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """What a threshold comes to.

    Attributes:
        threshold: lowest score that counts; NaN where no threshold finds anything right.
        precision, recall, f1: fractions; NaN where nothing defines them.
        true, false: detections that are right and wrong.
        missed: objects that were not found.
        is_reached: it is what was looked for, and not only the nearest to it.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    true: int
    false: int
    missed: int
    is_reached: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """What a threshold is looked for: the best F1, or at least so much precision or recall.

    Attributes:
        kind: `f1`, `precision` or `recall`.
        least: of precision or recall, above 0 to 1; None for the best there is.
    """

    kind: str = "f1"
    least: float | None = None

    @property
    def text(self) -> str:
        return "best F1" if self.least is None else f"{self.kind}={self.least:g}"

    @classmethod
    def parse(cls, text: str) -> "Goal":
        """Read `precision=0.9` or `recall=0.8`.

        Raises:
            DatasetError: it is neither, or the number is not above 0 and at most 1.
        """
        kind, _, number = (part.strip() for part in text.partition("="))
        try:
            least = float(number)
        except ValueError:
            least = math.nan
        if kind not in ("precision", "recall") or not 0 < least <= 1:
            raise DatasetError(
                f"at {text!r}: expected precision=P or recall=R with a number above 0 and at most 1, such as "
                "precision=0.9",
                arguments=("at",),
            )
        return cls(kind=kind, least=least)


BEST_F1 = Goal()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Curve:
    """What every threshold comes to, for one class or for all together; T scores that differ, best first.

    Attributes:
        thresholds: (T,) float32, descending: every score that decides something.
        true, false: (T,) int64, detections of that score or more that are right and wrong.
        precision, recall, f1: (T,) float64 fractions; recall and F1 are NaN where there are no objects.
        positives: objects that count, so neither difficult nor crowd.
        lowest: the score that the detector itself keeps nothing below.
    """

    thresholds: NDArray[np.float32]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    positives: int
    lowest: float

    def at(self, threshold: float) -> OperatingPoint:
        """Return what a threshold comes to; precision is NaN where it leaves nothing."""
        reached = int((self.thresholds >= np.float32(threshold)).sum())
        return self._point(reached - 1, threshold) if reached else point_of(threshold, 0, 0, self.positives)

    def find(self, goal: Goal = BEST_F1) -> OperatingPoint:
        """Return the point that is looked for, or the nearest to it (`is_reached`).

        Of equal F1 it is that of the highest threshold. For a precision it is the lowest threshold that has it, so
        that most is found; for a recall the highest. The threshold is the shortest number that leaves the same
        detections; where nothing that is right was found, or there is nothing to find, it is NaN.
        """
        if not self.positives or not self.true.any():
            return dataclasses.replace(self.at(math.inf), threshold=math.nan, is_reached=False)
        values: NDArray[np.float64] = getattr(self, goal.kind)
        reached = np.flatnonzero(values >= (values.max() if goal.least is None else goal.least))
        points = reached if len(reached) else np.flatnonzero(values == values.max())
        index = int(points[-1] if goal.kind == "precision" else points[0])
        return dataclasses.replace(self._point(index, self._typed(index)), is_reached=bool(len(reached)))

    def _point(self, index: int, threshold: float) -> OperatingPoint:
        true, false = int(self.true[index]), int(self.false[index])
        return point_of(threshold, true, false, self.positives - true)

    def _typed(self, index: int) -> float:
        score = float(self.thresholds[index])
        below = float(self.thresholds[index + 1]) if index + 1 < len(self.thresholds) else self.lowest
        return shortest_between(below if below < score else 0.0, score)


def shortest_between(below: float, score: float) -> float:
    """Return the number of fewest decimals above `below` and at most `score`, both float32 values; of several the most
    central one, which is the least likely to change sides where another backend rounds otherwise.

    It stands between them as a float32, too.
    """
    low, high = Decimal(below), Decimal(score)
    for decimals in itertools.count(1):
        step = Decimal(1).scaleb(-decimals)
        first = (low / step).to_integral_value(ROUND_FLOOR) + 1
        last = (high / step).to_integral_value(ROUND_FLOOR)
        central = max(first, ((low + high) / 2 / step).to_integral_value())
        # Between neighbours the most central number may round to the lower one; the last is the score in the end.
        for number in (min(central, last), last):
            typed = float(number * step)
            if np.float32(below) < np.float32(typed) <= np.float32(score):
                return typed
    raise AssertionError("every float32 is a decimal number")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """One for all classes together, which share a threshold there, and one for each class, by name."""

    overall: Curve
    per_class: dict[str, Curve]


def curves_of(
    dataset: Dataset, detections: Sequence[Detections], matches: Sequence[Matches], *, lowest: float = 0.0
) -> Curves:
    """Sum up a data set's matches.

    Args:
        dataset: whose objects the detections were matched with.
        detections: one each a sample, as `run_detector` returns them.
        matches: as `matching.match_dataset` returns them.
        lowest: the detector's own score threshold, `spec.postprocess.score_threshold`.
    """
    count = len(dataset.class_names)
    labels = np.concatenate([found.labels for found in detections] or [np.zeros(0, np.int64)])
    scores = np.concatenate([found.scores for found in detections] or [np.zeros(0, np.float32)])
    is_true = np.concatenate([each.is_true for each in matches] or [np.zeros(0, bool)])
    is_false = np.concatenate([each.is_false for each in matches] or [np.zeros(0, bool)])
    truths = [sample.ground_truth for sample in dataset.samples]
    wanted = [truth.labels[~(truth.is_difficult | truth.is_crowd)] for truth in truths]
    positives = np.bincount(np.concatenate(wanted or [np.zeros(0, np.int64)]), minlength=count)
    counts = is_true | is_false
    labels, scores, is_true = labels[counts], scores[counts], is_true[counts]
    by_label = rows_by_label(labels, count)
    return Curves(
        overall=_curve(scores, is_true, int(positives.sum()), lowest),
        per_class={
            name: _curve(scores[rows], is_true[rows], number, lowest)
            for name, rows, number in zip(dataset.class_names, by_label, positives.tolist(), strict=True)
        },
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatingPoints:
    """What was looked for, and where it is.

    Attributes:
        goal: what was looked for.
        overall: of all classes together, at one threshold for all.
        per_class: class name -> its own; its threshold is NaN where it has none.
        combined: of all classes together, each at its own threshold, or at the overall one where it has none: what a
            detector gives that is used with `working_thresholds`. Its threshold is NaN.
    """

    goal: Goal
    overall: OperatingPoint
    per_class: dict[str, OperatingPoint]
    combined: OperatingPoint

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `files.write_json`."""
        named = {"all": self.overall, "each_class_at_its_own": self.combined}
        plain: dict[str, Any] = {name: dataclasses.asdict(point) for name, point in named.items()}
        return plain | {"per_class": {name: dataclasses.asdict(point) for name, point in self.per_class.items()}}

    def working_thresholds(self, found_on: str) -> WorkingThresholds | None:
        """Return what a detector is to be used with; None where nothing that is right was found.

        Args:
            found_on: the data, for people.
        """
        if math.isnan(self.overall.threshold):
            return None
        own = {name: point.threshold for name, point in self.per_class.items() if not math.isnan(point.threshold)}
        return WorkingThresholds(
            overall=self.overall.threshold, per_class=own, found_by=f"{self.goal.text} on {found_on}, IoU 0.5"
        )


def find_points(curves: Curves, goal: Goal = BEST_F1) -> OperatingPoints:
    """Look for a point on every curve."""
    overall = curves.overall.find(goal)
    per_class = {name: curve.find(goal) for name, curve in curves.per_class.items()}
    used = [
        curve.at(overall.threshold) if math.isnan(per_class[name].threshold) else per_class[name]
        for name, curve in curves.per_class.items()
    ]
    true, false, missed = (sum(getattr(point, name) for point in used) for name in ("true", "false", "missed"))
    return OperatingPoints(
        goal=goal, overall=overall, per_class=per_class, combined=point_of(math.nan, true, false, missed)
    )


def point_of(threshold: float, true: int, false: int, missed: int) -> OperatingPoint:
    """Return what counts of right and wrong detections and of missed objects come to."""
    found, positives = true + false, true + missed
    return OperatingPoint(
        threshold=threshold,
        precision=true / found if found else math.nan,
        recall=true / positives if positives else math.nan,
        f1=2 * true / (found + positives) if positives else math.nan,
        true=true,
        false=false,
        missed=missed,
    )


def _curve(scores: NDArray[np.float32], is_true: NDArray[np.bool_], positives: int, lowest: float) -> Curve:
    order = np.argsort(-scores, kind="stable")
    scores, is_true = scores[order], is_true[order]
    # Equal scores are on one side of every threshold, so that only the last of them is a point.
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    true = np.cumsum(is_true, dtype=np.int64)[last]
    found = last + 1
    unknown = np.full(len(last), math.nan)
    return Curve(
        thresholds=scores[last].astype(np.float32, copy=False),
        true=true,
        false=found - true,
        precision=true / found,
        recall=true / positives if positives else unknown,
        f1=2 * true / (found + positives) if positives else unknown,
        positives=positives,
        lowest=lowest,
    )
