"""Detections of a whole data set -> a score and everything needed to know what it means."""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.scored import Scored
from ssd_train.metrics.table import METRICS
from ssd_train.nms import is_settled
from ssd_train.spec import DetectorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """A score and what it means.

    Attributes:
        dataset: the data set's name.
        network: the network's name.
        metric: name of a row of `METRICS`.
        headline_name: key of `numbers` that is quoted first.
        numbers: metric name -> fraction; NaN where nothing defines it. Empty where nothing could be found.
        per_class: class name -> its AP by name (fractions, NaN likewise) and its number of `objects` that count.
        protocol: name of the rules.
        protocol_text: what those rules are.
        postprocess: the detector's own thresholds and limits.
        images: how many were scored.
        objects, difficult_objects, crowd_objects: annotated in them; the first counts all.
        detections: found in them.
        capped_images: images whose detections reach `max_detections`, so that more may have been cut.
        unsettled_images: images with a chain of overlapping boxes that is longer than the detector's rounds of
            suppression can follow, so that it kept boxes too many; see `nms.is_settled`.
        notes: what was left out or mended, a sentence each.
    """

    dataset: str
    network: str
    metric: str
    headline_name: str
    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    protocol: str
    protocol_text: str
    postprocess: dict[str, float]
    images: int
    objects: int
    difficult_objects: int
    crowd_objects: int
    detections: int
    capped_images: int
    unsettled_images: int
    notes: tuple[str, ...]

    @property
    def headline(self) -> float:
        """The number that is quoted first, a fraction; NaN without a score."""
        return self.numbers.get(self.headline_name, float("nan"))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `files.write_json`, headline included; fractions are not rounded."""
        return {**dataclasses.asdict(self), "headline": self.headline}

    def lines(self, width: int = 80) -> list[str]:
        """Return the report as text, numbers in percent; lines longer than `width` are wrapped and indented."""
        limit = self.postprocess["max_detections"]
        lines = [
            f"{self.headline_name} {percent(self.headline)}  {self.network} on {self.dataset}",
            self.protocol_text,
            "detector: " + ", ".join(f"{key} {value:g}" for key, value in self.postprocess.items()),
            f"{self.images} images, {self.objects} objects ({self.difficult_objects} difficult, "
            f"{self.crowd_objects} crowd), {self.detections} detections, "
            f"{self.capped_images} images at the limit of {limit:g} detections",
        ]
        if self.unsettled_images:
            lines.append(
                f"note: in {self.unsettled_images} images suppression came to the end of its rounds, and kept boxes "
                "that overlap a better one of their class"
            )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"{name:<12} {percent(value):>8}" for name, value in self.numbers.items()]
        longest = max(map(len, self.per_class), default=0)
        for name, values in self.per_class.items():
            cells = [f"{key} {percent(value):>8}" for key, value in values.items() if key != "objects"]
            lines.append(f"{name:<{longest}}  {'  '.join(cells)}  ({values['objects']:g} objects)")
        # Spaces stay as they are: they align the columns.
        wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        return [part for line in lines for part in wrapper.wrap(line)]


def percent(fraction: float) -> str:
    """Return a fraction as reports print it; `n/a` for NaN."""
    return "n/a" if np.isnan(fraction) else f"{100 * fraction:.2f} %"


def score(
    dataset: Dataset,
    detections: Sequence[Detections],
    spec: DetectorSpec,
    *,
    metric: str,
    protocol: Protocol,
    evaluator: str | None = None,
) -> EvaluationReport:
    """Score detections of a whole data set.

    Args:
        dataset: its classes must be the detector's.
        detections: one each a sample, boxes in image pixels, as `run_detector` returns them.
        spec: the detector that found them.
        metric: name of a row of `METRICS`.
        protocol: the rules to score by.
        evaluator: name of a row of `EVALUATORS` that computes it; None for the metric's own.

    Raises:
        BackendError: the evaluator is not installed.
        DatasetError: no such metric or evaluator, a metric that has none, no images, or other classes than the
            detector's.
        ValueError: `detections` does not have one entry a sample.
    """
    row = METRICS.find(metric)
    if evaluator is not None:
        if row.with_evaluator is None:
            raise DatasetError(f"evaluator {evaluator!r} does not compute the metric {metric!r}; leave it out")
        row = row.with_evaluator(evaluator)
    if dataset.class_names != spec.class_names:
        raise DatasetError(
            f"{dataset.name} has classes {', '.join(dataset.class_names[:5])}..., the detector "
            f"{', '.join(spec.class_names[:5])}...; load the data set with the detector's class list"
        )
    if len(detections) != len(dataset.samples):
        raise ValueError(f"{len(detections)} images were detected, but {dataset.name} has {len(dataset.samples)}")
    truths = [sample.ground_truth for sample in dataset.samples]
    scored = row.score(dataset, detections, spec, protocol) if has_objects(dataset.samples) else _no_score(dataset)
    limit = spec.postprocess.max_detections
    return EvaluationReport(
        dataset=dataset.name,
        network=spec.network,
        metric=metric,
        headline_name=row.headline,
        numbers=scored.numbers,
        per_class=scored.per_class,
        protocol=protocol.value,
        protocol_text=row.describe(protocol, spec),
        postprocess=dataclasses.asdict(spec.postprocess),
        images=len(dataset.samples),
        objects=sum(len(truth) for truth in truths),
        difficult_objects=sum(int(truth.is_difficult.sum()) for truth in truths),
        crowd_objects=sum(int(truth.is_crowd.sum()) for truth in truths),
        detections=sum(len(found) for found in detections),
        capped_images=sum(len(found) >= limit for found in detections),
        unsettled_images=sum(
            not is_settled(found.boxes, found.labels, spec.postprocess.nms_iou_threshold) for found in detections
        ),
        notes=dataset.notes + scored.notes,
    )


def has_objects(samples: Sequence[Sample]) -> bool:
    """Whether a score is defined: some object is neither difficult nor crowd."""
    truths = (sample.ground_truth for sample in samples)
    return any(bool((~(truth.is_difficult | truth.is_crowd)).any()) for truth in truths)


def _no_score(dataset: Dataset) -> Scored:
    reason = "there are no annotations" if not dataset.is_annotated else "no image has an object that counts"
    return Scored(numbers={}, per_class={}, notes=(f"no score, since {reason}",))
