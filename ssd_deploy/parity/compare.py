"""One backend over all images, and two of them held against each other, stage by stage along the data flow."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.criteria import Criteria, Tolerances
from ssd_deploy.parity.pairs import Changes, count_changes, match_detections
from ssd_deploy.parity.verdict import Stage, Verdict, decide
from ssd_train.datasets.dataset import Dataset, Sample, image_samples
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import PRECISIONS
from ssd_train.preprocess import Images, network_input, preprocess

# Raw predictions are compared on this many images, since each costs both sides another forward pass.
RAW_IMAGES = 16

# Where two candidates score the same to the last bits, either may win in NMS. So few detections may
# differ without a verdict: a share of all, or this many in a short run, but never over a tenth of it.
EXCUSED_COUNT = 4
EXCUSED_AT_MOST = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendRun:
    """One backend over all images: its detections, its score and its speed."""

    runner: Runner
    detections: list[Detections]
    latency_ms: float
    report: EvaluationReport | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageComparison:
    """Detections of one image on both sides, whatever their scores.

    Attributes:
        image_id: the data set's name of the image.
        matched: pairs of one label that overlap.
        score_difference, box_difference: largest over the pairs; the box's in image pixels.
        moved: pairs whose boxes differ by more than was allowed.
        only_reference, only_candidate: what has no partner: class name, score and box.
    """

    image_id: int | str
    matched: int
    score_difference: float
    box_difference: float
    moved: int
    only_reference: tuple[dict[str, Any], ...]
    only_candidate: tuple[dict[str, Any], ...]

    @property
    def unmatched(self) -> int:
        return len(self.only_reference) + len(self.only_candidate)


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

    def timed(images: Images) -> PaddedDetections:
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
        _compare_image(sample, ours, theirs, dataset.class_names, tolerances)
        for sample, ours, theirs in zip(dataset.samples, reference.detections, candidate.detections, strict=True)
    )
    stages = (
        *_input_and_raw_stages(reference.runner, candidate.runner, dataset.samples, tolerances, batch_size, with_raw),
        *_detection_stages(images, tolerances),
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


def _input_and_raw_stages(
    reference: Runner,
    candidate: Runner,
    samples: Sequence[Sample],
    tolerances: Tolerances,
    batch_size: int,
    with_raw: bool,
) -> list[Stage]:
    """Compare what goes into both networks and what comes out of them, batch by batch."""
    worst_input, worst_raw = 0.0, dict.fromkeys(("raw logits", "raw offsets") if with_raw else (), 0.0)
    batch_size = min(batch_size, candidate.max_batch_size or batch_size)
    samples = samples[:RAW_IMAGES]
    for start in range(0, len(samples), batch_size):
        images = [sample.load_image() for sample in samples[start : start + batch_size]]
        ours, theirs = (
            np.stack([preprocess(image, runner.spec) for image in images]) for runner in (reference, candidate)
        )
        # Of a file that takes 8-bit pixels what it makes of them.
        expected, got = (
            np.stack([network_input(image, runner.spec) for image in batch])
            for runner, batch in ((reference, ours), (candidate, theirs))
        )
        worst_input = max(worst_input, _largest_difference(expected, got))
        if expected.shape != got.shape:
            worst_raw = dict.fromkeys(worst_raw, math.inf)
            break
        if with_raw:
            raw, other_raw = reference.run_raw(ours), candidate.run_raw(theirs)
            for name, expected, got in zip(worst_raw, raw, other_raw, strict=True):
                worst_raw[name] = max(worst_raw[name], _largest_difference(expected, got, expected.std()))
    unit = " of the standard deviation"
    return [
        _stage("input tensor", worst_input, tolerances.input_tensor),
        *(_stage(name, worst, tolerances.raw, unit) for name, worst in worst_raw.items()),
    ]


def _largest_difference(
    expected: NDArray[np.float32], got: NDArray[np.float32], unit: np.floating[Any] | float = 1.0
) -> float:
    """In units; infinite where shapes differ, and for NaN, which max() would lose."""
    if expected.shape != got.shape:
        return math.inf
    largest = float(np.abs(got - expected).max() / unit)
    return math.inf if math.isnan(largest) else largest


def _compare_image(
    sample: Sample, reference: Detections, candidate: Detections, class_names: tuple[str, ...], tolerances: Tolerances
) -> ImageComparison:
    """Pair the detections of an image and measure the pairs."""
    pairs = match_detections(reference, candidate, tolerances.pair_iou)
    ours, theirs = pairs[:, 0], pairs[:, 1]
    scores = np.abs(reference.scores[ours] - candidate.scores[theirs])
    boxes = np.abs(reference.boxes[ours] - candidate.boxes[theirs]).max(axis=1, initial=0)

    def alone(detections: Detections, matched: NDArray[np.int64]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                "class_name": class_names[detections.labels[index]],
                "score": float(detections.scores[index]),
                "box": detections.boxes[index].tolist(),
            }
            for index in np.setdiff1d(np.arange(len(detections)), matched)
        )

    return ImageComparison(
        image_id=sample.image_id,
        matched=len(pairs),
        score_difference=float(scores.max(initial=0)),
        box_difference=float(boxes.max(initial=0)),
        moved=int((boxes > tolerances.box).sum()),
        only_reference=alone(reference, ours),
        only_candidate=alone(candidate, theirs),
    )


def _detection_stages(images: Sequence[ImageComparison], tolerances: Tolerances) -> list[Stage]:
    """Compare the scores of all pairs, then count what has another box or no partner on either side.

    Of two candidates with equal scores either may stand, which moves a box or leaves it alone; it
    never changes a score.
    """
    worst_score = max(image.score_difference for image in images)
    alone = sum(image.unmatched for image in images)
    total = alone + 2 * sum(image.matched for image in images)
    differing = alone + 2 * sum(image.moved for image in images)
    allowed = max(min(EXCUSED_COUNT / total, EXCUSED_AT_MOST), tolerances.differing)
    if math.isfinite(allowed):
        text = (
            f"{differing} of {total} have no partner, or one over {tolerances.box:g} px away "
            f"({int(allowed * total)} may)"
        )
    else:
        text = f"{differing} of all {total}, however low their scores, have no partner"
    return [
        _stage("detection scores", worst_score, tolerances.score),
        Stage(name="detections", difference=differing / total, tolerance=allowed, text=text),
    ]


def _stage(name: str, difference: float, tolerance: float, unit: str = "") -> Stage:
    allowed = f" (allowed {tolerance:.0e})" if math.isfinite(tolerance) else ""
    text = f"largest difference {difference:.1e}{unit}{allowed}"
    return Stage(name=name, difference=difference, tolerance=tolerance, text=text)
