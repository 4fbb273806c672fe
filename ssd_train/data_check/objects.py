"""The objects of a data set: how many of each class in each split, and how large the network sees them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import resize_factors
from ssd_train.data_check.reading import Split
from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.layouts import Layout
from ssd_train.evaluation.evaluate import has_objects
from ssd_train.metrics.by_label import rows_by_label

# Shares of a class's objects that are at most as large as its sizes of `size_quantiles`.
QUANTILES = (0.0, 0.1, 0.5, 0.9, 1.0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """Objects as a training sees them, K of them, without augmentation.

    Attributes:
        labels: (K,) int64 from 0.
        boxes: (K, 4) float64 xyxy as shares of the image's width and height.
        sizes: (K, 2) float64 width and height in pixels of the image.
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    sizes: NDArray[np.float64]

    def sides(self, input_size: tuple[int, int] | None) -> NDArray[np.float64]:
        """Return (K, 2) widths and heights in pixels of a network's input of (height, width); None: of the images."""
        if input_size is None:
            return self.sizes
        return (self.boxes[:, 2:] - self.boxes[:, :2]) * np.array(input_size[::-1])


def objects_of(samples: Sequence[Sample]) -> Objects:
    """Gather the objects of samples whose boxes are those that a training sees."""
    labels = [np.zeros(0, np.int64)]
    boxes, shares = [np.zeros((0, 4))], [np.zeros((0, 4))]
    for sample in samples:
        truth = sample.ground_truth
        labels.append(truth.labels)
        boxes.append(truth.boxes)
        shares.append(truth.boxes * resize_factors(sample.image_size, (1, 1)))
    all_boxes = np.concatenate(boxes)
    return Objects(
        labels=np.concatenate(labels),
        boxes=np.concatenate(shares),
        sizes=all_boxes[:, 2:] - all_boxes[:, :2],
    )


def training_samples(split: Split, layout: Layout) -> list[Sample]:
    """Return a split's samples with the boxes that GluonCV trains on, in image pixels; all samples, empty ones too."""
    return [
        dataclasses.replace(sample, ground_truth=layout.training_boxes(sample.ground_truth, sample.image_size))
        for sample in split.samples
    ]


def count_objects(samples: Sequence[Sample], num_classes: int) -> NDArray[np.int64]:
    """Return (C,) how many objects each class has."""
    labels = [np.zeros(0, np.int64), *(sample.ground_truth.labels for sample in samples)]
    return np.bincount(np.concatenate(labels), minlength=num_classes)


def size_quantiles(objects: Objects, input_size: tuple[int, int] | None, num_classes: int) -> NDArray[np.float64]:
    """Return (C, 5): of each class the sizes that `QUANTILES` of its objects do not exceed; NaN without objects.

    A size is the side of the square of the same area, in pixels as in `Objects.sides`.
    """
    sides = np.sqrt(objects.sides(input_size).prod(axis=1))
    quantiles = np.full((num_classes, len(QUANTILES)), np.nan)
    for label, rows in enumerate(rows_by_label(objects.labels, num_classes)):
        if len(rows):
            quantiles[label] = np.quantile(sides[rows], QUANTILES)
    return quantiles


def find_lacking_classes(counts: dict[str, NDArray[np.int64]], class_names: Sequence[str], findings: Findings) -> None:
    """Tell which classes have no objects, are not learnt, or cannot be scored.

    Args:
        counts: role of a split that was read -> (C,) objects of each class.
        findings: is told.
    """
    total = sum(counts.values(), start=np.zeros(len(class_names), np.int64))
    for label, name in enumerate(class_names):
        if not total[label]:
            findings.add("class-without-objects", name)
        elif "train" in counts and not counts["train"][label]:
            findings.add("class-untrained", name)
        elif "val" in counts and not counts["val"][label]:
            findings.add("class-unscored", name)


def find_useless_samples(split: Split, trained: Sequence[Sample]) -> None:
    """Tell what of a split cannot be learnt or scored; `trained` are its `training_samples`."""
    if split.dataset is None:
        return
    findings = split.findings
    if split.role != "train":
        if split.role == "val" and not has_objects(split.samples):
            findings.add("nothing-to-score", split.name, len(split.samples))
        return
    for sample, seen in zip(split.samples, trained, strict=True):
        if lost := len(sample.ground_truth) - len(seen.ground_truth):
            findings.add("training-bounds", sample.path.name, lost)
        if not len(seen.ground_truth):
            findings.add("without-objects", sample.path.name)
    if not any(len(seen.ground_truth) for seen in trained):
        findings.stop(
            f"train {split.name}: none of its {len(split.samples)} images has an object to learn; choose another split",
            place=split.name,
        )
