"""Where COCO files and their images lie: as COCO has them, and as CVAT, Roboflow and Label Studio write them."""

import os
from pathlib import Path

from ssd_train.datasets.annotations import Annotations
from ssd_train.datasets.coco import find_class_names as class_names_of_file
from ssd_train.datasets.coco import read_coco
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.splits import ALL, SPLIT_NAMES, named_split
from ssd_train.errors import DatasetError

# The published trainings' own.
SPLITS = {"train": "train2017", "val": "val2017"}

# With answers, and without: COCO's test sets.
PREFIXES = ("instances_", "image_info_")
ROBOFLOW_NAME = "_annotations.coco.json"
LABEL_STUDIO_NAME = "result.json"


def is_coco(folder: Path) -> bool:
    """Whether a folder looks like COCO's: annotations/instances_*.json, images by split."""
    return _has_annotations(folder) and not is_cvat(folder)


def is_cvat(folder: Path) -> bool:
    """Whether it looks as CVAT exports COCO: images/<subset> beside the annotations."""
    return _has_annotations(folder) and any((folder / "images" / split).is_dir() for split in split_names(folder))


def is_roboflow(folder: Path) -> bool:
    """Whether it looks as Roboflow exports COCO: an annotation file in the folder of each split."""
    return bool(roboflow_splits(folder))


def is_label_studio(folder: Path) -> bool:
    """Whether it looks as Label Studio exports COCO: one file beside the folder of all images."""
    return (folder / LABEL_STUDIO_NAME).is_file() and (folder / "images").is_dir()


def _has_annotations(folder: Path) -> bool:
    # By the listing, since some file systems take VOC's `Annotations` for `annotations`.
    return "annotations" in {path.name for path in folder.iterdir()} and bool(split_names(folder))


def split_names(root: Path) -> tuple[str, ...]:
    """Return the splits of `annotations`, those with answers first."""
    folder = root / "annotations"
    return tuple(
        dict.fromkeys(
            path.stem.removeprefix(prefix) for prefix in PREFIXES for path in sorted(folder.glob(f"{prefix}*.json"))
        )
    )


def find_split(root: Path, part: str) -> str:
    """Return the only split of a folder whose name begins with `train` or `val`, or COCO's own name of it.

    Raises:
        DatasetError: there are several, and none has COCO's own name; or no such one, but others.
    """
    names = split_names(root)
    found = [name for name in names if name.startswith(part)]
    usual = SPLITS[part]
    if usual in found or not names:
        return usual
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(
            f"{root / 'annotations'}: several files could be meant ({', '.join(found)}); name one of these splits",
            arguments=(f"{part}_split",),
        )
    raise DatasetError(
        f"{root / 'annotations'}: no split is called {part}, only {', '.join(names)}; name one of these splits, or "
        "hold out a part of the training images",
        arguments=(f"{part}_split", "val_share"),
    )


def eval_split(root: Path) -> str:
    """Return the split to evaluate on: the one for validation, or the only one."""
    names = split_names(root)
    return names[0] if len(names) == 1 else find_split(root, "val")


def read_coco_split(root: Path, split: str, findings: Findings) -> Annotations:
    """Read `annotations/instances_<split>.json`, or `image_info_<split>.json` of a test set without answers.

    Images lie in a folder that is called like the split, in `images` or beside `annotations`. COCO's `test-dev2017` is
    a part of the folder `test2017`.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name the COCO folder", arguments=("data_root",))
    folders = [root / split, root / "images" / split, root / split.replace("-dev", ""), root / "images", root]
    # The likeliest first: in errors, it is where images are missing.
    folders.sort(key=lambda folder: not os.path.isdir(folder))
    return read_coco(annotation_file(root, split), [*folders, root / "annotations"], root, findings)


def annotation_file(root: Path, split: str) -> Path:
    paths = [root / "annotations" / f"{prefix}{split}.json" for prefix in PREFIXES]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def class_names(root: Path, split: str) -> tuple[str, ...]:
    return class_names_of_file(annotation_file(root, split))


def roboflow_splits(root: Path) -> tuple[str, ...]:
    """Return the folders that hold a file of Roboflow's, in the order of training, validation, test."""
    return tuple(name for name in SPLIT_NAMES if (root / name / ROBOFLOW_NAME).is_file())


def roboflow_split(root: Path, part: str) -> str:
    return named_split(root, roboflow_splits(root), part)


def read_roboflow(root: Path, split: str, findings: Findings) -> Annotations:
    folder = root / split
    return read_coco(folder / ROBOFLOW_NAME, [folder, root], root, findings)


def roboflow_class_names(root: Path, split: str) -> tuple[str, ...]:
    return class_names_of_file(root / split / ROBOFLOW_NAME)


def read_label_studio(root: Path, split: str, findings: Findings) -> Annotations:
    if split != ALL:
        raise DatasetError(f"{root}: has no splits; leave out {split}, or hold out a part", arguments=("split",))
    return read_coco(root / LABEL_STUDIO_NAME, [root / "images", root], root, findings)


def label_studio_class_names(root: Path) -> tuple[str, ...]:
    return class_names_of_file(root / LABEL_STUDIO_NAME)


def read_files(annotations: Path, images: Path, findings: Findings) -> Annotations:
    """Read a COCO file and the folder of its images, wherever they lie."""
    if not images.is_dir():
        raise DatasetError(f"{images}: no such folder of images; name the right one", arguments=("images",))
    return read_coco(annotations, [images], images, findings)
