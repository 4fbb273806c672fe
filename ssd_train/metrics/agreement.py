"""How far two backends find the same objects, as one number, with no annotation needed."""

from collections.abc import Sequence

import numpy as np

from ssd_train.boxes import areas
from ssd_train.datasets.dataset import GroundTruth
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.coco_ap import evaluate_boxes, mean_precision


def agreement_ap(
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    image_sizes: Sequence[tuple[int, int]],
    num_classes: int,
) -> float:
    """Return COCO AP (IoU 0.50:0.95) of one side's detections against the other's, the lower of both directions.

    One direction alone is blind: AP averages over the classes of its ground truth, so a class that
    only the candidate finds would cost nothing. Boxes are clipped to the image, as every metric does
    first, and those without area there are left out of both sides: no IoU could match them, not even
    with themselves. Equal lists give 1.

    Args:
        reference, candidate: one each an image, boxes in image pixels; at least 100 of a class and
            image are compared, more where a side has more.
        image_sizes: (height, width) of each image.
        num_classes: length of the class list.

    Raises:
        DatasetError: there is nothing to compare: no images, or no detection on either side.
        ValueError: the sequences differ in length.
    """
    if not len(reference) == len(candidate) == len(image_sizes):
        raise ValueError(
            f"{len(reference)} reference and {len(candidate)} candidate images, {len(image_sizes)} sizes: not as many"
        )
    reference = [_visible(found, size) for found, size in zip(reference, image_sizes, strict=True)]
    candidate = [_visible(found, size) for found, size in zip(candidate, image_sizes, strict=True)]
    reference_count, candidate_count = sum(map(len, reference)), sum(map(len, candidate))
    if not reference_count and not candidate_count:
        raise DatasetError(
            f"neither side detected anything in {len(image_sizes)} images, so nothing was compared; "
            "use more images or a lower score threshold"
        )
    if not reference_count or not candidate_count:
        return 0.0
    return min(_ap(reference, candidate, num_classes), _ap(candidate, reference, num_classes))


def _visible(found: Detections, image_size: tuple[int, int]) -> Detections:
    clipped = found.clipped(image_size)
    low, high = clipped.boxes[:, :2], clipped.boxes[:, 2:]
    return clipped.select(np.all(low < high, axis=1))


def _ap(truth: Sequence[Detections], found: Sequence[Detections], num_classes: int) -> float:
    most = max(100, *map(len, truth), *map(len, found))
    objects = [_as_ground_truth(detections) for detections in truth]
    evaluated = evaluate_boxes(objects, found, num_classes, max_detections=(1, 10, most), by_area=False)
    return mean_precision(evaluated.eval["precision"])


def _as_ground_truth(detections: Detections) -> GroundTruth:
    boxes = detections.boxes.astype(np.float64)
    none = np.zeros(len(detections), np.bool_)
    return GroundTruth(
        boxes=boxes, written_boxes=boxes, labels=detections.labels, is_difficult=none, is_crowd=none, areas=areas(boxes)
    )
