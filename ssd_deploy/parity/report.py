"""A parity run as text and as plain values."""

import dataclasses
import math
import platform
from typing import Any

from ssd_deploy.parity.compare import BackendRun, Comparison
from ssd_deploy.parity.reference import title_of
from ssd_deploy.text_table import text_table, wrapped
from ssd_train.datasets.dataset import Dataset

HEADER = (
    "backend", "precision", "metric", "difference", "changed", "verdict", "ms/image", "agreement", "score", "box px",
)  # fmt: skip

# How many unmatched detections the text lists; the JSON has them all.
LISTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityOutcome:
    """A whole parity run.

    Attributes:
        reference: its run, of PyTorch or of an adopted file.
        comparisons: one a further backend.
        candidates: the runs that were compared, one each.
        skipped: what was not run, with the reason: backends that do not work here, files that one cannot take.
        notes: what to know about the comparison, a sentence each.
        dataset: what was compared on.
    """

    reference: BackendRun
    comparisons: tuple[Comparison, ...]
    candidates: tuple[BackendRun, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    dataset: Dataset

    @property
    def passed(self) -> bool:
        return all(comparison.verdict.passed for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        reference = self.reference
        return {
            "dataset": self.dataset.name,
            "images": len(self.dataset.samples),
            "detector": dataclasses.asdict(reference.runner.spec),
            "machine": {"platform": platform.platform(), "python": platform.python_version()},
            "reference": {
                "backend": reference.runner.name,
                "latency_ms": reference.latency_ms,
                "report": reference.report.to_dict() if reference.report else None,
            },
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "passed": self.passed,
            "skipped": list(self.skipped),
            "notes": list(self.notes),
            "verdict": self.verdict(),
        }

    def text(self, width: int | None = None) -> str:
        """Return the table, for each backend what differs and where it starts, and the verdict in the last line.

        Args:
            width: most characters a line; None for no limit.
        """
        spec, report = self.reference.runner.spec, self.reference.report
        head = [f"{spec.network}, weights: {spec.weights}; {self.dataset.name}, {len(self.dataset.samples)} images"]
        if report is not None:
            head.append(f"metric: {report.headline_name}; {report.protocol_text}")
        headline = "-" if report is None else f"{100 * report.headline:.4f} %"
        latency = f"{self.reference.latency_ms:.1f}"
        first = (self.reference.runner.name, spec.precision, headline, "-", "-", "reference", latency, *3 * ("-",))
        table = text_table(HEADER, [first, *map(_row, self.comparisons)], left=2, keys=2, width=width)
        below = [line for comparison in self.comparisons for line in _details(comparison)]
        below += [f"note: {note}" for note in self.notes]
        below += [f"not run: {reason}" for reason in self.skipped]
        below.append(self.verdict())
        return "\n".join([*wrapped(head, width), table, "", *wrapped(below, width)])

    def verdict(self) -> str:
        """Say whether everything passed, and what decided: for each precision, or for each that failed.

        Of several backends in one precision it is the worst.
        """
        by_precision: dict[str, list[Comparison]] = {}
        for comparison in self.comparisons:
            if comparison.verdict.passed == self.passed:
                by_precision.setdefault(comparison.precision, []).append(comparison)
        parts = []
        for precision, comparisons in by_precision.items():
            worst = max(comparisons, key=_share_of_limit)
            text, is_equal = worst.verdict.text, worst.verdict.decided_by == "tolerances"
            if len(comparisons) > 1 and not is_equal:
                text += f" ({worst.backend})"
            parts.append(text if len(by_precision) == 1 and is_equal else f"{precision}: {text}")
        return f"{'PASS' if self.passed else 'FAIL'}: {'; '.join(parts)}"


def _share_of_limit(comparison: Comparison) -> float:
    """How much of what may be lost was lost; infinite where something failed that has no limit."""
    verdict = comparison.verdict
    if verdict.value is None or verdict.limit is None:
        return 0.0 if verdict.passed else math.inf
    return verdict.value / max(verdict.limit, 1e-9)


def _row(comparison: Comparison) -> tuple[str, ...]:
    has_metric = comparison.metric == comparison.metric
    return (
        comparison.backend,
        comparison.precision,
        f"{100 * comparison.metric:.4f} %" if has_metric else "-",
        f"{100 * comparison.metric_difference:+.4f} %" if has_metric else "-",
        f"{comparison.changes.changed} of {comparison.changes.total}",
        "pass" if comparison.verdict.passed else "FAIL",
        f"{comparison.latency_ms:.1f}",
        f"{comparison.agreement:.6f}",
        f"{comparison.score_difference:.1e}",
        f"{comparison.box_difference:.1e}",
    )


def _details(comparison: Comparison) -> list[str]:
    lines = [f"{comparison.backend}, {comparison.precision}, against {comparison.reference}:"]
    for stage in comparison.stages:
        # Without a limit there is nothing to be in order.
        mark = "FAIL" if not stage.passed else "ok  " if math.isfinite(stage.tolerance) else "    "
        lines.append(f"  {mark} {stage.name}: {stage.text}")
    if comparison.first_failing_stage is not None:
        lines.append(f"  the difference starts at: {comparison.first_failing_stage}")
    lines.append(f"  detections of at least {comparison.score_threshold:g}: {comparison.changes.text()}")
    if comparison.metric == comparison.metric:
        points = 100 * comparison.metric_difference
        lines.append(f"  metric: {100 * comparison.metric:.4f} %, {points:+.4f} points")
    # Where faint detections may come and go, those that count are listed.
    least = 0.0 if math.isfinite(comparison.tolerances.differing) else comparison.score_threshold
    alone = [
        f"  unmatched, only in {side}: image {image.image_id}, {item['class_name']} {item['score']:.5f}"
        for image in comparison.images
        for side, items in (
            (title_of(comparison.reference), image.only_reference),
            (comparison.backend, image.only_candidate),
        )
        for item in items
        if item["score"] >= least
    ]
    lines += alone[:LISTED]
    if len(alone) > LISTED:
        lines.append(f"  and {len(alone) - LISTED} more unmatched (all of them with --json)")
    lines += [f"  failed: {failure}" for failure in comparison.failures]
    return lines
