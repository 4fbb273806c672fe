"""The table of data layouts: how folders of annotated images are laid out, and all that the rest asks of each.

A layout is a module beside this file and one row here (`docs/extending.md`). Light: what a row calls is imported when
it is called.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_train.errors import DatasetError
from ssd_train.table import Table

# The validation part of a data set without one, see `holdout`.
HELD_OUT = "val"

if TYPE_CHECKING:
    from ssd_train.datasets.annotations import Annotations
    from ssd_train.datasets.dataset import Dataset, GroundTruth
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
        """Return where its folder is looked for when none is named."""
        return Path.home() / ".torch" / "datasets" / self.name


def _late(module: str, function: str, **fixed: Any) -> Callable[..., Any]:
    """Return a function of a module of this package that is imported when it is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"ssd_train.datasets.{module}"), function)(*arguments, **fixed)

    return call


def _voc_row(**columns: Any) -> Layout:
    """Return a row of Pascal VOC's kind: the same boxes, metric and rhythm."""
    return Layout(metric="voc", val_interval=1, clips=True, training_boxes=_late("voc", "training_boxes"), **columns)


def _coco_row(**columns: Any) -> Layout:
    """Return a row of COCO's kind: the same boxes and metric."""
    columns = {"val_interval": 1, "clips": False, **columns}
    return Layout(metric="coco", training_boxes=_late("coco", "training_boxes"), **columns)


LAYOUTS: Table[Layout] = Table(
    "data set",
    (
        _voc_row(
            name="voc",
            title="Pascal VOC",
            looks_like="JPEGImages, Annotations and ImageSets, or folders like VOC2007, or VOCdevkit with these",
            recognise=_late("voc", "is_voc"),
            read=_late("voc", "read_voc"),
            find_class_names=lambda root, split: _late("voc", "find_class_names")(root),
            split_names=_late("voc", "split_names"),
            train_split=_late("voc", "train_split"),
            val_split=_late("voc", "val_split"),
            eval_split=_late("voc", "eval_split"),
        ),
        _coco_row(
            name="coco",
            title="COCO",
            looks_like="annotations/instances_*.json",
            # Its validation takes long, so GluonCV's is rare.
            val_interval=10,
            recognise=_late("coco_folders", "is_coco"),
            read=_late("coco_folders", "read_coco_split"),
            find_class_names=_late("coco_folders", "class_names"),
            split_names=_late("coco_folders", "split_names"),
            train_split=_late("coco_folders", "find_split", part="train"),
            val_split=_late("coco_folders", "find_split", part="val"),
            eval_split=_late("coco_folders", "eval_split"),
        ),
        _coco_row(
            name="cvat",
            title="CVAT's COCO",
            looks_like="annotations/instances_*.json with images/<subset>",
            recognise=_late("coco_folders", "is_cvat"),
            read=_late("coco_folders", "read_coco_split"),
            find_class_names=_late("coco_folders", "class_names"),
            split_names=_late("coco_folders", "split_names"),
            train_split=_late("coco_folders", "find_split", part="train"),
            val_split=_late("coco_folders", "find_split", part="val"),
            eval_split=_late("coco_folders", "eval_split"),
        ),
        _coco_row(
            name="roboflow-coco",
            title="Roboflow's COCO",
            looks_like="train/_annotations.coco.json and valid",
            recognise=_late("coco_folders", "is_roboflow"),
            read=_late("coco_folders", "read_roboflow"),
            find_class_names=_late("coco_folders", "roboflow_class_names"),
            split_names=_late("coco_folders", "roboflow_splits"),
            train_split=_late("coco_folders", "roboflow_split", part="train"),
            val_split=_late("coco_folders", "roboflow_split", part="val"),
            eval_split=_late("coco_folders", "roboflow_split", part="val"),
        ),
        _coco_row(
            name="label-studio",
            title="Label Studio's COCO",
            looks_like="result.json beside images",
            recognise=_late("coco_folders", "is_label_studio"),
            read=_late("coco_folders", "read_label_studio"),
            find_class_names=lambda root, split: _late("coco_folders", "label_studio_class_names")(root),
            split_names=lambda root: ("all",),
            train_split=_late("voc", "no_lists"),
            val_split=_late("voc", "no_lists"),
            eval_split=lambda root: "all",
        ),
        _coco_row(
            name="yolo",
            title="YOLO",
            looks_like="data.yaml, or classes.txt beside images and labels",
            clips=True,
            recognise=_late("yolo", "is_yolo"),
            read=_late("yolo", "read_yolo"),
            find_class_names=lambda root, split: _late("yolo", "class_names")(root),
            split_names=_late("yolo", "split_names"),
            train_split=_late("yolo", "find_split", part="train"),
            val_split=_late("yolo", "find_split", part="val"),
            eval_split=_late("yolo", "eval_split"),
        ),
        _voc_row(
            name="roboflow-voc",
            title="Roboflow's Pascal VOC",
            looks_like="train and valid, each with images and their XML",
            recognise=_late("xml_folders", "is_roboflow_voc"),
            read=_late("xml_folders", "read_xml_folder"),
            find_class_names=lambda root, split: _late("xml_folders", "find_class_names")(root),
            split_names=_late("xml_folders", "split_folders"),
            train_split=_late("xml_folders", "find_split", part="train"),
            val_split=_late("xml_folders", "find_split", part="val"),
            eval_split=_late("xml_folders", "find_split", part="val"),
        ),
        _voc_row(
            name="labelimg",
            title="LabelImg",
            looks_like="images with an XML file each, without lists",
            recognise=_late("xml_folders", "is_labelimg"),
            read=_late("xml_folders", "read_xml_folder"),
            find_class_names=lambda root, split: _late("xml_folders", "find_class_names")(root),
            split_names=lambda root: ("all",),
            train_split=_late("voc", "no_lists"),
            val_split=_late("voc", "no_lists"),
            eval_split=lambda root: "all",
            is_last_resort=True,
        ),
    ),
    DatasetError,
)


def coco_files(parts: Mapping[str, tuple[Path, Path]]) -> Layout:
    """Return a layout for COCO files that lie anywhere: split -> (annotation file, folder of its images)."""
    first = next(iter(parts))

    def find(part: str) -> Callable[[Path], str]:
        return lambda root: part if part in parts else _late("voc", "no_lists")(root)

    return _coco_row(
        name="coco-file",
        title="COCO file",
        looks_like="a JSON file and a folder of images",
        recognise=lambda root: False,
        read=lambda root, split, findings: _late("coco_folders", "read_files")(*_named(parts, split), findings),
        find_class_names=lambda root, split: _late("coco", "find_class_names")(_named(parts, split)[0]),
        split_names=lambda root: tuple(parts),
        train_split=find("train"),
        val_split=find("val"),
        eval_split=lambda root: "val" if "val" in parts else first,
    )


def _named(parts: Mapping[str, tuple[Path, Path]], split: str) -> tuple[Path, Path]:
    if split not in parts:
        raise DatasetError(
            f"split {split} does not apply to named annotation files ({', '.join(parts)}); leave it out",
            arguments=("split",),
        )
    return parts[split]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set that a user named.

    Attributes:
        layout: decides how it is read, trained on and scored.
        root: the folder.
        named_train_split, named_val_split: what the user named; None leaves it to the layout.
        val_share: hold this part of the training images out, as the split `val`; see `holdout`.
    """

    layout: Layout
    root: Path
    named_train_split: str | None = None
    named_val_split: str | None = None
    val_share: float | None = None

    @property
    def train_split(self) -> str:
        """What to train on. Raises DatasetError where it has to be named."""
        if self.named_train_split is not None:
            return self.named_train_split
        try:
            return self.layout.train_split(self.root)
        except DatasetError:
            if self.val_share is None:
                raise
            return self.layout.eval_split(self.root)

    @property
    def val_split(self) -> str:
        """What to validate on in a training. Raises DatasetError where it has to be named."""
        if self.val_share is not None:
            return HELD_OUT
        return self.named_val_split or self.layout.val_split(self.root)

    def split_names(self) -> tuple[str, ...]:
        """Return all splits, for a check."""
        if self.val_share is None:
            return self.layout.split_names(self.root)
        others = (name for name in self.layout.split_names(self.root) if name not in (self.train_split, HELD_OUT))
        return (self.train_split, HELD_OUT, *others)

    def class_names(self) -> tuple[str, ...]:
        """Return the classes of a data set of one's own. Raises DatasetError."""
        return self.layout.find_class_names(self.root, self.train_split)

    def load(
        self,
        split: str | None,
        class_names: Sequence[str],
        *,
        training: bool = False,
        needs_match: bool = True,
        findings: "Findings | None" = None,
    ) -> "Dataset":
        """Read a split's annotations; images are loaded later, one by one.

        Args:
            split: which part; None for the one to evaluate on.
            class_names: the detector's classes in label order.
            training: an image that is listed twice counts twice, boxes are clipped, and objects that are marked to be
                ignored are left out.
            needs_match: raise DatasetError where there are objects, but none of a class that the detector knows.
            findings: told what was mended and left out; None for a collector of its own, which stops at the first
                fault that cannot be mended.

        Raises:
            DatasetError: the folder cannot be used.
            ImageError: an image whose size is not in the annotations cannot be read.
        """
        from ssd_train.datasets.assemble import make_dataset
        from ssd_train.datasets.findings import Findings

        if not self.root.is_dir():
            raise DatasetError(
                f"{self.root}: no such folder; name the folder of the {self.layout.title} data set",
                arguments=("data", "data_root"),
            )
        if split is None:
            split = self.layout.eval_split(self.root) if self.val_share is None else HELD_OUT
        findings = findings or Findings()
        return make_dataset(
            self._read(split, findings),
            class_names,
            name=f"{self.layout.name} {split}",
            training=training,
            clips=self.layout.clips,
            needs_match=needs_match,
            findings=findings,
        )

    def _read(self, split: str, findings: "Findings") -> "Annotations":
        if self.val_share is None or split not in (self.train_split, HELD_OUT):
            return self.layout.read(self.root, split, findings)
        from ssd_train.datasets.holdout import split_off

        annotations = self.layout.read(self.root, self.train_split, findings)
        train, held_out = split_off(annotations.images, self.val_share, self.root)
        return dataclasses.replace(annotations, images=held_out if split == HELD_OUT else train)


def find_source(
    data: str | Path | None,
    data_root: Path | None = None,
    *,
    annotations: Path | None = None,
    images: Path | None = None,
    val_annotations: Path | None = None,
    val_images: Path | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    val_share: float | None = None,
) -> DataSource:
    """Resolve what a user calls a data set: a layout, or a folder of one's own, whose layout its content tells.

    Args:
        data: name of a row of `LAYOUTS`, a folder, or the YAML file in a YOLO folder; a leading ~ is the home folder.
            None where `annotations` names a file.
        data_root: a named layout's folder; None for `~/.torch/datasets/<layout>`.
        annotations, images: a COCO file and the folder of its images, instead of `data`.
        val_annotations, val_images: the same for validation; the folder may be left out where it is `images`.
        train_split, val_split: None leaves them to the layout: those of the published trainings, or what there is.
        val_share: hold this part of the training images out for validation.

    Raises:
        DatasetError: no such folder, or it looks like none of the layouts, or like several; or names that contradict
            each other.
    """
    if val_share is not None and (val_split not in (None, HELD_OUT) or val_annotations is not None):
        raise DatasetError(
            f"val_share {val_share:g} makes a validation part of the training images, but one is named too "
            f"({val_split or val_annotations}); leave one out",
            arguments=("val_share", "val_split", "val_annotations"),
        )
    if annotations is not None or images is not None or val_annotations is not None:
        layout, root = _of_files(data, annotations, images, val_annotations, val_images)
    elif data is None:
        raise DatasetError(
            f"no data set is named; name {', '.join(LAYOUTS)} or a folder, or annotations and images",
            arguments=("data", "annotations"),
        )
    elif str(data) in LAYOUTS:
        layout = LAYOUTS[str(data)]
        root = (data_root or layout.default_root()).expanduser()
    elif data_root is not None:
        if not Path(data).expanduser().is_dir():
            LAYOUTS.find(str(data))  # which says what there is
        raise DatasetError(
            f"{data}: is a folder, so the folder {data_root} does not apply; leave one out",
            arguments=("data", "data_root"),
        )
    else:
        root = Path(data).expanduser()
        if root.suffix in (".yaml", ".yml") and root.is_file():
            root = root.parent
        layout = _recognised(root)
    return DataSource(
        layout=layout, root=root, named_train_split=train_split, named_val_split=val_split, val_share=val_share
    )


def _of_files(
    data: str | Path | None,
    annotations: Path | None,
    images: Path | None,
    val_annotations: Path | None,
    val_images: Path | None,
) -> tuple[Layout, Path]:
    if data is not None or annotations is None or images is None:
        raise DatasetError(
            "annotations and images name a file and a folder, together and without a data set beside them; give both",
            arguments=("annotations", "images", "data"),
        )
    images = images.expanduser()
    if val_annotations is None:
        return coco_files({"all": (annotations.expanduser(), images)}), images
    held_out = (val_annotations.expanduser(), (val_images or images).expanduser())
    return coco_files({"train": (annotations.expanduser(), images), "val": held_out}), images


def _recognised(folder: Path) -> Layout:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: neither {' nor '.join(LAYOUTS)}, and no such folder; name one of them", arguments=("data",)
        )
    try:
        found = [layout for layout in LAYOUTS.values() if not layout.is_last_resort and layout.recognise(folder)]
        found = found or [layout for layout in LAYOUTS.values() if layout.is_last_resort and layout.recognise(folder)]
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}); name another folder") from error
    if len(found) == 1:
        return found[0]
    known = "; ".join(f"{layout.name}: {layout.looks_like}" for layout in found or LAYOUTS.values())
    if found:
        raise DatasetError(
            f"{folder}: looks like {' and '.join(layout.name for layout in found)} ({known}); name the layout and this "
            "folder as its root",
            arguments=("data", "data_root"),
        )
    raise DatasetError(f"{folder}: no data set was found in it ({known}); name another folder", arguments=("data",))
