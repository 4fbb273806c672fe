"""Pascal VOC average precision: the 11-point form of 2007 and the area form of 2010 and later.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import iou, resize_factors
from ssd_train.datasets.dataset import Dataset, GroundTruth
from ssd_train.datasets.voc import gluoncv_boxes
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.by_label import rows_by_label
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.scored import Scored
from ssd_train.spec import DetectorSpec

# The devkit's and GluonCV's floating range: 0.30000000000000004 is one of its values, so a recall of
# exactly 0.3 does not reach that point.
RECALL_POINTS = np.arange(0.0, 1.1, 0.1)

# An overlap of exactly this much matches.
MATCH_IOU_THRESHOLD = 0.5


def score(dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec, protocol: Protocol) -> Scored:
    """Score detections in image pixels, one a sample; see `METRICS`."""
    pairs = [
        in_protocol(protocol, sample.ground_truth, found, image_size=sample.image_size, input_size=spec.input_size)
        for sample, found in zip(dataset.samples, detections, strict=True)
    ]
    left_out = sum(len(sample.ground_truth) for sample in dataset.samples) - sum(len(truth) for truth, _ in pairs)
    scored = voc_average_precision(
        [truth for truth, _ in pairs],
        [found for _, found in pairs],
        dataset.class_names,
        later_first_on_ties=protocol is Protocol.GLUONCV,
    )
    notes = (f"left out {left_out} objects that break GluonCV's bounds rule",) if left_out else ()
    return dataclasses.replace(scored, notes=notes)


def describe(protocol: Protocol, spec: DetectorSpec) -> str:
    """Say in one line what the numbers mean; see `METRICS`."""
    rules, ties = "Pascal VOC devkit", "earlier first"
    coordinates = "boxes in image pixels, detections clipped to the image"
    if protocol is Protocol.GLUONCV:
        height, width = spec.input_size
        # It sorts by an ascending argsort from the end.
        rules, ties = "GluonCV's VOC metric", "later image first"
        coordinates = (
            f"boxes in network-input pixels ({width}x{height}) plus 1 at x2 and y2, detections clipped to the input, "
            "objects outside GluonCV's bounds left out"
        )
    return (
        f"protocol {protocol} ({rules}): scores above {spec.postprocess.score_threshold:g}; {coordinates}; "
        f"match at IoU 0.5, difficult and crowd objects ignored; equal scores {ties}"
    )


def in_protocol(
    protocol: Protocol,
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
) -> tuple[GroundTruth, Detections]:
    """Bring one image into the coordinates in which the protocol's overlap is plain IoU.

    VOC counts pixels inclusively; on our continuous boxes that is plain IoU already. GluonCV takes what
    `gluoncv_boxes` leaves, scales it to the network input and adds 1 to x2 and y2 there.

    Args:
        ground_truth, detections: in image pixels.
        image_size, input_size: (height, width) of the image and of the network input.

    Returns:
        Both in image pixels (standard) or network-input pixels (gluoncv), the latter with fewer
        objects where some break GluonCV's rule.
    """
    detections = detections.clipped(image_size)
    if protocol is Protocol.STANDARD:
        return ground_truth, detections
    one_pixel = np.array([0, 0, 1, 1])
    scale = resize_factors(image_size, input_size)
    ground_truth = gluoncv_boxes(ground_truth, image_size)
    ground_truth = dataclasses.replace(ground_truth, boxes=ground_truth.boxes * scale + one_pixel)
    scaled = (detections.boxes * scale + one_pixel).astype(np.float32)
    return ground_truth, Detections(scaled, detections.scores, detections.labels)


def voc_average_precision(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str],
    *,
    later_first_on_ties: bool = False,
) -> Scored:
    """Score detections, best first, against the objects of their image and class.

    A detection looks only at the object it overlaps most, difficult ones included (the first of
    equals). Below the threshold it is false; on a difficult or crowd object it is ignored; on any
    other it is true the first time and false afterwards. There is no second choice.

    Args:
        ground_truths, detections: one each an image, in the same coordinates, in which plain IoU is
            wanted (see `in_protocol`).
        class_names: label order.
        later_first_on_ties: reverse equal scores, first in each image, where that decides which of two
            takes an object, and then over all images; False keeps their order.

    Returns:
        `VOC07 mAP` and `VOC12 mAP`, means over the classes that have positives. Of each class `AP07` (11 points) and
        `AP12` (area under the monotone precision envelope), NaN without positives, and `objects`, the positives:
        neither difficult nor crowd.

    Raises:
        DatasetError: there are no images, or none holds an object that counts.
        ValueError: the two sequences differ in length.
    """
    if len(ground_truths) != len(detections):
        raise ValueError(f"{len(detections)} images were detected, but {len(ground_truths)} are annotated")
    if not ground_truths:
        raise DatasetError("there are no images to score; choose a split that has some")
    object_labels = np.concatenate([truth.labels for truth in ground_truths])
    object_ignored = np.concatenate([truth.is_difficult | truth.is_crowd for truth in ground_truths])
    if object_ignored.all():
        raise DatasetError(
            f"the {len(ground_truths)} images hold no object that counts ({len(object_labels)} difficult or crowd "
            "ones), so there is nothing to find; choose another split or more images"
        )

    scores, labels, objects = _match_all(ground_truths, detections, later_first_on_ties)
    per_class = {}
    positives_of = np.bincount(object_labels[~object_ignored], minlength=len(class_names)).tolist()
    by_label = rows_by_label(labels, len(class_names))
    for name, of_class, positives in zip(class_names, by_label, positives_of, strict=True):
        recall, precision = _recall_precision(
            scores[of_class], objects[of_class], object_ignored, positives, later_first_on_ties
        )
        ap07, ap12 = (_eleven_point(recall, precision), _area(recall, precision)) if positives else (np.nan, np.nan)
        per_class[name] = {"AP07": ap07, "AP12": ap12, "objects": positives}
    means = [float(np.nanmean([of[ap] for of in per_class.values()])) for ap in ("AP07", "AP12")]
    return Scored(numbers={"VOC07 mAP": means[0], "VOC12 mAP": means[1]}, per_class=per_class)


def _best_first(scores: NDArray[np.float32], later_first_on_ties: bool) -> NDArray[np.intp]:
    if later_first_on_ties:
        return np.argsort(scores, kind="stable")[::-1]
    return np.argsort(-scores, kind="stable")


def _match_all(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detections], later_first_on_ties: bool
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return score, label and matched object of all detections, image by image, best first within one.

    Objects are numbered through all images; -1 is none.
    """
    scores, labels, objects = [], [], []
    first_object = 0
    for truth, found in zip(ground_truths, detections, strict=True):
        found = found.select(_best_first(found.scores, later_first_on_ties))
        matched = _best_objects(truth, found)
        scores.append(found.scores)
        labels.append(found.labels)
        objects.append(np.where(matched >= 0, matched + first_object, -1))
        first_object += len(truth)
    return np.concatenate(scores), np.concatenate(labels), np.concatenate(objects)


def _best_objects(truth: GroundTruth, found: Detections) -> NDArray[np.int64]:
    """Return for every detection the object of its class that it overlaps most, or -1 below the threshold."""
    if not len(truth) or not len(found):
        return np.full(len(found), -1, np.int64)
    overlaps = np.where(found.labels[:, None] == truth.labels, iou(found.boxes, truth.boxes), -1.0)
    best = overlaps.argmax(axis=1)
    matches = np.take_along_axis(overlaps, best[:, None], axis=1)[:, 0] >= MATCH_IOU_THRESHOLD
    return np.where(matches, best, -1).astype(np.int64)


def _recall_precision(
    scores: NDArray[np.float32],
    objects: NDArray[np.int64],
    object_ignored: NDArray[np.bool_],
    positives: int,
    later_first_on_ties: bool,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both curves of one class, a point for each detection that is not ignored."""
    is_first = np.zeros(len(objects), np.bool_)
    is_first[np.unique(objects, return_index=True)[1]] = True
    is_true = is_first & (objects >= 0)
    counts = (objects < 0) | ~object_ignored[objects]
    scores, is_true = scores[counts], is_true[counts]
    is_true = is_true[_best_first(scores, later_first_on_ties)]
    true_count = np.cumsum(is_true)
    return true_count / max(positives, 1), true_count / np.arange(1, len(is_true) + 1)


def _eleven_point(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    return sum(float(precision[recall >= point].max(initial=0.0)) for point in RECALL_POINTS) / 11


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))
