"""COCO annotation files -> Dataset; no pycocotools needed to read one."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd_train.boxes import clip_boxes
from ssd_train.datasets.dataset import Dataset, GroundTruth, Sample, make_ground_truth
from ssd_train.errors import DatasetError

# The published trainings' own.
SPLITS = {"train": "train2017", "val": "val2017"}

# Pascal VOC's names of six classes that COCO calls otherwise, so that a VOC detector runs on COCO images.
COCO_NAME_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def load_coco(root: Path, split: str | None, class_names: Sequence[str], *, skip_ignored: bool = False) -> Dataset:
    """Read `annotations/instances_<split>.json`; images lie in `<root>/<split>`.

    Categories are matched to the detector's classes by name. A detector may know fewer of them, as one
    trained on VOC does: objects of the others are then left out with a note. Images without
    annotations are kept. Objects without width or height are left out with a note, since nothing can
    be found there. A missing `area` is the box's, a missing `iscrowd` is 0.

    Args:
        root: the folder with `annotations` and the image folder.
        split: for example `val2017`; None for the folder's only one whose name begins with val, or `val2017`.
        class_names: the detector's; each must be a category of the file, or VOC's name of one.
        skip_ignored: leave out objects marked `ignore`, which GluonCV does not train on and pycocotools scores.

    Raises:
        DatasetError: a folder or file is missing or unusable, a class is no category, there are no
            images, or an annotation names an image or category that does not exist.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name the COCO folder", arguments=("data_root",))
    split = split or find_split(root, "val")
    path = annotation_file(root, split)
    content = _read_json(path)
    try:
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        images = {int(image["id"]): image for image in content["images"]}
        if len(images) < len(content["images"]):
            raise DatasetError(f"{path}: two images have the same id; mend the annotation file")
        labels = _labels_by_category(categories, class_names, path)
        annotations = content["annotations"]
        if skip_ignored:
            annotations = [annotation for annotation in annotations if not annotation.get("ignore", 0)]
        rows, without_area, unknown = _rows_by_image(annotations, images, categories, labels, path)
        samples = tuple(_sample(images[key], rows.get(key, []), root / split, path) for key in sorted(images))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{path}: not a COCO instances file ({type(error).__name__}: {error}); expected images, categories and "
            "annotations as COCO's format page lists them"
        ) from error
    if not samples:
        raise DatasetError(f"{path}: there are no images in it; choose another split")
    return Dataset(
        name=f"coco {split}",
        class_names=tuple(class_names),
        samples=samples,
        category_ids=tuple(labels),
        notes=tuple(_notes(without_area, unknown, len(categories) - len(labels))),
    )


def is_coco(folder: Path) -> bool:
    """Whether a folder looks like COCO's: `annotations/instances_*.json`."""
    # By the listing, since some file systems take VOC's `Annotations` for `annotations`.
    names = {path.name for path in folder.iterdir()}
    return "annotations" in names and any(folder.glob("annotations/instances_*.json"))


def annotation_file(root: Path, split: str) -> Path:
    return root / "annotations" / f"instances_{split}.json"


def find_split(root: Path, part: str) -> str:
    """Return the only split of a folder whose name begins with `train` or `val`, or COCO's own name of it.

    Raises:
        DatasetError: there are several, and none has COCO's own name.
    """
    found = sorted(path.stem.removeprefix("instances_") for path in root.glob(f"annotations/instances_{part}*.json"))
    usual = SPLITS[part]
    if len(found) > 1 and usual not in found:
        raise DatasetError(
            f"{root / 'annotations'}: several files could be meant ({', '.join(found)}); name one of these splits",
            arguments=(f"{part}_split",),
        )
    return usual if usual in found or not found else found[0]


def find_class_names(root: Path, split: str) -> tuple[str, ...]:
    """Return the categories of a split's annotation file, by id; raise DatasetError where it has none."""
    path = annotation_file(root, split)
    content = _read_json(path)
    try:
        return tuple(category["name"] for category in sorted(content["categories"], key=lambda row: row["id"]))
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: has no list of categories with id and name; is it a COCO file?") from error


def training_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Return the objects that GluonCV trains on.

    Far edges one pixel nearer, then all clipped to the last pixel; what has an area is kept.
    """
    boxes = truth.boxes.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    boxes = clip_boxes(boxes, (image_size[0] - 1, image_size[1] - 1))
    keep = (truth.areas > 0) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    return dataclasses.replace(truth, boxes=boxes).select(keep)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"{path}: the annotation file cannot be read ({error.strerror}); "
            "choose another split, or name the COCO folder",
            arguments=("split", "data_root"),
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a JSON {type(content).__name__}, expected an object; is it a result file?")
    return content


def _labels_by_category(categories: dict[int, str], class_names: Sequence[str], path: Path) -> dict[int, int]:
    """Return category id -> label in label order, for the classes that the detector knows."""
    id_of_name = {name: category_id for category_id, name in categories.items()}
    if len(id_of_name) < len(categories):
        raise DatasetError(f"{path}: two categories have the same name; mend the annotation file")
    labels: dict[int, int] = {}
    for label, name in enumerate(class_names):
        category_id = id_of_name.get(name, id_of_name.get(COCO_NAME_OF_VOC.get(name, name)))
        if category_id is None:
            known = ", ".join(categories[key] for key in sorted(categories)[:5])
            raise DatasetError(
                f"{path}: has no category {name!r}, which is class {label} of the detector; it has {len(categories)} "
                f"({known}, ...): evaluate a detector of this data set, or give its class list",
                arguments=("classes",),
            )
        if category_id in labels:
            raise DatasetError(
                f"{path}: the detector's classes {class_names[labels[category_id]]!r} and {name!r} are one category, "
                f"{categories[category_id]!r}; keep one of them in the class list"
            )
        labels[category_id] = label
    return labels


def _rows_by_image(
    annotations: list[dict[str, Any]],
    images: dict[int, Any],
    categories: dict[int, str],
    labels: dict[int, int],
    path: Path,
) -> tuple[dict[int, list[dict[str, Any]]], list[int], int]:
    """Return each image's rows for `make_ground_truth`, the ids of annotations without area, and how many are of
    classes that the detector does not know.
    """
    rows: dict[int, list[dict[str, Any]]] = {}
    without_area, unknown = [], 0
    for annotation in annotations:
        image_id, category_id = int(annotation["image_id"]), int(annotation["category_id"])
        if image_id not in images or category_id not in categories:
            what = f"has category {category_id}" if image_id in images else f"belongs to image {image_id}"
            raise DatasetError(
                f"{path}: annotation {annotation.get('id')} {what}, which the file does not list; mend the annotation "
                "file"
            )
        if category_id not in labels:
            unknown += 1
            continue
        x, y, width, height = (float(value) for value in annotation["bbox"])
        area = float(annotation.get("area", width * height))
        if not all(math.isfinite(value) for value in (x, y, width, height, area)):
            raise DatasetError(
                f"{path}: annotation {annotation.get('id')} has bbox {annotation['bbox']} and area {area}, expected "
                "finite numbers; mend the annotation file"
            )
        if width <= 0 or height <= 0:
            without_area.append(int(annotation["id"]))
            continue
        rows.setdefault(image_id, []).append({
            "box": (x, y, x + width, y + height),
            "label": labels[category_id],
            "is_difficult": False,
            "is_crowd": bool(annotation.get("iscrowd", 0)),
            "area": area,
        })  # fmt: skip
    return rows, without_area, unknown


def _sample(image: dict[str, Any], rows: list[dict[str, Any]], folder: Path, annotation_path: Path) -> Sample:
    path = folder / image["file_name"]
    if not path.is_file():
        raise DatasetError(f"{path}: no such image, but {annotation_path} lists it; download the images of this split")
    return Sample(
        image_id=int(image["id"]),
        path=path,
        image_size=(int(image["height"]), int(image["width"])),
        ground_truth=make_ground_truth(rows),
    )


def _notes(without_area: list[int], unknown: int, unknown_categories: int) -> list[str]:
    notes = []
    if unknown_categories:
        notes.append(f"left out {unknown} objects of {unknown_categories} categories that the detector does not know")
    if without_area:
        named = ", ".join(str(annotation_id) for annotation_id in without_area[:5])
        more = f" and {len(without_area) - 5} more" if len(without_area) > 5 else ""
        notes.append(f"left out {len(without_area)} objects without width or height: annotations {named}{more}")
    return notes
