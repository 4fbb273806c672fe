"""The table of data layouts: how folders of annotated images are laid out, and all that the rest asks of each.

A layout is a module beside this file and one row here (`docs/extending.md`). Light: what a row calls is imported when
it is called.
"""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_train.datasets.splits import ALL, no_lists
from ssd_train.errors import DatasetError
from ssd_train.paths import user_path
from ssd_train.table import Table

if TYPE_CHECKING:
    from ssd_train.datasets.annotations import Annotations
    from ssd_train.datasets.dataset import GroundTruth
    from ssd_train.datasets.findings import Findings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One row.

    Attributes:
        name: what options and reports call it, and its folder in `~/.torch/datasets`.
        title: what people call it.
        looks_like: what `recognise` looks for, for people.
        metric: name of the row of `METRICS` that scores it, unless another one is asked for.
        val_interval: epochs of a training from one validation to the next.
        clips: boxes are clipped to their image, and objects without area left out, in evaluation too. Not where the
            metric's definition takes them as they are.
        recognise: folder that exists -> whether it is in this layout.
        read: (root, split, findings) -> what the files have. Raises DatasetError.
        find_class_names: (root, training split) -> classes of a data set of one's own. Raises DatasetError.
        split_names: root -> all splits, for a check.
        train_split, val_split, eval_split: root -> what to train on, to validate on in a training, and to evaluate
            where nothing is named. Raise DatasetError.
        training_boxes: (objects of an image, its (height, width)) -> those that are trained on, one pixel nearer as
            GluonCV has them.
        is_last_resort: asked only where no other layout fits.
    """

    name: str
    title: str
    looks_like: str
    metric: str
    val_interval: int
    clips: bool
    recognise: Callable[[Path], bool]
    read: "Callable[[Path, str, Findings], Annotations]"
    find_class_names: Callable[[Path, str], tuple[str, ...]]
    split_names: Callable[[Path], tuple[str, ...]]
    train_split: Callable[[Path], str]
    val_split: Callable[[Path], str]
    eval_split: Callable[[Path], str]
    training_boxes: "Callable[[GroundTruth, tuple[int, int]], GroundTruth]"
    is_last_resort: bool = False

    def default_root(self) -> Path:
        """Return where its folder is looked for when none is named. Raises DatasetError without a home folder."""
        return user_path(f"~/.torch/datasets/{self.name}", DatasetError, arguments=("data_root",))


def late(module: str, function: str, **fixed: Any) -> Callable[..., Any]:
    """Return a function of a module of this package that is imported when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"ssd_train.datasets.{module}"), function)(*arguments, **fixed)

    return call


def voc_row(**columns: Any) -> Layout:
    """Return a row of Pascal VOC's kind: the same boxes, metric and rhythm."""
    return Layout(metric="voc", val_interval=1, clips=True, training_boxes=late("voc", "training_boxes"), **columns)


def coco_row(**columns: Any) -> Layout:
    """Return a row of COCO's kind: the same boxes and metric."""
    columns = {"val_interval": 1, "clips": False, **columns}
    return Layout(metric="coco", training_boxes=late("coco", "training_boxes"), **columns)


# Of a folder that says of no image what it is for.
_UNSPLIT: dict[str, Any] = {
    "split_names": lambda root: (ALL,),
    "train_split": no_lists,
    "val_split": no_lists,
    "eval_split": lambda root: ALL,
}

_COCO = coco_row(
    name="coco",
    title="COCO",
    looks_like="annotations/instances_*.json",
    # Its validation takes long, so GluonCV's is rare.
    val_interval=10,
    recognise=late("coco_folders", "is_coco"),
    read=late("coco_folders", "read_coco_split"),
    find_class_names=late("coco_folders", "class_names"),
    split_names=late("coco_folders", "split_names"),
    train_split=late("coco_folders", "find_split", part="train"),
    val_split=late("coco_folders", "find_split", part="val"),
    eval_split=late("coco_folders", "eval_split"),
)

LAYOUTS: Table[Layout] = Table(
    "data set",
    (
        voc_row(
            name="voc",
            title="Pascal VOC",
            looks_like="JPEGImages, Annotations and ImageSets, or folders like VOC2007, or VOCdevkit with these",
            recognise=late("voc", "is_voc"),
            read=late("voc", "read_voc"),
            find_class_names=lambda root, split: late("voc", "find_class_names")(root),
            split_names=late("voc", "split_names"),
            train_split=late("voc", "train_split"),
            val_split=late("voc", "val_split"),
            eval_split=late("voc", "eval_split"),
        ),
        _COCO,
        dataclasses.replace(
            _COCO,
            name="cvat",
            title="CVAT's COCO",
            looks_like="annotations/instances_*.json with images/<subset>",
            val_interval=1,
            recognise=late("coco_folders", "is_cvat"),
        ),
        coco_row(
            name="roboflow-coco",
            title="Roboflow's COCO",
            looks_like="train/_annotations.coco.json and valid",
            recognise=late("coco_folders", "is_roboflow"),
            read=late("coco_folders", "read_roboflow"),
            find_class_names=late("coco_folders", "roboflow_class_names"),
            split_names=late("coco_folders", "roboflow_splits"),
            train_split=late("coco_folders", "roboflow_split", part="train"),
            val_split=late("coco_folders", "roboflow_split", part="val"),
            eval_split=late("coco_folders", "roboflow_split", part="val"),
        ),
        coco_row(
            name="label-studio",
            title="Label Studio's COCO",
            looks_like="result.json beside images",
            recognise=late("coco_folders", "is_label_studio"),
            read=late("coco_folders", "read_label_studio"),
            find_class_names=lambda root, split: late("coco_folders", "label_studio_class_names")(root),
            **_UNSPLIT,
        ),
        coco_row(
            name="yolo",
            title="YOLO",
            looks_like="data.yaml, or classes.txt beside images and labels",
            clips=True,
            recognise=late("yolo", "is_yolo"),
            read=late("yolo", "read_yolo"),
            find_class_names=lambda root, split: late("yolo", "class_names")(root),
            split_names=late("yolo", "split_names"),
            train_split=late("yolo", "find_split", part="train"),
            val_split=late("yolo", "find_split", part="val"),
            eval_split=late("yolo", "eval_split"),
        ),
        voc_row(
            name="roboflow-voc",
            title="Roboflow's Pascal VOC",
            looks_like="train and valid, each with images and their XML",
            recognise=late("xml_folders", "is_roboflow_voc"),
            read=late("xml_folders", "read_xml_folder"),
            find_class_names=lambda root, split: late("xml_folders", "find_class_names")(root),
            split_names=late("xml_folders", "split_folders"),
            train_split=late("xml_folders", "find_split", part="train"),
            val_split=late("xml_folders", "find_split", part="val"),
            eval_split=late("xml_folders", "find_split", part="val"),
        ),
        voc_row(
            name="labelimg",
            title="LabelImg",
            looks_like="images with an XML file each, without lists",
            recognise=late("xml_folders", "is_labelimg"),
            read=late("xml_folders", "read_xml_folder"),
            find_class_names=lambda root, split: late("xml_folders", "find_class_names")(root),
            **_UNSPLIT,
            is_last_resort=True,
        ),
    ),
    DatasetError,
)
