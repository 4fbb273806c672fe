"""The one evaluation loop: samples -> pre-processing -> predict -> detections -> metric.

Training's validation and every backend come through here, so that they differ in `predict` alone.
"""

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Dataset, GroundTruth, Sample
from ssd_train.detections import PADDING, Detections, PaddedDetections
from ssd_train.errors import BackendError, DatasetError
from ssd_train.evaluation.protocol import Protocol, describe, for_coco_metric, for_voc_metric
from ssd_train.metrics.coco_ap import coco_average_precision
from ssd_train.metrics.voc_ap import voc_average_precision
from ssd_train.preprocess import preprocess
from ssd_train.spec import DetectorSpec

Predict = Callable[[NDArray[np.float32]], PaddedDetections]


def run_detector(
    samples: Sequence[Sample],
    predict: Predict,
    spec: DetectorSpec,
    *,
    batch_size: int = 8,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """Detect in every sample; images are loaded by threads while the network runs.

    While one batch is in the network the next one loads, and no more than that, so memory is bounded.
    The last batch is as small as what is left.

    Args:
        samples: at least one.
        predict: (N, 3, H, W) float32, N up to `batch_size` -> padded detections of N images, in
            network-input pixels. Its arrays need not outlive the next call.
        spec: gives pre-processing, input size and class list.
        batch_size: images a call, at least 1.
        workers: threads that load and pre-process, at least 1.
        on_progress: called after each batch with the number of images done so far.

    Returns:
        One Detections a sample in the order of `samples`, boxes in image pixels, not clipped.

    Raises:
        DatasetError: there are no samples, or an image has not its annotated size.
        ImageError: an image cannot be read; nothing is skipped.
        BackendError: `predict` answered with another number of images, labels outside the class
            list, or values that are not finite.
        ValueError: `batch_size` or `workers` is below 1.
    """
    if not samples:
        raise DatasetError("there are no images to evaluate; choose a split that has some")
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch size {batch_size} and workers {workers} must be 1 or more")
    detections: list[Detections] = []
    # One more than a batch, since the image handed out last no longer waits when the network starts.
    look_ahead = max(batch_size, workers) + 1
    with contextlib.closing(_preprocessed(samples, spec, workers, look_ahead)) as images:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            padded = predict(np.stack([next(images) for _ in batch]))
            _check_answer(padded, batch, spec)
            for row, sample in enumerate(batch):
                detections.append(Detections.from_padded(padded, row, spec.input_size, sample.image_size))
            if on_progress is not None:
                on_progress(len(detections))
    return detections


def _preprocessed(
    samples: Sequence[Sample], spec: DetectorSpec, workers: int, look_ahead: int
) -> Generator[NDArray[np.float32], None, None]:
    """Yield the network input of every sample in order, at most `look_ahead` of them loaded or loading."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    try:
        for sample in samples:
            waiting.append(pool.submit(_load, sample, spec))
            if len(waiting) == look_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # After an error the images still queued are of no use; without this the exit would load them.
        pool.shutdown(cancel_futures=True)


def _load(sample: Sample, spec: DetectorSpec) -> NDArray[np.float32]:
    return preprocess(sample.load_image(), spec)


def _check_answer(padded: PaddedDetections, batch: Sequence[Sample], spec: DetectorSpec) -> None:
    files = f"{batch[0].path.name} to {batch[-1].path.name}"
    count = len(padded.scores)
    if not len(padded.boxes) == len(padded.labels) == count == len(batch):
        raise BackendError(f"{spec.network}: the backend answered with {count} images for {len(batch)} ({files})")
    if padded.labels.size and not PADDING <= padded.labels.min() <= padded.labels.max() < len(spec.class_names):
        raise BackendError(
            f"{spec.network}: the backend answered with label {padded.labels.max()} ({files}), but there are "
            f"{len(spec.class_names)} classes; export the model again"
        )
    if not (np.isfinite(padded.boxes).all() and np.isfinite(padded.scores).all()):
        raise BackendError(
            f"{spec.network}: the backend answered with values that are not finite ({files}); "
            "use a higher precision, or check the weights"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """A score and everything needed to know what it means.

    Attributes:
        dataset: the data set's name.
        network: the network's name.
        metric: `voc` or `coco`.
        headline_name: key of `numbers` that is quoted first.
        numbers: metric name -> fraction; NaN where nothing defines it.
        per_class: class name -> its AP by name (fractions, NaN likewise) and its number of `objects` that count.
        protocol: name of the rules.
        protocol_text: what those rules are.
        postprocess: the detector's own thresholds and limits.
        images: how many were scored.
        objects, difficult_objects, crowd_objects: annotated in them; the first counts all.
        detections: found in them.
        capped_images: images whose detections reach `max_detections`, so that more may have been cut.
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
    notes: tuple[str, ...]

    @property
    def headline(self) -> float:
        return self.numbers[self.headline_name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `files.write_json`, headline included; fractions are not rounded."""
        return {**dataclasses.asdict(self), "headline": self.headline}

    def lines(self) -> list[str]:
        """Return the report as text, numbers in percent."""
        limit = self.postprocess["max_detections"]
        lines = [
            f"{self.headline_name} {_percent(self.headline)}  {self.network} on {self.dataset}",
            self.protocol_text,
            "detector: " + ", ".join(f"{key} {value:g}" for key, value in self.postprocess.items()),
            f"{self.images} images, {self.objects} objects ({self.difficult_objects} difficult, "
            f"{self.crowd_objects} crowd), {self.detections} detections, "
            f"{self.capped_images} images at the limit of {limit:g} detections",
        ]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"{name:<12} {_percent(value):>8}" for name, value in self.numbers.items()]
        width = max(len(name) for name in self.per_class)
        for name, values in self.per_class.items():
            cells = [f"{key} {_percent(value)}" for key, value in values.items() if key != "objects"]
            lines.append(f"{name:<{width}}  {'  '.join(cells)}  ({values['objects']:g} objects)")
        return lines


def _percent(fraction: float) -> str:
    return "n/a" if np.isnan(fraction) else f"{100 * fraction:.2f} %"


def score(
    dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec, *, metric: str, protocol: Protocol
) -> EvaluationReport:
    """Score detections of a whole data set.

    Args:
        dataset: its classes must be the detector's.
        detections: one each a sample, boxes in image pixels, as `run_detector` returns them.
        spec: the detector that found them.
        metric: key of `METRICS`.
        protocol: the rules to score by.

    Raises:
        DatasetError: no such metric, other classes than the detector's, or nothing to find.
        ValueError: `detections` does not have one entry a sample.
    """
    if metric not in METRICS:
        raise DatasetError(f"metric {metric!r} does not exist; choose {' or '.join(METRICS)}")
    if dataset.class_names != spec.class_names:
        raise DatasetError(
            f"{dataset.name} has classes {', '.join(dataset.class_names[:5])}..., the detector "
            f"{', '.join(spec.class_names[:5])}...; load the data set with the detector's class list"
        )
    if len(detections) != len(dataset.samples):
        raise ValueError(f"{len(detections)} images were detected, but {dataset.name} has {len(dataset.samples)}")
    truths = [sample.ground_truth for sample in dataset.samples]
    scored = METRICS[metric](dataset, detections, spec, protocol)
    limit = spec.postprocess.max_detections
    return EvaluationReport(
        dataset=dataset.name,
        network=spec.network,
        metric=metric,
        headline_name=scored.headline_name,
        numbers=scored.numbers,
        per_class=scored.per_class,
        protocol=protocol.value,
        protocol_text=describe(protocol, metric, spec),
        postprocess=dataclasses.asdict(spec.postprocess),
        images=len(dataset.samples),
        objects=sum(len(truth) for truth in truths),
        difficult_objects=sum(int(truth.is_difficult.sum()) for truth in truths),
        crowd_objects=sum(int(truth.is_crowd.sum()) for truth in truths),
        detections=sum(len(found) for found in detections),
        capped_images=sum(len(found) >= limit for found in detections),
        notes=dataset.notes + scored.notes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scored:
    headline_name: str
    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()


def _score_voc(dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec, protocol: Protocol) -> _Scored:
    truths: list[GroundTruth] = []
    found: list[Detections] = []
    for sample, of_image in zip(dataset.samples, detections, strict=True):
        truth, of_image = for_voc_metric(
            protocol, sample.ground_truth, of_image, image_size=sample.image_size, input_size=spec.input_size
        )
        truths.append(truth)
        found.append(of_image)
    left_out = sum(len(sample.ground_truth) for sample in dataset.samples) - sum(map(len, truths))
    result = voc_average_precision(truths, found, dataset.class_names, later_first_on_ties=protocol.later_first_on_ties)
    return _Scored(
        headline_name="VOC07 mAP",
        numbers={"VOC07 mAP": result.mean_ap07, "VOC12 mAP": result.mean_ap_area},
        per_class={
            name: {
                "AP07": result.ap07[name],
                "AP12": result.ap_area[name],
                "objects": result.positives[name],
            }
            for name in dataset.class_names
        },
        notes=(f"left out {left_out} objects that break GluonCV's bounds rule",) if left_out else (),
    )


def _score_coco(dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec, protocol: Protocol) -> _Scored:
    found = [
        for_coco_metric(protocol, of_image, image_size=sample.image_size)
        for sample, of_image in zip(dataset.samples, detections, strict=True)
    ]
    result = coco_average_precision([sample.ground_truth for sample in dataset.samples], found, dataset.class_names)
    return _Scored(
        headline_name="AP",
        numbers=result.numbers,
        per_class={
            name: {"AP": result.per_class[name], "objects": result.positives[name]} for name in dataset.class_names
        },
    )


METRICS: dict[str, Callable[[Dataset, Sequence[Detections], DetectorSpec, Protocol], _Scored]] = {
    "voc": _score_voc,
    "coco": _score_coco,
}
