"""Did a backend pass, and what decided it?

Float32 in another library computes the same in another order: it is held to `Tolerances`, and what passes lost
nothing. Every other precision changes numbers, so what counts is what that costs:

- with ground truth the points of the metric that are lost. Only a loss fails: finding more is none.
- without it the share of the detections at the working threshold that changed (`changes`).

The limits are those of the precision's row, `Precision.limits`. Another input, and predictions that are not finite,
fail in any precision.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ssd_deploy.parity.pairs import MOVED_IOU, Changes
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.options import check_ranges, option
from ssd_train.precisions import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far a backend may be from the reference; the defaults are what float32 in another order explains.

    Infinity is no limit, but what is not finite fails all the same.

    Attributes:
        metric: largest difference of the data set's metric, a fraction.
        agreement: lowest agreement AP, a fraction.
        input_tensor: largest difference of a normalised pixel.
        raw: largest difference of a logit or offset, as a share of its tensor's standard deviation.
        score: largest score difference of a matched pair.
        box: largest corner difference of a matched pair in image pixels.
        differing: share of the detections that may have no partner, or one further away than `box`.
        pair_iou: overlap from which two detections of a label are taken for the same one.
    """

    metric: float = 1e-4
    agreement: float = 0.999
    input_tensor: float = 1e-5
    raw: float = 1e-3
    score: float = 1e-4
    box: float = 0.1
    differing: float = 0.002
    pair_iou: float = 0.9

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0:
                raise DatasetError(f"a tolerance of {value} for {name} is below 0", arguments=(name,))

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON; None is no limit."""
        return {name: _finite(value) for name, value in dataclasses.asdict(self).items()}


# Of a precision that changes numbers only what goes in is held to a limit; the rest is said as it is.
UNLIMITED = Tolerances(
    metric=math.inf, agreement=0, raw=math.inf, score=math.inf, box=math.inf, differing=math.inf, pair_iou=MOVED_IOU
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison along the data flow: the largest difference, the largest allowed, and both as text with units."""

    name: str
    difference: float
    tolerance: float
    text: str

    @property
    def passed(self) -> bool:
        # NaN fails, and so does infinity where there is no limit.
        return math.isfinite(self.difference) and self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no infinity: null, and the text says it."""
        finite = {"difference": _finite(self.difference), "tolerance": _finite(self.tolerance)}
        return dataclasses.asdict(self) | finite | {"passed": self.passed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criteria:
    """What backends have to meet; None is what the precision's row says.

    `max_drop` goes before `tolerance`. `tolerances` is what a precision without limits, float32, is held to.

    Raises:
        DatasetError: a value outside its range.
    """

    score_threshold: float = option(
        0.3, "Detections of at least this score are counted.", names=("--score-threshold",), least=0, below=1
    )
    max_drop: float | None = option(
        None, "Points of the metric that may be lost; without it 0.05 for fp16, 0.3 (VOC) or 0.5 (COCO) for int8.",
        least=0, most=100,
    )  # fmt: skip
    max_changed: float | None = option(
        None, "Share of the detections that may change; without it 0.02 for fp16, 0.1 for int8.", least=0, most=1
    )
    tolerance: float | None = option(
        None, "Largest difference of the metric, a fraction; without it 1e-4 for fp32.", least=0
    )
    min_agreement: float | None = option(
        None, "Lowest agreement AP, a fraction; without it 0.999 for fp32.", least=0, most=1
    )
    tolerances: Tolerances = Tolerances()

    def __post_init__(self) -> None:
        check_ranges(self, DatasetError)

    def tolerances_of(self, limits: Limits | None) -> Tolerances:
        """Return what the stages of a precision with such limits are held to."""
        asked = {"metric": self.tolerance if limits is None else None, "agreement": self.min_agreement}
        changes = {name: value for name, value in asked.items() if value is not None}
        return dataclasses.replace(self.tolerances if limits is None else UNLIMITED, **changes)

    def metric_limit(self, limits: Limits, metric: str) -> float | None:
        """Return the points that a precision may lose of a metric; None where nobody says."""
        if self.max_drop is not None:
            return self.max_drop
        return limits.metric_drop.get(metric) if self.tolerance is None else 100 * self.tolerance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a backend passed.

    Attributes:
        decided_by: `tolerances`, `metric` or `detections`; where something failed that no precision may change, its
            name.
        value: points that were lost, or the share that changed; None where tolerances decided.
        limit: the most of it that may be.
        passed: the verdict.
        text: the value, the limit and the counts as a sentence, for the last line.
    """

    decided_by: str
    value: float | None
    limit: float | None
    passed: bool
    text: str


def decide(
    stages: Sequence[Stage],
    agreement: float,
    changes: Changes,
    report: EvaluationReport | None,
    metric_difference: float,
    limits: Limits | None,
    criteria: Criteria,
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict, and a sentence for everything that left its limit.

    Args:
        stages: in the order of the data flow.
        agreement: agreement AP, a fraction.
        changes: of the detections at the working threshold.
        report: the candidate's score; None without ground truth.
        metric_difference: its headline less the reference's, a fraction.
        limits: of the candidate's precision; None where it has to be equal but for rounding.
    """
    tolerances = criteria.tolerances_of(limits)
    failed = {stage.name: stage.text for stage in stages if not stage.passed}
    if not agreement >= tolerances.agreement:
        failed["agreement AP"] = f"{agreement:.5f} is below {tolerances.agreement:g}"
    failures = tuple(f"{name}: {text}" for name, text in failed.items())
    if limits is None:
        if report is not None and not abs(metric_difference) <= tolerances.metric:
            failures += (f"the metric differs by {metric_difference:+.2e}, at most {tolerances.metric:g} is allowed",)
        text = "see above" if failures else "nothing was lost"
        return Verdict(decided_by="tolerances", value=None, limit=None, passed=not failures, text=text), failures
    if failed:
        return Verdict(decided_by=next(iter(failed)), value=None, limit=None, passed=False, text=failures[0]), failures
    max_drop = None if report is None else criteria.metric_limit(limits, report.metric)
    if report is not None and max_drop is not None:
        lost = 0 - 100 * metric_difference
        how = f"lost {lost:.2f} points" if lost >= 0 else f"won {-lost:.2f} points"
        verdict = Verdict(
            decided_by="metric",
            value=lost,
            limit=max_drop,
            # Written this way round so that NaN fails.
            passed=lost <= max_drop,
            text=f"the metric decided: {report.headline_name} {how}, {max_drop:g} may be lost",
        )
    else:
        limit = limits.changed if criteria.max_changed is None else criteria.max_changed
        verdict = Verdict(
            decided_by="detections",
            value=changes.share,
            limit=limit,
            # Of nothing none changed, which says nothing.
            passed=changes.total > 0 and changes.share <= limit,
            text=f"the detections decided: {changes.changed} of {changes.total} of at least "
            f"{criteria.score_threshold:g} changed, {100 * changes.share:.1f} %, {100 * limit:g} % may",
        )
    return verdict, () if verdict.passed else (verdict.text,)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
