"""How the scores of right and wrong detections are spread."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.detections import Detections
from ssd_train.metrics.matching import Matches

BINS = 25


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Histogram:
    """Counts of scores in `BINS` equal parts of 0 to 1: detections that are right, and that are wrong."""

    true: NDArray[np.int64]
    false: NDArray[np.int64]


def histograms(
    detections: Sequence[Detections], matches: Sequence[Matches], class_names: Sequence[str]
) -> dict[str, Histogram]:
    """Count the scores of each class, by name, and of all under ""; detections that are ignored are left out."""
    true = np.zeros((len(class_names), BINS), np.int64)
    false = np.zeros_like(true)
    for found, of_image in zip(detections, matches, strict=True):
        places = np.minimum((found.scores * BINS).astype(np.int64), BINS - 1)
        for counts, chosen in ((true, of_image.is_true), (false, of_image.is_false)):
            np.add.at(counts, (found.labels[chosen], places[chosen]), 1)
    of_classes = {name: Histogram(true=true[label], false=false[label]) for label, name in enumerate(class_names)}
    return {"": Histogram(true=true.sum(axis=0), false=false.sum(axis=0)), **of_classes}
