"""An evaluation as data: everything that its page shows, computed before any of it is drawn."""

import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Dataset
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.metrics.confusion import confusion_matrix, matrix_rows
from ssd_train.metrics.matching import Matches
from ssd_train.metrics.mistakes import Mistake, find_mistakes
from ssd_train.metrics.operating_point import Curves, Goal, OperatingPoint
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.table import METRICS
from ssd_train.report.histograms import Histogram, histograms
from ssd_train.report.sizes import OfSize, by_size
from ssd_train.report.thinned import thinned
from ssd_train.report.working_point import as_values, points_of, together, working_point
from ssd_train.spec import DetectorSpec
from ssd_train.thresholds import Keeping

# Of `report.json`; raised where a field changes its meaning or goes away.
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """What a report shows; N images, C classes.

    Attributes:
        dataset: what was evaluated.
        kept: (N) detections at the working thresholds, boxes clipped to their images.
        report: the metric that was asked for.
        other_reports: of every other metric that gives one.
        unscored: metric's name -> a sentence why it gives none.
        keep: the working thresholds and where they come from.
        curves: what every threshold comes to.
        histograms: scores of right and wrong detections, of each class by name; "" holds all.
        points: what the working thresholds come to, of each class by name.
        confusion: (K + 1, K + 1), see `confusion_matrix`.
        confusion_classes: (K) what its rows are of, see `matrix_rows`.
        sizes: objects by size.
        mistakes: (N) those in each image.
        ran: what was run, names and values for people.
    """

    dataset: Dataset
    kept: Sequence[Detections]
    report: EvaluationReport
    other_reports: Sequence[EvaluationReport]
    unscored: Mapping[str, str]
    keep: Keeping
    curves: Curves
    histograms: Mapping[str, Histogram]
    points: Mapping[str, OperatingPoint]
    confusion: NDArray[np.int64]
    confusion_classes: tuple[str, ...]
    sizes: tuple[OfSize, ...]
    mistakes: Sequence[Sequence[Mistake]]
    ran: Mapping[str, str]

    @property
    def overall(self) -> OperatingPoint:
        return together(dict(self.points))

    def kinds_of(self, label: int | None = None) -> Counter[str]:
        """Count mistakes by kind, of one class or of all."""
        if label is not None:
            return self._kinds_by_label.get(label, Counter())
        return sum(self._kinds_by_label.values(), start=Counter())

    @functools.cached_property
    def _kinds_by_label(self) -> dict[int, Counter[str]]:
        kinds: dict[int, Counter[str]] = defaultdict(Counter)
        for of_image in self.mistakes:
            for mistake in of_image:
                kinds[mistake.label][mistake.kind] += 1
        return dict(kinds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the curves are thinned out."""
        names = self.dataset.class_names
        return {
            "schema_version": SCHEMA_VERSION,
            "evaluation": self.report.to_dict(),
            "other_metrics": [other.to_dict() for other in self.other_reports],
            "unscored_metrics": dict(self.unscored),
            "working_thresholds": {
                "origin": self.keep.origin,
                "per_class": dict(zip(names, self.keep.score_thresholds.tolist(), strict=True)),
            },
            "overall": as_values(self.overall),
            "per_class": {
                name: as_values(point) | {"mistakes": dict(self.kinds_of(label))}
                for label, (name, point) in enumerate(self.points.items())
            },
            "sizes": [
                {
                    **dataclasses.asdict(size),
                    "below": None if size.name == "large" else size.below,
                    "recall": size.recall,
                }
                for size in self.sizes
            ],
            "confusion": {
                "classes": [*self.confusion_classes, "background"],
                "rows_are": "truth",
                "matrix": self.confusion.tolist(),
            },
            "curves": {
                "all": thinned(self.curves.overall),
                "per_class": {name: thinned(curve) for name, curve in self.curves.per_class.items()},
            },
            "mistakes": [
                {
                    "image": str(sample.image_id),
                    "kind": mistake.kind,
                    "class": names[mistake.label],
                    "score": mistake.score,
                    "box": list(mistake.box),
                    "iou": mistake.iou,
                    "object_class": None
                    if mistake.object is None
                    else names[sample.ground_truth.labels[mistake.object]],
                }
                for sample, of_image in zip(self.dataset.samples, self.mistakes, strict=True)
                for mistake in of_image
            ],
            "ran": dict(self.ran),
        }


def collect(
    dataset: Dataset,
    detections: Sequence[Detections],
    spec: DetectorSpec,
    report: EvaluationReport,
    ran: Mapping[str, str],
    *,
    matches: Sequence[Matches],
    curves: Curves,
    evaluator: str | None = None,
    goal: Goal | None = None,
) -> Evaluation:
    """Compute everything that a page shows.

    Args:
        dataset: with the detector's classes.
        detections: one each a sample, as `run_detector` returns them.
        spec: the detector that found them.
        report: their score, from `evaluate.score`.
        ran: what was run, see `provenance.describe_run`.
        matches: of the detections with the objects, from `match_dataset`.
        curves: of these, from `curves_of`.
        evaluator: what computes the other metrics, where there is a choice.
        goal: what the working thresholds are looked for by; see `working_point`.
    """
    keep = working_point(spec, curves, goal)
    rows = [keep.rows(found) for found in detections]
    kept = [
        found.select(own).clipped(sample.image_size)
        for sample, found, own in zip(dataset.samples, detections, rows, strict=True)
    ]
    kept_matches = [of_image.select(own) for of_image, own in zip(matches, rows, strict=True)]
    truths = [sample.ground_truth for sample in dataset.samples]
    other_reports, unscored = _other_reports(dataset, detections, spec, report, evaluator)
    confusion_classes, rows_of = matrix_rows(truths, kept, dataset.class_names)
    coco = next((each for each in (report, *other_reports) if each.metric == "coco"), None)
    return Evaluation(
        dataset=dataset,
        kept=kept,
        report=report,
        other_reports=other_reports,
        unscored=unscored,
        keep=keep,
        curves=curves,
        histograms=histograms(detections, matches, dataset.class_names),
        points=points_of(curves, keep),
        confusion=confusion_matrix(truths, kept, len(dataset.class_names), rows_of),
        confusion_classes=confusion_classes,
        sizes=by_size(truths, kept_matches, coco.numbers if coco is not None else {}),
        mistakes=[find_mistakes(*of_image) for of_image in zip(truths, kept, kept_matches, strict=True)],
        ran=ran,
    )


def _other_reports(
    dataset: Dataset,
    detections: Sequence[Detections],
    spec: DetectorSpec,
    report: EvaluationReport,
    evaluator: str | None,
) -> tuple[list[EvaluationReport], dict[str, str]]:
    """Score with every metric but the report's own; returns the reports, and why others give none."""
    reports, unscored = [], {}
    for name, row in METRICS.items():
        if name == report.metric:
            continue
        chosen = evaluator if row.with_evaluator else None
        try:
            protocol = Protocol(report.protocol)
            reports.append(score(dataset, detections, spec, metric=name, protocol=protocol, evaluator=chosen))
        except DatasetError as error:
            unscored[name] = str(error)
    return reports, unscored
