"""The options of `eval` about its report and about what computes COCO's numbers."""

import dataclasses
from pathlib import Path

import typer

from ssd_train.metrics.evaluators import DEFAULT_EVALUATOR, EVALUATORS
from ssd_train.metrics.table import METRICS
from ssd_train.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting:
    report: Path | None = option(
        None, "Folder for a page with curves, confusion matrix and the worst pictures, and its data."
    )
    evaluator: str = option(
        DEFAULT_EVALUATOR, "What computes COCO's numbers; pycocotools is the reference itself.", choices=EVALUATORS
    )

    def check(self) -> None:
        """Raise for what could only fail later: a package that is missing, a folder that cannot be written."""
        EVALUATORS.find(self.evaluator).check()
        if self.report is not None:
            from ssd_train.report.page import check_report

            check_report(self.report)

    def files(self) -> tuple[Path, ...]:
        """Return the files that programs read in the report's folder, and the page."""
        from ssd_train.report.page import files_of

        return () if self.report is None else files_of(self.report)

    def evaluator_of(self, metric: str) -> str | None:
        """Return what computes a metric, None for its own; refuse one that would compute nothing."""
        if METRICS.find(metric).with_evaluator is not None:
            return self.evaluator
        if self.evaluator != DEFAULT_EVALUATOR and self.report is None:
            raise typer.BadParameter(
                f"{self.evaluator} computes COCO's numbers, and these data are scored by {metric}; add --metric coco, "
                "or --report, which has both",
                param_hint="'--evaluator'",
            )
        return None
