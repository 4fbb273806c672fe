"""Does a backend still compute what PyTorch computes? And if not, where does it start?

Three stages are compared, in the order of the data flow:
1. the input tensor that each side's own description makes of an image,
2. the raw logits and offsets,
3. the detections.
On top of them stand the data set's metric and the agreement AP, over all images.
"""

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import Runner
from ssd_train.boxes import iou
from ssd_train.datasets.dataset import Dataset, Sample, image_samples
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.agreement import agreement_ap
from ssd_train.metrics.protocol import Protocol
from ssd_train.preprocess import preprocess

# Raw predictions are compared on this many images, since each costs both sides another forward pass.
RAW_IMAGES = 16

# Where two candidates score the same to the last bits, either may win in NMS. So few detections may
# differ without a verdict: a share of all, or this many in a short run, but never over a tenth of it.
EXCUSED_COUNT = 4
EXCUSED_AT_MOST = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far a backend may be from the reference; the defaults are what float32 in another order explains.

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
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise DatasetError(f"a tolerance of {getattr(self, field.name)} for {field.name} is below 0")


# Against a float32 reference. Half precision and TF32 keep 10 bits of mantissa, bfloat16 keeps 7: logits move by
# a percent or a tenth of their spread, and candidates near the thresholds come and go.
HALF = Tolerances(metric=5e-3, agreement=0.98, raw=2e-2, score=2e-2, box=1.0, differing=0.03, pair_iou=0.8)
TOLERANCES = {
    "fp32": Tolerances(),
    "tf32": HALF,
    "fp16": HALF,
    # 8 bits give an activation 128 or 256 steps; single boxes and scores move visibly, the metric must not.
    "int8": Tolerances(metric=5e-3, agreement=0.3, raw=5.0, score=0.5, box=50.0, differing=0.5, pair_iou=0.5),
    "bf16": Tolerances(metric=3e-2, agreement=0.85, raw=0.4, score=0.2, box=10.0, differing=0.3, pair_iou=0.5),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison along the data flow.

    Attributes:
        name: what was compared.
        difference: the largest found.
        tolerance: the largest allowed.
        text: both, with units.
    """

    name: str
    difference: float
    tolerance: float
    text: str

    @property
    def passed(self) -> bool:
        # Written this way round so that NaN fails.
        return self.difference <= self.tolerance


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageComparison:
    """Detections of one image on both sides.

    Attributes:
        image_id: the data set's name of the image.
        matched: pairs of one label that overlap.
        score_difference, box_difference: largest over the pairs; the box's in image pixels.
        moved: pairs whose boxes differ by more than the tolerance.
        only_reference, only_candidate: what has no partner: class name, score and box.
    """

    image_id: int | str
    matched: int
    score_difference: float
    box_difference: float
    moved: int
    only_reference: tuple[dict[str, Any], ...]
    only_candidate: tuple[dict[str, Any], ...]


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
        backend, reference: their names.
        precision: what the backend computes in.
        tolerances: what it was held to.
        metric, metric_difference: the data set's headline number and its difference from the
            reference's, fractions; NaN without ground truth.
        agreement: agreement AP, a fraction.
        latency_ms: median over batches of the time an image takes in the backend, transfers included.
        stages: in the order of the data flow.
        images: per-image comparison of the detections.
        per_class_difference: class name -> difference of its AP.
        failures: what left its tolerance, a sentence each; empty where the backend passed.
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
    failures: tuple[str, ...]

    @property
    def first_failing_stage(self) -> str | None:
        return next((stage.name for stage in self.stages if not stage.passed), None)

    @property
    def unmatched(self) -> int:
        return sum(len(image.only_reference) + len(image.only_candidate) for image in self.images)

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
        derived = {name: getattr(self, name) for name in names}
        # JSON has no infinity, which stands for shapes that do not fit and for NaN: null, and the text says it.
        stages = [
            dataclasses.asdict(stage)
            | {"difference": stage.difference if math.isfinite(stage.difference) else None, "passed": stage.passed}
            for stage in self.stages
        ]
        return dataclasses.asdict(self) | derived | {"stages": stages, "passed": not self.failures}


def images_as_dataset(paths: Sequence[Path], class_names: tuple[str, ...]) -> Dataset:
    """Make a data set without ground truth from image files; every file is opened, for its size."""
    return Dataset(
        name="image files",
        class_names=class_names,
        samples=image_samples(paths),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


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
    tolerances: Tolerances,
    *,
    batch_size: int = 1,
    with_raw: bool = True,
) -> Comparison:
    """Hold a backend against the reference.

    Args:
        batch_size: images a call where raw predictions are compared.
        with_raw: compare raw predictions; not possible for an engine that came without its ONNX file.

    Raises:
        DatasetError: there is nothing to compare: no image, or no detection on either side.
    """
    if not dataset.samples:
        raise DatasetError("there are no images to compare on; name some")
    if not any(len(found) for found in (*reference.detections, *candidate.detections)):
        raise DatasetError(
            f"{dataset.name}: neither {reference.runner.name} nor {candidate.runner.name} detected anything, so "
            "nothing was compared; use other images or trained weights"
        )
    names = dataset.class_names
    images = tuple(
        _compare_image(sample, ours, theirs, names, tolerances)
        for sample, ours, theirs in zip(dataset.samples, reference.detections, candidate.detections, strict=True)
    )
    agreement = agreement_ap(
        reference.detections,
        candidate.detections,
        [sample.image_size for sample in dataset.samples],
        len(names),
    )
    stages = (
        *_compare_inputs_and_raw(
            reference.runner, candidate.runner, dataset.samples[:RAW_IMAGES], tolerances, batch_size, with_raw
        ),
        *_detection_stages(images, tolerances),
    )
    metric, difference, per_class = _metric_difference(reference.report, candidate.report)
    failures = [f"{stage.name}: {stage.text}" for stage in stages if not stage.passed]
    if not agreement >= tolerances.agreement:
        failures.append(f"agreement AP {agreement:.5f} is below {tolerances.agreement:g}")
    if reference.report is not None and not abs(difference) <= tolerances.metric:
        failures.append(f"the metric differs by {difference:+.2e}, at most {tolerances.metric:g} is allowed")
    return Comparison(
        backend=candidate.runner.name,
        reference=reference.runner.name,
        precision=candidate.runner.spec.precision,
        tolerances=tolerances,
        metric=metric,
        metric_difference=difference,
        agreement=agreement,
        latency_ms=candidate.latency_ms,
        stages=stages,
        images=images,
        per_class_difference=per_class,
        failures=tuple(failures),
    )


def _metric_difference(
    reference: EvaluationReport | None, candidate: EvaluationReport | None
) -> tuple[float, float, dict[str, float]]:
    """Return the candidate's headline, its difference, and the difference of each class's headline AP."""
    if reference is None or candidate is None:
        return float("nan"), float("nan"), {}
    per_class = {}
    for name, values in candidate.per_class.items():
        key = next(iter(values))
        per_class[name] = values[key] - reference.per_class[name][key]
    return candidate.headline, candidate.headline - reference.headline, per_class


def _compare_inputs_and_raw(
    reference: Runner,
    candidate: Runner,
    samples: Sequence[Sample],
    tolerances: Tolerances,
    batch_size: int,
    with_raw: bool,
) -> list[Stage]:
    """Compare what goes into both networks and what comes out of them, batch by batch."""
    worst = {"input": 0.0, "logits": 0.0, "offsets": 0.0}
    batch_size = min(batch_size, candidate.max_batch_size or batch_size)
    for start in range(0, len(samples), batch_size):
        images = [sample.load_image() for sample in samples[start : start + batch_size]]
        ours, theirs = (
            np.stack([preprocess(image, runner.spec) for image in images]) for runner in (reference, candidate)
        )
        if ours.shape != theirs.shape:
            worst = dict.fromkeys(worst, float("inf"))
            break
        worst["input"] = _larger(worst["input"], np.abs(ours - theirs).max())
        if not with_raw:
            continue
        raw, other_raw = reference.run_raw(ours), candidate.run_raw(theirs)
        for name, expected, got in zip(("logits", "offsets"), raw, other_raw, strict=True):
            if expected.shape != got.shape:
                worst[name] = float("inf")
            else:
                worst[name] = _larger(worst[name], np.abs(got - expected).max() / expected.std())
    stages = [
        Stage(
            name="input tensor",
            difference=worst["input"],
            tolerance=tolerances.input_tensor,
            text=f"largest difference {worst['input']:.1e} (allowed {tolerances.input_tensor:.0e})",
        ),
        *(
            Stage(
                name=f"raw {name}",
                difference=worst[name],
                tolerance=tolerances.raw,
                text=f"largest difference {worst[name]:.1e} of the standard deviation (allowed {tolerances.raw:.0e})",
            )
            for name in ("logits", "offsets")
        ),
    ]
    return stages if with_raw else stages[:1]


def _larger(worst: float, value: np.floating[Any]) -> float:
    """The larger of both; NaN counts as infinite, where max() would lose it."""
    return max(worst, float("inf") if np.isnan(value) else float(value))


def _detection_stages(images: Sequence[ImageComparison], tolerances: Tolerances) -> list[Stage]:
    """Compare the scores of all pairs, then count what has another box or no partner on either side.

    Of two candidates with equal scores either may stand, which moves a box or leaves it alone; it
    never changes a score.
    """
    worst_score = max(image.score_difference for image in images)
    alone = sum(len(image.only_reference) + len(image.only_candidate) for image in images)
    total = alone + 2 * sum(image.matched for image in images)
    differing = alone + 2 * sum(image.moved for image in images)
    allowed = max(min(EXCUSED_COUNT / total, EXCUSED_AT_MOST), tolerances.differing)
    return [
        Stage(
            name="detection scores",
            difference=worst_score,
            tolerance=tolerances.score,
            text=f"largest difference {worst_score:.1e} (allowed {tolerances.score:.0e})",
        ),
        Stage(
            name="detections",
            difference=differing / total,
            tolerance=allowed,
            text=f"{differing} of {total} have no partner, or one over {tolerances.box:g} px away "
            f"({int(allowed * total)} may)",
        ),
    ]


def _compare_image(
    sample: Sample,
    reference: Detections,
    candidate: Detections,
    class_names: tuple[str, ...],
    tolerances: Tolerances,
) -> ImageComparison:
    pairs = match_detections(reference, candidate, tolerances.pair_iou)
    ours, theirs = pairs[:, 0], pairs[:, 1]
    scores = np.abs(reference.scores[ours] - candidate.scores[theirs])
    boxes = np.abs(reference.boxes[ours] - candidate.boxes[theirs]).max(axis=1, initial=0)
    return ImageComparison(
        image_id=sample.image_id,
        matched=len(pairs),
        score_difference=float(scores.max(initial=0)),
        box_difference=float(boxes.max(initial=0)),
        moved=int((boxes > tolerances.box).sum()),
        only_reference=_listed(reference, ours, class_names),
        only_candidate=_listed(candidate, theirs, class_names),
    )


def match_detections(reference: Detections, candidate: Detections, pair_iou: float) -> NDArray[np.int64]:
    """Pair detections of the same label that overlap by `pair_iou` or more, best overlap first, each at most once.

    Returns:
        (P, 2) indices into `reference` and `candidate`.
    """
    overlaps = iou(reference.boxes, candidate.boxes)
    # Identical boxes without area are the same object too, though their overlap is 0.
    identical = (reference.boxes[:, None] == candidate.boxes[None]).all(axis=-1)
    overlaps = np.where(identical, 1.0, overlaps)
    overlaps = np.where(reference.labels[:, None] == candidate.labels[None], overlaps, 0.0)
    # Among equal overlaps the closer scores belong together.
    closeness = -np.abs(reference.scores[:, None] - candidate.scores[None])
    order = np.lexsort((-closeness.ravel(), -overlaps.ravel()))
    pairs = []
    ours_taken, theirs_taken = np.zeros(len(reference), bool), np.zeros(len(candidate), bool)
    for flat in order:
        ours, theirs = divmod(int(flat), len(candidate))
        if overlaps[ours, theirs] < pair_iou:
            break
        if not ours_taken[ours] and not theirs_taken[theirs]:
            ours_taken[ours] = theirs_taken[theirs] = True
            pairs.append((ours, theirs))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _listed(
    detections: Detections, matched: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[dict[str, Any], ...]:
    alone = np.setdiff1d(np.arange(len(detections)), matched)
    return tuple(
        {
            "class_name": class_names[detections.labels[index]],
            "score": float(detections.scores[index]),
            "box": detections.boxes[index].tolist(),
        }
        for index in alone
    )


def report_dict(reference: BackendRun, comparisons: Sequence[Comparison], dataset: Dataset) -> dict[str, Any]:
    """Return everything a parity run found, as plain values for JSON."""
    return {
        "dataset": dataset.name,
        "images": len(dataset.samples),
        "detector": dataclasses.asdict(reference.runner.spec),
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "reference": {
            "backend": reference.runner.name,
            "latency_ms": reference.latency_ms,
            "report": reference.report.to_dict() if reference.report else None,
        },
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        "passed": all(not comparison.failures for comparison in comparisons),
    }
