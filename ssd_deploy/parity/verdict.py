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

from ssd_deploy.parity.criteria import Criteria, finite_or_none
from ssd_deploy.parity.pairs import Changes
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.precisions import Limits


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
        finite = {"difference": finite_or_none(self.difference), "tolerance": finite_or_none(self.tolerance)}
        return dataclasses.asdict(self) | finite | {"passed": self.passed}


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
