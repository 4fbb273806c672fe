"""What a user names as a data set: a layout and a folder, or files, with splits."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.datasets.layouts import LAYOUTS, Layout, coco_row, late
from ssd_train.datasets.splits import ALL, HELD_OUT, no_lists
from ssd_train.errors import DatasetError
from ssd_train.options import option
from ssd_train.paths import user_path

if TYPE_CHECKING:
    from ssd_train.datasets.annotations import Annotations
    from ssd_train.datasets.dataset import Dataset
    from ssd_train.datasets.findings import Findings


def coco_files(parts: Mapping[str, tuple[Path, Path]]) -> Layout:
    """Return a layout for COCO files that lie anywhere: split -> (annotation file, folder of its images)."""
    first = next(iter(parts))

    def find(part: str) -> Callable[[Path], str]:
        return lambda root: part if part in parts else no_lists(root)

    return coco_row(
        name="coco-file",
        title="COCO file",
        looks_like="a JSON file and a folder of images",
        recognise=lambda root: False,
        read=lambda root, split, findings: late("coco_folders", "read_files")(*_named(parts, split), findings),
        find_class_names=lambda root, split: late("coco", "find_class_names")(_named(parts, split)[0]),
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataNames:
    """What names a data set to train on, beside its folder or instead."""

    data_root: Path | None = option(None, "Folder of voc or coco; default ~/.torch/datasets/voc or coco.")
    annotations: Path | None = option(None, "A COCO file instead of a data set; with images.")
    images: Path | None = option(None, "Folder of the images that annotations lists.")
    val_annotations: Path | None = option(None, "A COCO file to validate on, beside annotations.")
    val_images: Path | None = option(None, "Its images; default those of images.")
    val_share: float | None = option(
        None, "Hold this part of the training images out for validation, by a hash of their names.", above=0, below=1
    )
    train_split: str | None = option(None, "Default 2007_trainval,2012_trainval, train2017, or a folder's own train.")
    val_split: str | None = option(None, "Default 2007_test, val2017, or a folder's own val.")
    classes: Path | None = option(None, "Class list of a _custom network; default the data set's own classes.")

    def source_of(self, data: str | Path | None) -> DataSource:
        """Find the data set, see `find_source`. Raises DatasetError."""
        return find_source(
            data,
            self.data_root,
            annotations=self.annotations,
            images=self.images,
            val_annotations=self.val_annotations,
            val_images=self.val_images,
            train_split=self.train_split,
            val_split=self.val_split,
            val_share=self.val_share,
        )


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
        root = layout.default_root() if data_root is None else _path(data_root, "data_root")
    elif data_root is not None:
        if not _path(data, "data").is_dir():
            LAYOUTS.find(str(data))  # which says what there is
        raise DatasetError(
            f"{data}: is a folder, so the folder {data_root} does not apply; leave one out",
            arguments=("data", "data_root"),
        )
    else:
        root = _path(data, "data")
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
    annotations, images = _path(annotations, "annotations"), _path(images, "images")
    if val_annotations is None:
        return coco_files({ALL: (annotations, images)}), images
    held_out = (_path(val_annotations, "val_annotations"), _path(val_images or images, "val_images"))
    return coco_files({"train": (annotations, images), "val": held_out}), images


def _path(named: str | Path, argument: str) -> Path:
    return user_path(named, DatasetError, arguments=(argument,))


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
