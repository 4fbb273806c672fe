"""One backend over all images, and two of them held against each other."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.pairs import Changes, count_changes
from ssd_deploy.parity.stages import (
    ImageComparison,
    Stage,
    Tolerances,
    compare_image,
    compare_inputs_and_raw,
    detection_stages,
)
from ssd_deploy.parity.verdict import Criteria, Verdict, decide
from ssd_train.datasets.dataset import Dataset, image_samples
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import PRECISIONS


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendRun:
    """One backend over all images: its detections, its score and its speed."""

    runner: Runner
    detections: list[Detections]
    latency_ms: float
    report: EvaluationReport | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """One backend held against the reference.

    Attributes:
        metric, metric_difference: the data set's headline number and its difference from the
            reference's, fractions; NaN without ground truth.
        agreement: agreement AP, a fraction.
        latency_ms: median over batches of the time an image takes in the backend, transfers included.
        stages: in the order of the data flow.
        per_class_difference: class name -> difference of its AP.
        score_threshold: detections of at least this score were counted in `changes`.
        failures: what left its limit, a sentence each; empty where the backend passed.
    """

    backend: str
    reference: str
    precision: str
    tolerances: Tolerances
    metric: float
    metric_difference: float
    agreement: float
    latency_ms: float
    stages: tuple[Stage, ...]
    images: tuple[ImageComparison, ...]
    per_class_difference: dict[str, float]
    score_threshold: float
    changes: Changes
    verdict: Verdict
    failures: tuple[str, ...]

    @property
    def first_failing_stage(self) -> str | None:
        return next((stage.name for stage in self.stages if not stage.passed), None)

    @property
    def unmatched(self) -> int:
        return sum(image.unmatched for image in self.images)

    @property
    def matched(self) -> int:
        return sum(image.matched for image in self.images)

    @property
    def score_difference(self) -> float:
        return max(image.score_difference for image in self.images)

    @property
    def box_difference(self) -> float:
        return max(image.box_difference for image in self.images)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("first_failing_stage", "matched", "unmatched", "score_difference", "box_difference")
        return {
            **dataclasses.asdict(self),
            **{name: getattr(self, name) for name in names},
            "tolerances": self.tolerances.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "changes": self.changes.to_dict(),
            "passed": self.verdict.passed,
        }


def images_as_dataset(paths: Sequence[Path], class_names: tuple[str, ...]) -> Dataset:
    """Make a data set without ground truth from image files; every file is opened, for its size."""
    category_ids = tuple(range(1, len(class_names) + 1))
    return Dataset(name="image files", class_names=class_names, samples=image_samples(paths), category_ids=category_ids)


def run_backend(
    runner: Runner,
    dataset: Dataset,
    *,
    metric: str | None,
    protocol: Protocol,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> BackendRun:
    """Run one backend over a data set through the evaluation loop, with the time that its calls take."""
    times_ms: list[float] = []

    def timed(images: NDArray[np.float32]) -> PaddedDetections:
        start = time.perf_counter()
        answer = runner.run(images)
        times_ms.append((time.perf_counter() - start) * 1e3 / len(images))
        return answer

    size = min(batch_size, runner.max_batch_size or batch_size)
    detections = run_detector(
        dataset.samples, timed, runner.spec, batch_size=size, workers=workers, on_progress=on_progress
    )
    report = None
    if metric is not None:
        report = score(dataset, detections, runner.spec, metric=metric, protocol=protocol)
    return BackendRun(runner=runner, detections=detections, latency_ms=float(np.median(times_ms)), report=report)


def compare(
    reference: BackendRun,
    candidate: BackendRun,
    dataset: Dataset,
    criteria: Criteria = Criteria(),
    *,
    batch_size: int = 1,
    with_raw: bool = True,
) -> Comparison:
    """Hold a backend against the reference.

    Args:
        batch_size: images a call where raw predictions are compared.
        with_raw: compare raw predictions; not possible for an engine that came without its ONNX file.

    Raises:
        DatasetError: there is nothing to compare: no image, no detection on either side, or, in a precision with
            limits, none of the reference's at the working threshold.
        NetworkError: the candidate names a precision that does not exist.
    """
    spec = candidate.runner.spec
    limits = PRECISIONS.find(spec.precision).limits
    if not dataset.samples:
        raise DatasetError("there are no images to compare on; name some")
    if not any(len(found) for found in (*reference.detections, *candidate.detections)):
        raise DatasetError(
            f"{dataset.name}: neither {reference.runner.name} nor {candidate.runner.name} detected anything, so "
            "nothing was compared; use other images or trained weights"
        )
    threshold = working_threshold(reference.runner, criteria)
    if limits is not None:
        check_something_found(reference, dataset, threshold)
    tolerances = criteria.tolerances_of(limits)
    images = tuple(
        compare_image(sample, ours, theirs, dataset.class_names, tolerances)
        for sample, ours, theirs in zip(dataset.samples, reference.detections, candidate.detections, strict=True)
    )
    stages = (
        *compare_inputs_and_raw(reference.runner, candidate.runner, dataset.samples, tolerances, batch_size, with_raw),
        *detection_stages(images, tolerances),
    )
    sizes = [sample.image_size for sample in dataset.samples]
    agreement = agreement_ap(reference.detections, candidate.detections, sizes, len(dataset.class_names))
    changes = count_changes(reference.detections, candidate.detections, threshold)
    metric, metric_difference, per_class_difference = math.nan, math.nan, {}
    if reference.report is not None and candidate.report is not None:
        metric = candidate.report.headline
        metric_difference = metric - reference.report.headline
        for name, values in candidate.report.per_class.items():
            # The first is the headline's.
            key = next(iter(values))
            per_class_difference[name] = values[key] - reference.report.per_class[name][key]
    criteria = dataclasses.replace(criteria, score_threshold=threshold)
    verdict, failures = decide(stages, agreement, changes, candidate.report, metric_difference, limits, criteria)
    return Comparison(
        backend=candidate.runner.name,
        reference=reference.runner.name,
        precision=spec.precision,
        tolerances=tolerances,
        metric=metric,
        metric_difference=metric_difference,
        agreement=agreement,
        latency_ms=candidate.latency_ms,
        stages=stages,
        images=images,
        per_class_difference=per_class_difference,
        score_threshold=threshold,
        changes=changes,
        verdict=verdict,
        failures=failures,
    )


def working_threshold(reference: Runner, criteria: Criteria) -> float:
    """Return the score from which detections count: below the detector's own threshold there are none to count."""
    return max(criteria.score_threshold, reference.spec.postprocess.score_threshold)


def check_something_found(reference: BackendRun, dataset: Dataset, threshold: float) -> None:
    """Raise DatasetError where the reference finds nothing at the working threshold: no verdict could rest on that."""
    if not any((found.scores >= np.float32(threshold)).any() for found in reference.detections):
        raise DatasetError(
            f"{dataset.name}: {reference.runner.name} finds nothing with a score of at least {threshold:g}, so "
            "nothing was compared; use other images, trained weights or a lower score threshold",
            arguments=("score_threshold",),
        )
