"""Objects by size: how many of the small, medium and large ones are found."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ssd_train.datasets.dataset import GroundTruth
from ssd_train.metrics.matching import Matches

# COCO's: areas in square pixels of the image (`Params.setDetParams` of pycocotools).
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, math.inf)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfSize:
    """The objects of one size.

    Attributes:
        name: key of `SIZES`.
        least, below: their areas in square pixels of the image.
        objects: how many count: neither difficult nor crowd.
        found: of these at the working threshold.
        ap, ar: COCO's numbers of this size; NaN where nothing defines them.
    """

    name: str
    least: float
    below: float
    objects: int
    found: int
    ap: float
    ar: float

    @property
    def recall(self) -> float:
        return self.found / self.objects if self.objects else math.nan


def by_size(
    ground_truths: Sequence[GroundTruth], matches: Sequence[Matches], coco_numbers: Mapping[str, float]
) -> tuple[OfSize, ...]:
    """Count objects and those found by size.

    Args:
        ground_truths, matches: one each an image; the matches are of the detections that count.
        coco_numbers: COCO's twelve numbers, or {}.
    """
    areas: list[np.ndarray] = [np.zeros(0)]
    found: list[np.ndarray] = [np.zeros(0, bool)]
    for truth, of_image in zip(ground_truths, matches, strict=True):
        is_found = np.zeros(len(truth), bool)
        is_found[of_image.objects[of_image.is_true]] = True
        counts = ~(truth.is_difficult | truth.is_crowd)
        areas.append(truth.areas[counts])
        found.append(is_found[counts])
    all_areas, all_found = np.concatenate(areas), np.concatenate(found)
    rows = []
    for name, (least, below) in SIZES.items():
        is_of_size = (all_areas >= least) & (all_areas < below)
        rows.append(
            OfSize(
                name=name,
                least=least,
                below=below,
                objects=int(is_of_size.sum()),
                found=int((is_of_size & all_found).sum()),
                ap=coco_numbers.get(f"AP{name[0]}", math.nan),
                ar=coco_numbers.get(f"AR{name[0]}", math.nan),
            )
        )
    return tuple(rows)
