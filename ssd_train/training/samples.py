"""What a network is trained on: data set folders -> samples with GluonCV's training boxes."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_train.datasets.coco import DEFAULT_SPLIT, load_coco
from ssd_train.datasets.dataset import Dataset, GroundTruth, Sample
from ssd_train.datasets.layouts import DATASETS, default_root, load_dataset
from ssd_train.datasets.voc import DEFAULT_YEAR_SPLIT
from ssd_train.errors import DatasetError

# The published trainings' splits.
TRAIN_SPLITS = {"voc": "2007_trainval,2012_trainval", "coco": "train2017"}
VAL_SPLITS = {"voc": DEFAULT_YEAR_SPLIT, "coco": DEFAULT_SPLIT}


class DataSource(NamedTuple):
    """Where training and validation images are.

    Attributes:
        kind: `voc` or `coco`, the layout, which decides boxes and metric.
        root: the folder.
        train_split, val_split: as `load_dataset` takes them.
    """

    kind: str
    root: Path
    train_split: str
    val_split: str


def find_source(dataset: str, root: Path | None, train_split: str | None, val_split: str | None) -> DataSource:
    """Resolve `--dataset`, a kind or a folder of one's own, and the splits that it leaves open.

    Args:
        dataset: `voc`, `coco`, or a folder in either layout.
        root: the folder of a kind; its default is `~/.torch/datasets/<kind>`.
        train_split, val_split: None for those of the published trainings, and in a folder of one's own for
            lists called train and val (or test), `instances_train*.json` and `instances_val*.json`.

    Raises:
        DatasetError: the folder is missing, or has neither layout, or a split must be named.
    """
    if dataset in DATASETS:
        kind, folder = dataset, (root or default_root(dataset)).expanduser()
    elif root is not None:
        raise DatasetError(f"--dataset {dataset} is a folder, so --data-root {root} does not apply; leave one out")
    else:
        folder = Path(dataset).expanduser()
        if not folder.is_dir():
            raise DatasetError(f"--dataset {dataset}: neither voc nor coco, and no such folder; name one of them")
        # By the listing, since some file systems take VOC's Annotations for it.
        kind = "coco" if "annotations" in {path.name for path in folder.iterdir()} else "voc"
    if kind == "coco":
        return DataSource(
            kind,
            folder,
            train_split or _coco_split(folder, "train"),
            val_split or _coco_split(folder, "val"),
        )
    if (folder / "ImageSets" / "Main").is_dir():
        lists = {path.stem for path in (folder / "ImageSets" / "Main").glob("*.txt")}
        held_out = next((name for name in ("val", "test") if name in lists), None)
        train = "train" if "train" in lists and (held_out == "val" or "trainval" not in lists) else "trainval"
        return DataSource(kind, folder, train_split or train, val_split or held_out or "val")
    return DataSource(kind, folder, train_split or TRAIN_SPLITS["voc"], val_split or VAL_SPLITS["voc"])


def _coco_split(folder: Path, part: str) -> str:
    """Return the only split whose name begins with `part`, or COCO's own name of it."""
    found = sorted(path.stem.removeprefix("instances_") for path in folder.glob(f"annotations/instances_{part}*.json"))
    usual = {"train": TRAIN_SPLITS, "val": VAL_SPLITS}[part]["coco"]
    if len(found) > 1 and usual not in found:
        raise DatasetError(
            f"{folder / 'annotations'}: several files could be meant ({', '.join(found)}); name one with --{part}-split"
        )
    return usual if usual in found or not found else found[0]


def find_class_names(source: DataSource) -> tuple[str, ...]:
    """Return the classes of a data set of one's own: COCO's categories by id, or the names in all of VOC's
    annotations by alphabet.

    Raises:
        DatasetError: the annotations cannot be read, or name no class.
    """
    if source.kind == "coco":
        path = source.root / "annotations" / f"instances_{source.train_split}.json"
        try:
            categories = json.loads(path.read_bytes())["categories"]
            return tuple(category["name"] for category in sorted(categories, key=lambda category: category["id"]))
        except OSError as error:
            raise DatasetError(
                f"{path}: the annotation file cannot be read ({error.strerror}); name another --train-split"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path}: has no list of categories with id and name; is it a COCO file?") from error
    names: dict[str, str] = {}
    for path in sorted(source.root.glob("**/Annotations/*.xml")):
        try:
            found = [(element.text or "").strip() for element in ElementTree.parse(path).iterfind("object/name")]
        except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
            raise DatasetError(f"{path}: not readable XML ({error}); mend or replace the annotation") from error
        for name in found:
            names.setdefault(name.lower(), name)
    if not names:
        raise DatasetError(f"{source.root}: its annotations name no class; name the right folder, or use --classes")
    return tuple(names[key] for key in sorted(names))


def load_training_samples(source: DataSource, class_names: Sequence[str]) -> tuple[list[Sample], tuple[str, ...]]:
    """Read the training split and give its images the boxes that GluonCV trains on.

    Difficult and crowd objects are objects like others. Images without any object are left out, as are
    COCO's objects that are marked `ignore`.

    Returns:
        The samples, whose boxes are in image pixels and whose far edges are one pixel nearer, and sentences
        about what was left out.

    Raises:
        DatasetError: as `load_dataset`; or no image has an object.
    """
    if source.kind == "coco":
        dataset = load_coco(source.root, source.train_split, class_names, skip_ignored=True)
        rule = _coco_training_boxes
    else:
        dataset = load_dataset(source.kind, source.root, source.train_split, class_names)
        rule = _voc_training_boxes
    samples, left_out = [], 0
    for sample in dataset.samples:
        truth = rule(sample.ground_truth, sample.image_size)
        left_out += len(sample.ground_truth) - len(truth)
        if len(truth):
            samples.append(dataclasses.replace(sample, ground_truth=truth))
    if not samples:
        raise DatasetError(f"{dataset.name}: none of its {len(dataset.samples)} images has an object to learn")
    notes = list(dataset.notes)
    if left_out:
        notes.append(f"left out {left_out} objects in training, which break GluonCV's bounds rule")
    if len(samples) < len(dataset.samples):
        notes.append(f"left out {len(dataset.samples) - len(samples)} images without objects")
    return samples, tuple(notes)


def _voc_training_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """All four XML numbers minus 1; objects outside 0 <= min < size and min < max <= size are left out."""
    boxes = truth.boxes - np.array([0, 0, 1, 1])
    limits = np.array([image_size[1], image_size[0]])
    low, high = boxes[:, :2], boxes[:, 2:]
    return _selected(truth, boxes, ((low >= 0) & (low < limits) & (low < high) & (high <= limits)).all(axis=1))


def _coco_training_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Far edges one pixel nearer, then all clipped to the last pixel; what has an area is kept."""
    boxes = truth.boxes.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    boxes = np.clip(boxes, 0, np.tile([image_size[1] - 1, image_size[0] - 1], 2))
    return _selected(truth, boxes, (truth.areas > 0) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1))


def _selected(truth: GroundTruth, boxes: np.ndarray, keep: np.ndarray) -> GroundTruth:
    return GroundTruth(
        boxes=boxes[keep],
        labels=truth.labels[keep],
        is_difficult=truth.is_difficult[keep],
        is_crowd=truth.is_crowd[keep],
        areas=truth.areas[keep],
    )


def load_validation(source: DataSource, class_names: Sequence[str]) -> Dataset:
    """Read the validation split as every evaluation does."""
    return load_dataset(source.kind, source.root, source.val_split, class_names)
