"""COCO average precision, on objects that are built in memory.

faster-coco-eval computes it unless another row of `EVALUATORS` is asked for. It gives pycocotools' numbers, which the
tests hold it to, in an eighth of the time.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import xyxy_to_xywh
from ssd_train.captured_stdout import captured_stdout
from ssd_train.datasets.dataset import Dataset, GroundTruth
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.evaluators import DEFAULT_EVALUATOR, EVALUATORS
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.scored import Scored
from ssd_train.spec import DetectorSpec

# GluonCV's COCODetectionMetric leaves out detections below it.
GLUONCV_SCORE_THRESHOLD = 0.05

# In the order of COCOeval.stats.
NUMBER_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def score(
    dataset: Dataset,
    detections: Sequence[Detections],
    spec: DetectorSpec,
    protocol: Protocol,
    *,
    evaluator: str = DEFAULT_EVALUATOR,
) -> Scored:
    """Score detections in image pixels, one a sample; see `METRICS`."""
    found = [
        in_protocol(protocol, of_image, image_size=sample.image_size)
        for sample, of_image in zip(dataset.samples, detections, strict=True)
    ]
    truths = [sample.ground_truth for sample in dataset.samples]
    return coco_average_precision(truths, found, dataset.class_names, evaluator=evaluator)


def describe(protocol: Protocol, spec: DetectorSpec, *, evaluator: str = DEFAULT_EVALUATOR) -> str:
    """Say in one line what the numbers mean; see `METRICS`."""
    rules, scores = "pycocotools", f"scores above {spec.postprocess.score_threshold:g}"
    coordinates = "boxes in image pixels, detections clipped to the image"
    if protocol is Protocol.GLUONCV:
        rules = "GluonCV's COCO metric"
        scores += f" and at least {GLUONCV_SCORE_THRESHOLD:g}"
        coordinates += " and then made 1 pixel wider and higher"
    computed = "" if evaluator == DEFAULT_EVALUATOR else f"; computed by {EVALUATORS.find(evaluator).title}"
    return (
        f"protocol {protocol} ({rules}): {scores}; {coordinates}; IoU 0.50:0.95, crowd objects ignored, "
        f"difficult objects count like others; equal scores earlier first{computed}"
    )


def in_protocol(protocol: Protocol, detections: Detections, *, image_size: tuple[int, int]) -> Detections:
    """Return one image's detections as pycocotools is to see them, boxes in image pixels.

    GluonCV leaves out scores below 0.05 and makes every box one pixel wider and higher, after
    clipping it and without touching the ground truth.
    """
    detections = detections.clipped(image_size)
    if protocol is Protocol.STANDARD:
        return detections
    detections = detections.select(detections.scores >= GLUONCV_SCORE_THRESHOLD)
    one_pixel = np.array([0, 0, 1, 1], np.float32)
    return Detections(detections.boxes + one_pixel, detections.scores, detections.labels)


def coco_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    *,
    evaluator: str = DEFAULT_EVALUATOR,
) -> Scored:
    """Score detections as COCO does: IoU 0.50:0.95, at most 100 detections an image and class.

    Args:
        ground_truths, detections: one each an image, boxes in image pixels.
        class_names: label order.
        evaluator: name of a row of `EVALUATORS`.

    Returns:
        The twelve of `NUMBER_NAMES`, NaN where there is no object to find (pycocotools writes -1); of each class
        `AP` (IoU 0.50:0.95) and `objects`, those that are not crowd.

    Raises:
        BackendError: the evaluator is not installed.
        DatasetError: there are no images, or none holds an object that is not crowd; or no such evaluator.
        ValueError: the two sequences differ in length.
    """
    evaluated = evaluate_boxes(ground_truths, detections, len(class_names), evaluator=evaluator)
    with captured_stdout():
        evaluated.summarize()
    labels = np.concatenate([truth.labels[~truth.is_crowd] for truth in ground_truths])
    positives = np.bincount(labels, minlength=len(class_names))
    precision = evaluated.eval["precision"]
    place_of = {category_id - 1: place for place, category_id in enumerate(evaluated.params.catIds)}
    numbers = np.where(evaluated.stats > -1, evaluated.stats, np.nan).tolist()
    return Scored(
        numbers=dict(zip(NUMBER_NAMES, numbers, strict=True)),
        per_class={
            name: {
                "AP": mean_precision(precision[:, :, [place_of[label]]]) if label in place_of else math.nan,
                "objects": int(positives[label]),
            }
            for label, name in enumerate(class_names)
        },
    )


def evaluate_boxes(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    num_classes: int,
    *,
    max_detections: tuple[int, int, int] = (1, 10, 100),
    by_area: bool = True,
    evaluator: str = DEFAULT_EVALUATOR,
) -> Any:
    """Evaluate up to and including `accumulate`, without printing; returns a `COCOeval`.

    Its categories are the labels that occur, each plus 1: others have no numbers, and would take memory for them.

    Args:
        ground_truths, detections, num_classes: as in `coco_average_precision`.
        max_detections: the three limits an image and class, ascending; `summarize` needs 100 as the last.
        by_area: also for small, medium and large objects, which `summarize` needs and takes four times as long.
        evaluator: name of a row of `EVALUATORS`.

    Raises:
        BackendError, DatasetError, ValueError: as `coco_average_precision`.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(detections)} images were detected, but {len(ground_truths)} are annotated")
    if not ground_truths:
        raise DatasetError("there are no images to score; choose a split that has some")
    if not any((~truth.is_crowd).any() for truth in ground_truths):
        raise DatasetError(
            f"{len(ground_truths)} images hold no object that counts (none at all, or crowd only), so there is "
            "nothing to find; choose another split"
        )
    index_class, evaluation_class = EVALUATORS.find(evaluator).classes()
    labels = [*(of.labels for of in ground_truths), *(of.labels for of in detections)]
    present = np.unique(np.concatenate(labels)).tolist()
    if present and present[-1] >= num_classes:
        raise ValueError(f"there is a label {present[-1]}, but there are {num_classes} classes")
    objects = ((of.labels, of.boxes, {"area": of.areas, "iscrowd": of.is_crowd.astype(int)}) for of in ground_truths)
    found = ((of.labels, of.boxes, {"score": of.scores}) for of in detections)
    with captured_stdout():
        indices = (_index(index_class(), rows, present) for rows in (objects, found))
        evaluated = evaluation_class(*indices, "bbox")
        evaluated.params.maxDets = list(max_detections)
        if not by_area:
            evaluated.params.areaRng = evaluated.params.areaRng[:1]
            evaluated.params.areaRngLbl = evaluated.params.areaRngLbl[:1]
        evaluated.evaluate()
        evaluated.accumulate()
    return evaluated


def _index(
    coco: Any, images: Iterable[tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]], present: Sequence[int]
) -> Any:
    """Fill an empty `COCO` as if it had read a file, with each image's labels, boxes and further columns.

    Images and categories are numbered from 1, and so are annotations: an id of 0 is taken for "not matched".
    """
    annotations: list[dict[str, Any]] = []
    image_ids = []
    for image_id, (labels, boxes, others) in enumerate(images, start=1):
        image_ids.append({"id": image_id})
        bboxes = xyxy_to_xywh(boxes.astype(np.float64))
        columns = {"category_id": labels + 1, "bbox": bboxes, "area": bboxes[:, 2] * bboxes[:, 3]}
        columns = {"iscrowd": np.zeros(len(labels), int), **columns, **others}
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            row = dict(zip(columns, values, strict=True))
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **row})
    coco.dataset = {
        "images": image_ids,
        "categories": [{"id": label + 1} for label in present],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def mean_precision(precision: NDArray[np.float64]) -> float:
    """Return the mean over all areas and the largest limit of detections; NaN where nothing is defined.

    Args:
        precision: `COCOeval.eval["precision"]`, (IoU, recall, class, area, limit), -1 for undefined.
    """
    values = precision[:, :, :, 0, -1]
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
