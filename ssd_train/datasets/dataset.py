"""The form every data set takes: class names and samples, read once, images loaded on demand."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import DatasetError
from ssd_train.preprocess import load_image


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruth:
    """The annotated objects of one image, M of them.

    Attributes:
        boxes: (M, 4) float64 xyxy in image pixels, continuous: 0 is the top-left edge of the image,
            so a box over the first pixel alone is (0, 0, 1, 1).
        written_boxes: (M, 4) float64, the boxes before they were clipped to the image, which is what GluonCV's own
            rules apply to.
        labels: (M,) int64, index into the class list from 0.
        is_difficult: (M,) bool, Pascal VOC's flag; all False elsewhere.
        is_crowd: (M,) bool, COCO's flag; all False elsewhere.
        areas: (M,) float64 in square pixels; COCO's own (of the mask), else of the box.
    """

    boxes: NDArray[np.float64]
    written_boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    is_difficult: NDArray[np.bool_]
    is_crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]

    def __post_init__(self) -> None:
        flags = (self.is_difficult, self.is_crowd, self.areas, self.written_boxes)
        if self.boxes.shape != (len(self), 4) or any(len(values) != len(self) for values in flags):
            raise ValueError("the arrays of a GroundTruth do not have the same number of rows")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, keep: NDArray[Any]) -> "GroundTruth":
        """Return the objects that a boolean mask or an index array names."""
        return GroundTruth(**{field.name: getattr(self, field.name)[keep] for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One image of a data set and what is annotated in it.

    Attributes:
        image_id: the data set's own name for the image: its id in COCO, the file's path without suffix elsewhere.
        path: the image file.
        image_size: (height, width) as the annotation file says.
        ground_truth: boxes in pixels of that size.
        has_lost_objects: it shows objects of the class list that could not be used, so it is no background.
    """

    image_id: int | str
    path: Path
    image_size: tuple[int, int]
    ground_truth: GroundTruth
    has_lost_objects: bool = False

    def load_image(self, *, reduction: int = 1) -> NDArray[np.uint8]:
        """Read the image as (H, W, 3) RGB uint8 in the frame its boxes were drawn in.

        An EXIF orientation is applied unless the annotated size says that the boxes were drawn on
        the stored, unturned pixels.

        Args:
            reduction: 1, 2, 4 or 8, see `preprocess.load_image`.

        Raises:
            ImageError: the file cannot be read.
            DatasetError: its size is not the annotated one either way.
        """
        expected = tuple(-(-side // reduction) for side in self.image_size)
        image = load_image(self.path, reduction=reduction)
        if image.shape[:2] == expected:
            return image
        stored = load_image(self.path, apply_orientation=False, reduction=reduction)
        if stored.shape[:2] == expected:
            return stored
        if reduction > 1:
            return self.load_image()  # for the error, which names the real size
        raise DatasetError(
            f"{self.path}: the image is {image.shape[1]}x{image.shape[0]} pixels, but its annotation says "
            f"{self.image_size[1]}x{self.image_size[0]}; mend the annotation or replace the image"
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A data set read into memory, all but the pixels.

    Attributes:
        name: what reports call it, for example `voc 2007_test`.
        class_names: label order.
        samples: in the order they are evaluated (ascending image id for COCO, list order for VOC).
        category_ids: the data set's own id of each label, for result files; 1 to C in VOC, None for a class that a
            data set with ids of its own lacks.
        notes: what the reader left out or mended, a sentence each, for the report.
        is_annotated: whether it says what is in the images; where it does not, there is no score.
    """

    name: str
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    category_ids: tuple[int | str | None, ...]
    notes: tuple[str, ...] = ()
    is_annotated: bool = True

    def limited(self, limit: int | None) -> "Dataset":
        """Return the first `limit` samples as a data set of its own; None keeps all.

        Raises:
            DatasetError: `limit` is below 1.
        """
        if limit is None:
            return self
        if limit < 1:
            raise DatasetError(f"a limit of {limit} images leaves nothing to evaluate; use 1 or more")
        return dataclasses.replace(self, samples=self.samples[:limit])


def make_ground_truth(rows: list[dict[str, Any]]) -> GroundTruth:
    """Stack one dict an object into arrays; [] is allowed.

    Keys are box, label, is_difficult, is_crowd, area, and written_box where it is another one.
    """
    return GroundTruth(
        boxes=np.array([row["box"] for row in rows], np.float64).reshape(-1, 4),
        written_boxes=np.array([row.get("written_box", row["box"]) for row in rows], np.float64).reshape(-1, 4),
        labels=np.array([row["label"] for row in rows], np.int64),
        is_difficult=np.array([row["is_difficult"] for row in rows], np.bool_),
        is_crowd=np.array([row["is_crowd"] for row in rows], np.bool_),
        areas=np.array([row["area"] for row in rows], np.float64),
    )


def image_samples(paths: Sequence[Path]) -> tuple[Sample, ...]:
    """Make samples without ground truth of image files; every file is opened, for its size."""
    return tuple(
        Sample(image_id=path.name, path=path, image_size=load_image(path).shape[:2], ground_truth=make_ground_truth([]))
        for path in paths
    )
