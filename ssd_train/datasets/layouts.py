"""The table of data layouts: how folders of annotated images are laid out, and all that the rest asks of each.

A layout is a module beside this file and one row here (`docs/extending.md`). Light: what a row calls is imported when
it is called.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from ssd_train.errors import DatasetError
from ssd_train.table import Table

if TYPE_CHECKING:
    from ssd_train.datasets.dataset import Dataset, GroundTruth


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One row.

    Attributes:
        name: what options and reports call it, and its folder in `~/.torch/datasets`.
        looks_like: what `recognise` looks for, for people.
        metric: name of the row of `METRICS` that scores it.
        val_interval: epochs of a training from one validation to the next.
        recognise: folder that exists -> whether it is in this layout.
        load: (root, split, class names, skip ignored) -> the annotations; None is the split to evaluate on. With the
            last one objects that are marked to be ignored are left out, as GluonCV's training does. Raises
            DatasetError.
        find_class_names: (root, training split) -> classes of a data set of one's own. Raises DatasetError.
        train_split, val_split: root -> what to train and to validate on where nothing is named. Raise DatasetError.
        training_boxes: (objects of an image, its (height, width)) -> those that GluonCV trains on, as it sees them.
    """

    name: str
    looks_like: str
    metric: str
    val_interval: int
    recognise: Callable[[Path], bool]
    load: "Callable[[Path, str | None, Sequence[str], bool], Dataset]"
    find_class_names: Callable[[Path, str], tuple[str, ...]]
    train_split: Callable[[Path], str]
    val_split: Callable[[Path], str]
    training_boxes: "Callable[[GroundTruth, tuple[int, int]], GroundTruth]"

    def default_root(self) -> Path:
        """Return where its folder is looked for when none is named."""
        return Path.home() / ".torch" / "datasets" / self.name


def _voc() -> ModuleType:
    from ssd_train.datasets import voc

    return voc


def _coco() -> ModuleType:
    from ssd_train.datasets import coco

    return coco


LAYOUTS: Table[Layout] = Table(
    "data set",
    (
        Layout(
            name="voc",
            looks_like="JPEGImages, Annotations and ImageSets, or folders like VOC2007, or VOCdevkit with these",
            metric="voc",
            val_interval=1,
            recognise=lambda folder: _voc().is_voc(folder),
            # Nothing is marked so.
            load=lambda root, split, names, skip_ignored: _voc().load_voc(root, split, names),
            find_class_names=lambda root, split: _voc().find_class_names(root),
            train_split=lambda root: _voc().training_splits(root)[0],
            val_split=lambda root: _voc().training_splits(root)[1],
            training_boxes=lambda truth, image_size: _voc().gluoncv_boxes(truth, image_size),
        ),
        Layout(
            name="coco",
            looks_like="annotations/instances_*.json",
            metric="coco",
            # Its validation takes long, so GluonCV's is rare.
            val_interval=10,
            recognise=lambda folder: _coco().is_coco(folder),
            load=lambda root, split, names, skip: _coco().load_coco(root, split, names, skip_ignored=skip),
            find_class_names=lambda root, split: _coco().find_class_names(root, split),
            train_split=lambda root: _coco().find_split(root, "train"),
            val_split=lambda root: _coco().find_split(root, "val"),
            training_boxes=lambda truth, image_size: _coco().training_boxes(truth, image_size),
        ),
    ),
    DatasetError,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set that a user named.

    Attributes:
        layout: decides how it is read, trained on and scored.
        root: the folder.
        named_train_split, named_val_split: what the user named; None leaves it to the layout.
    """

    layout: Layout
    root: Path
    named_train_split: str | None = None
    named_val_split: str | None = None

    @property
    def train_split(self) -> str:
        """What to train on. Raises DatasetError where it has to be named."""
        return self.named_train_split or self.layout.train_split(self.root)

    @property
    def val_split(self) -> str:
        """What to validate on in a training. Raises DatasetError where it has to be named."""
        return self.named_val_split or self.layout.val_split(self.root)

    def class_names(self) -> tuple[str, ...]:
        """Return the classes of a data set of one's own. Raises DatasetError."""
        return self.layout.find_class_names(self.root, self.train_split)

    def load(self, split: str | None, class_names: Sequence[str]) -> "Dataset":
        """Read a split's annotations as every evaluation does; images are loaded later, one by one.

        Args:
            split: which part; None for the one to evaluate on.
            class_names: the detector's classes in label order.

        Raises:
            DatasetError: the folder cannot be used.
        """
        return self.layout.load(self.root, split, class_names, False)


def find_source(
    data: str | Path, data_root: Path | None = None, *, train_split: str | None = None, val_split: str | None = None
) -> DataSource:
    """Resolve what a user calls a data set: a layout, or a folder of one's own, whose layout its content tells.

    Args:
        data: name of a row of `LAYOUTS`, or a folder; a leading ~ is the home folder.
        data_root: a named layout's folder; None for `~/.torch/datasets/<layout>`.
        train_split, val_split: None leaves them to the layout: those of the published trainings, or what there is.

    Raises:
        DatasetError: no such folder, or it looks like none of the layouts, or like several.
    """
    if str(data) in LAYOUTS:
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
        layout = _recognised(root)
    return DataSource(layout=layout, root=root, named_train_split=train_split, named_val_split=val_split)


def _recognised(folder: Path) -> Layout:
    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: neither {' nor '.join(LAYOUTS)}, and no such folder; name one of them", arguments=("data",)
        )
    try:
        found = [layout for layout in LAYOUTS.values() if layout.recognise(folder)]
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
