"""Which detection found which object, at an IoU of 0.5: the ground of the operating point and of the report.

The rule is pycocotools' (`COCOeval.evaluateImg`) at its first IoU, in each image and class, best detection first: a
detection takes the free object that it overlaps most, if by 0.5 or more. Crowd objects and VOC's difficult ones are
there to be ignored: a detection that only they can match is neither right nor wrong. They take any number of
detections, and of a crowd it counts how much of the detection lies in it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import areas, iou, shared_areas
from ssd_train.datasets.dataset import Dataset, GroundTruth
from ssd_train.detections import Detections

MATCH_IOU_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """One image's detections against its objects.

    Attributes:
        objects: (K,) int64, index of the object that each detection took or is ignored for; -1 for none.
        is_true: (K,) bool, it found an object that counts.
        is_ignored: (K,) bool, it is neither right nor wrong.
    """

    objects: NDArray[np.int64]
    is_true: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]

    @property
    def is_false(self) -> NDArray[np.bool_]:
        return ~(self.is_true | self.is_ignored)

    def select(self, rows: NDArray[np.int64]) -> "Matches":
        """Return those of some detections. Where thresholds left the others out, these are the matches of the rest."""
        return Matches(objects=self.objects[rows], is_true=self.is_true[rows], is_ignored=self.is_ignored[rows])


def overlaps(found: Detections, truth: GroundTruth) -> NDArray[np.float64]:
    """Return the (K, M) IoU of detections and objects; with a crowd the share of the detection that lies in it."""
    values = iou(found.boxes, truth.boxes)
    if truth.is_crowd.any():
        boxes = found.boxes.astype(np.float64)
        own = areas(boxes)[:, None]
        share = np.divide(shared_areas(boxes, truth.boxes), own, out=np.zeros_like(values), where=own > 0)
        values = np.where(truth.is_crowd, share, values)
    return values


def match_image(truth: GroundTruth, found: Detections) -> Matches:
    """Match one image's detections, boxes in image pixels, clipped to it; the module says how.

    The result for a detection does not change when others of lower scores are left out.
    """
    objects = np.full(len(found), -1, np.int64)
    ignored = truth.is_difficult | truth.is_crowd
    values = np.where(found.labels[:, None] == truth.labels, overlaps(found, truth), -1.0)
    is_free = ~ignored
    ranked = np.argsort(-found.scores, kind="stable")
    # Most of what a detector gives lies on nothing.
    for index in ranked[(values >= MATCH_IOU_THRESHOLD)[ranked].any(axis=1)]:
        # Objects that count come first, however much better an ignored one fits.
        for allowed in (is_free, ignored):
            of_allowed = np.where(allowed, values[index], -1.0)
            # The last of equals, as in pycocotools.
            best = len(of_allowed) - 1 - int(of_allowed[::-1].argmax()) if len(of_allowed) else -1
            if best >= 0 and of_allowed[best] >= MATCH_IOU_THRESHOLD:
                objects[index] = best
                is_free[best] = False
                break
    is_ignored = (objects >= 0) & np.append(ignored, False)[objects]
    return Matches(objects=objects, is_true=(objects >= 0) & ~is_ignored, is_ignored=is_ignored)


def match_dataset(dataset: Dataset, detections: Sequence[Detections]) -> list[Matches]:
    """Match every image of a data set.

    Args:
        dataset: with the class list of the detections.
        detections: one each a sample, as `run_detector` returns them; they are clipped to their images here.

    Raises:
        ValueError: `detections` does not have one entry a sample.
    """
    return [
        match_image(sample.ground_truth, found.clipped(sample.image_size))
        for sample, found in zip(dataset.samples, detections, strict=True)
    ]
