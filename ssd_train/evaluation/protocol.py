"""The two sets of rules a score can be computed by, and everything in which they differ.

`standard` is each data set's own definition: the VOC devkit's and pycocotools'. `gluoncv` is what
GluonCV's metrics compute, one-pixel conventions included; its published numbers were made that way.
Both first clip detections to the image, as GluonCV's scripts do.
"""

import enum

import numpy as np

from ssd_train.datasets.dataset import GroundTruth
from ssd_train.detections import Detections
from ssd_train.spec import DetectorSpec

# GluonCV's COCODetectionMetric leaves out detections below it.
GLUONCV_COCO_SCORE_THRESHOLD = 0.05


class Protocol(enum.StrEnum):
    STANDARD = "standard"
    GLUONCV = "gluoncv"

    @property
    def later_first_on_ties(self) -> bool:
        """True where equal scores are reversed, as GluonCV's VOC metric does with an ascending argsort."""
        return self is Protocol.GLUONCV


def for_voc_metric(
    protocol: Protocol,
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    image_size: tuple[int, int],
    input_size: tuple[int, int],
) -> tuple[GroundTruth, Detections]:
    """Bring one image into the coordinates in which the protocol's overlap is plain IoU.

    VOC counts pixels inclusively; on our continuous boxes that is plain IoU already. GluonCV takes
    the XML numbers minus 1, scales them to the network input and adds 1 to x2 and y2 there. It also
    skips objects unless 0 <= xmin < W and xmin < xmax <= W (and so for y) after that minus 1.

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
    limits = np.array([image_size[1], image_size[0]])
    boxes = ground_truth.boxes - one_pixel
    low, high = boxes[:, :2], boxes[:, 2:]
    valid = ((low >= 0) & (low < limits) & (low < high) & (high <= limits)).all(axis=1)
    scale = np.tile([input_size[1] / image_size[1], input_size[0] / image_size[0]], 2)
    ground_truth = GroundTruth(
        boxes=boxes[valid] * scale + one_pixel,
        labels=ground_truth.labels[valid],
        is_difficult=ground_truth.is_difficult[valid],
        is_crowd=ground_truth.is_crowd[valid],
        areas=ground_truth.areas[valid],
    )
    scaled = (detections.boxes * scale + one_pixel).astype(np.float32)
    return ground_truth, Detections(scaled, detections.scores, detections.labels)


def for_coco_metric(protocol: Protocol, detections: Detections, *, image_size: tuple[int, int]) -> Detections:
    """Return one image's detections as pycocotools is to see them, boxes in image pixels.

    GluonCV leaves out scores below 0.05 and makes every box one pixel wider and higher, after
    clipping it and without touching the ground truth.
    """
    detections = detections.clipped(image_size)
    if protocol is Protocol.STANDARD:
        return detections
    detections = detections.select(detections.scores >= GLUONCV_COCO_SCORE_THRESHOLD)
    one_pixel = np.array([0, 0, 1, 1], np.float32)
    return Detections(detections.boxes + one_pixel, detections.scores, detections.labels)


def describe(protocol: Protocol, metric: str, spec: DetectorSpec) -> str:
    """Say in one line what a number means: rules, scores used, coordinates, difficult and crowd objects.

    Args:
        metric: `voc` or `coco`.
        spec: gives the detector's own score threshold and the input size.
    """
    is_gluoncv = protocol is Protocol.GLUONCV
    scores = f"scores above {spec.postprocess.score_threshold:g}"
    if metric == "voc":
        rules = "GluonCV's VOC metric" if is_gluoncv else "Pascal VOC devkit"
        height, width = spec.input_size
        coordinates = (
            f"boxes in network-input pixels ({width}x{height}) plus 1 at x2 and y2, detections clipped to the input, "
            "objects outside GluonCV's bounds left out"
            if is_gluoncv
            else "boxes in image pixels, detections clipped to the image"
        )
        objects = "match at IoU 0.5, difficult and crowd objects ignored"
    else:
        rules = "GluonCV's COCO metric" if is_gluoncv else "pycocotools"
        if is_gluoncv:
            scores += f" and at least {GLUONCV_COCO_SCORE_THRESHOLD:g}"
        coordinates = "boxes in image pixels, detections clipped to the image"
        if is_gluoncv:
            coordinates += " and then made 1 pixel wider and higher"
        objects = "IoU 0.50:0.95, crowd objects ignored, difficult objects count like others"
    ties = "later image first" if metric == "voc" and protocol.later_first_on_ties else "earlier first"
    return f"protocol {protocol} ({rules}): {scores}; {coordinates}; {objects}; equal scores {ties}"
