"""Did a backend pass, and what decided it?

Float32 in another library computes the same in another order: it is held to `Tolerances`, and what passes lost
nothing. Every other precision changes numbers, so what counts is what that costs:

- with ground truth the points of the metric that are lost. Only a loss fails: finding more is none.
- without it the share of the detections at the working threshold that changed (`changes`).

The limits are those of the precision's row, `Precision.limits`. Another input, and predictions that are not finite,
fail in any precision.
"""

import dataclasses
from collections.abc import Sequence

from ssd_deploy.parity.changes import Changes
from ssd_deploy.parity.criteria import Criteria, Tolerances
from ssd_deploy.parity.stages import Stage
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.precisions import Limits

TOLERANCES, METRIC, DETECTIONS = "tolerances", "metric", "detections"


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
    """What a verdict rests on.

    Attributes:
        stages: in the order of the data flow.
        agreement: agreement AP, a fraction.
        changes: of the detections at the working threshold.
        reports: the reference's and the candidate's score; None without ground truth.
    """

    stages: Sequence[Stage]
    agreement: float
    changes: Changes
    reports: tuple[EvaluationReport, EvaluationReport] | None

    @property
    def metric_difference(self) -> float:
        """The candidate's headline less the reference's, a fraction; NaN without ground truth."""
        if self.reports is None:
            return float("nan")
        reference, candidate = self.reports
        return candidate.headline - reference.headline


def decide(findings: Findings, limits: Limits | None, criteria: Criteria) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict, and a sentence for everything that left its limit.

    Args:
        limits: of the candidate's precision; None where it has to be equal but for rounding.
    """
    tolerances = criteria.tolerances_of(limits)
    failed = {stage.name: stage.text for stage in findings.stages if not stage.passed}
    if not findings.agreement >= tolerances.agreement:
        failed["agreement AP"] = f"{findings.agreement:.5f} is below {tolerances.agreement:g}"
    failures = tuple(f"{name}: {text}" for name, text in failed.items())
    if limits is None:
        failures += _metric_failures(findings, tolerances)
        text = "see above" if failures else "nothing was lost"
        return Verdict(decided_by=TOLERANCES, value=None, limit=None, passed=not failures, text=text), failures
    if failed:
        name, text = next(iter(failed.items()))
        return Verdict(decided_by=name, value=None, limit=None, passed=False, text=f"{name}: {text}"), failures
    verdict = _by_metric(findings, limits, criteria) or _by_detections(findings, limits, criteria)
    return verdict, () if verdict.passed else (verdict.text,)


def _metric_failures(findings: Findings, tolerances: Tolerances) -> tuple[str, ...]:
    difference = findings.metric_difference
    if findings.reports is None or abs(difference) <= tolerances.metric:
        return ()
    return (f"the metric differs by {difference:+.2e}, at most {tolerances.metric:g} is allowed",)


def _by_metric(findings: Findings, limits: Limits, criteria: Criteria) -> Verdict | None:
    """Return None without ground truth, and where no limit is known for the metric."""
    if findings.reports is None:
        return None
    limit = criteria.metric_limit(limits, findings.reports[0].metric)
    if limit is None:
        return None
    lost, name = 0 - 100 * findings.metric_difference, findings.reports[0].headline_name
    how = f"lost {lost:.2f} points" if lost >= 0 else f"won {-lost:.2f} points"
    return Verdict(
        decided_by=METRIC,
        value=lost,
        limit=limit,
        # Written this way round so that NaN fails.
        passed=lost <= limit,
        text=f"the metric decided: {name} {how}, {limit:g} may be lost",
    )


def _by_detections(findings: Findings, limits: Limits, criteria: Criteria) -> Verdict:
    changes = findings.changes
    limit = limits.changed if criteria.max_changed is None else criteria.max_changed
    return Verdict(
        decided_by=DETECTIONS,
        value=changes.share,
        limit=limit,
        # Of nothing none changed, which says nothing.
        passed=changes.total > 0 and changes.share <= limit,
        text=f"the detections decided: {changes.changed} of {changes.total} of at least "
        f"{criteria.score_threshold:g} changed, {100 * changes.share:.1f} %, {100 * limit:g} % may",
    )
