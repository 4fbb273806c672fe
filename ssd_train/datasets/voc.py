"""Pascal VOC folders: JPEGImages, Annotations and ImageSets/Main; one of them, or one a year."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from ssd_train.datasets.annotations import AnnotatedImage, Annotations
from ssd_train.datasets.class_names import Spellings
from ssd_train.datasets.dataset import GroundTruth
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import FileIndex, image_size
from ssd_train.datasets.voc_xml import class_names_in, read_annotated_image
from ssd_train.errors import DatasetError

# The published trainings' own, of a folder with one VOC<year> folder for each year.
YEAR_TRAIN_SPLIT = "2007_trainval,2012_trainval"
YEAR_TEST_SPLIT = "2007_test"

# All images of a folder without lists.
ALL = "all"

XML_SUFFIXES = (".xml",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocFolder:
    """A folder's images, annotations and lists."""

    root: Path
    images: FileIndex
    annotations: FileIndex

    @classmethod
    def open(cls, root: Path) -> "VocFolder":
        return cls(
            root=root,
            images=FileIndex(root / "JPEGImages"),
            annotations=FileIndex(root / "Annotations", XML_SUFFIXES),
        )

    @property
    def main(self) -> Path:
        return self.root / "ImageSets" / "Main"


def is_voc(folder: Path) -> bool:
    """Whether a folder looks like Pascal VOC's: pictures, annotations or lists, or a folder a year."""
    # By the listing, since some file systems take COCO's `annotations` for `Annotations`.
    return any(
        {"JPEGImages", "Annotations", "ImageSets"} & {path.name for path in base.iterdir()} or _years(base)
        for base in _bases(folder)
        if base.is_dir()
    )


def read_voc(root: Path, split: str, findings: Findings) -> Annotations:
    """Read one or more image lists with their annotations.

    Args:
        root: a VOC folder (JPEGImages, Annotations, ImageSets/Main), a folder of VOC<year> folders, or one that holds
            VOCdevkit.
        split: an image list, `2007_test` where there are year folders, or `all`; several joined by commas.
        findings: told of faults.

    Raises:
        DatasetError: a folder, list, image or annotation is missing or unusable, or a list is empty.
        ImageError: an annotation without a size belongs to an image that cannot be read.
    """
    images: list[AnnotatedImage] = []
    is_annotated = False
    for folder, name in _resolved(root, split):
        pairs = [_image_of(folder, line, name, findings) for line in _lines(folder, name)]
        found = [pair for pair in pairs if pair is not None]
        own = _read_all(folder, name, found, findings)
        is_annotated = is_annotated or own.is_annotated
        images += own.images
    return Annotations(images=tuple(images), is_annotated=is_annotated)


def split_names(root: Path) -> tuple[str, ...]:
    """Return the lists of a folder, without those of single classes; `all` where it has none."""
    for base in _bases(root):
        if (base / "Annotations").is_dir() or (base / "ImageSets").is_dir():
            return tuple(_list_names(base / "ImageSets" / "Main")) or (ALL,)
        if years := _years(base):
            return tuple(
                f"{year.name.removeprefix('VOC')}_{name}"
                for year in years
                for name in _list_names(year / "ImageSets" / "Main")
            )
    return ()


def train_split(root: Path) -> str:
    """Return the list to train on: the published trainings' own, else `train`, or `trainval` where it is that.

    Raises:
        DatasetError: there are annotations, but no lists.
    """
    names = split_names(root)
    if names == (ALL,):
        no_lists(root)
    if not names or _is_by_year(names):
        return YEAR_TRAIN_SPLIT
    return "train" if "train" in names and ("val" in names or "trainval" not in names) else "trainval"


def val_split(root: Path) -> str:
    """Return the list to validate on in a training: `val`, else `test`; 2007_test where there are years.

    Raises:
        DatasetError: there are annotations, but no lists.
    """
    names = split_names(root)
    if names == (ALL,):
        no_lists(root)
    if not names or _is_by_year(names):
        return YEAR_TEST_SPLIT
    return next((name for name in ("val", "test") if name in names), "val")


def eval_split(root: Path) -> str:
    """Return the list to evaluate on: `test`, else `val`; 2007_test where there are years, all without lists."""
    names = split_names(root)
    if names == (ALL,):
        return ALL
    if not names or _is_by_year(names):
        return YEAR_TEST_SPLIT
    return "test" if "test" in names else "val"


def no_lists(root: Path) -> NoReturn:
    """Raise DatasetError where a training finds images, but nothing says which ones to validate on."""
    raise DatasetError(
        f"{root}: has no lists of images to train and to validate on; hold a part of them out, for example "
        "val_share 0.1",
        arguments=("val_share",),
    )


def find_class_names(root: Path) -> tuple[str, ...]:
    """Return the classes of the objects in all images that the lists name, by alphabet.

    Raises:
        DatasetError: none names a class.
    """
    paths: dict[Path, None] = {}
    for name in split_names(root) or ("",):
        for folder, part in _resolved(root, name) if name else ():
            for line in _lines(folder, part):
                pair = _image_of(folder, line, part, Findings(is_complete=True))
                xml_path = None if pair is None else folder.annotations.find(pair[0])
                if xml_path is not None:
                    paths[xml_path] = None
    return classes_of_files(root, list(paths))


def classes_of_files(root: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the classes that XML files name; raise DatasetError where there are none."""
    names = Spellings.of_files(map(class_names_in, paths)).classes()
    if not names:
        raise DatasetError(
            f"{root}: its annotations name no class; name the right folder, or give a class list",
            arguments=("data", "classes"),
        )
    return names


def gluoncv_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Return the objects as GluonCV reads, trains on and scores them.

    All four numbers of the XML minus 1; objects outside 0 <= min < size and min < max <= size are left out.
    """
    boxes = truth.written_boxes - np.array([0, 0, 1, 1])
    low, high, size = boxes[:, :2], boxes[:, 2:], np.array(image_size[::-1])
    keep = ((low >= 0) & (low < size) & (low < high) & (high <= size)).all(axis=1)
    return dataclasses.replace(truth, boxes=boxes).select(keep)


def training_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Return the objects to train on: all of them, clipped, and then as GluonCV has them, one pixel nearer.

    GluonCV drops objects that reach outside their image, and so trains on them as background.
    """
    boxes = truth.boxes - np.array([0, 0, 1, 1])
    # What is left of a clipped object may be less than the pixel.
    return dataclasses.replace(truth, boxes=boxes).select((boxes[:, :2] < boxes[:, 2:]).all(axis=1))


def _bases(root: Path) -> tuple[Path, Path]:
    return root, root / "VOCdevkit"


def _years(base: Path) -> list[Path]:
    return sorted(base.glob("VOC[0-9][0-9][0-9][0-9]"))


def _is_by_year(names: Sequence[str]) -> bool:
    return all(re.match(r"\d{4}_", name) for name in names)


def _list_names(main: Path) -> list[str]:
    """Return the lists of all classes; where each class has lists of its own, as VoTT writes them, their parts."""
    names = sorted(path.stem for path in main.glob("*.txt") if not path.name.startswith("."))
    plain = [name for name in names if not re.search(r"_(train|val|trainval|test)$", name)]
    if not plain:
        parts = {name.rsplit("_", 1)[1] for name in names}
        return [part for part in ("train", "val", "trainval", "test") if part in parts]
    return plain


def _resolved(root: Path, split: str) -> list[tuple[VocFolder, str]]:
    """Return the folders and their lists that a split stands for."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name the Pascal VOC folder", arguments=("data_root",))
    parts = [part.strip() for part in split.split(",")]
    if not all(parts):
        raise DatasetError(f"split {split!r} has an empty part; write names joined by single commas")
    for base in _bases(root):
        if (base / "Annotations").is_dir() or (base / "ImageSets").is_dir():
            folder = VocFolder.open(base)
            return [(folder, part) for part in parts]
        if years := _years(base):
            return [_of_year(base, part, years) for part in parts]
    raise DatasetError(
        f"{root}: no Pascal VOC data; expected Annotations, JPEGImages and ImageSets/Main, or folders like "
        "VOC2007, or VOCdevkit; name the right folder",
        arguments=("data_root",),
    )


def _of_year(base: Path, part: str, years: list[Path]) -> tuple[VocFolder, str]:
    match = re.fullmatch(r"(\d{4})_(.+)", part)
    root = base / f"VOC{match[1]}" if match else None
    if match is None or root is None or root not in years:
        present = ", ".join(year.name for year in years)
        raise DatasetError(
            f"{base}: split {part!r} names no year that is here ({present}); "
            "write it as <year>_<list>, for example 2007_test"
        )
    return VocFolder.open(root), match[2]


def _lines(folder: VocFolder, name: str) -> list[str]:
    """Return the lines of a list, of a class's lists put together, or the ids of all annotated images."""
    path = folder.main / f"{name}.txt"
    if path.is_file():
        return _read_list(path)
    of_classes = [each for each in sorted(folder.main.glob(f"*_{name}.txt")) if not each.name.startswith(".")]
    if of_classes:
        return list(dict.fromkeys(_without_column(line) for each in of_classes for line in _read_list(each)))
    if name == ALL:
        return [image_id for image_id in folder.annotations.paths if folder.images.find(image_id) is not None]
    present = ", ".join(_list_names(folder.main)[:8]) or f"none, so {ALL}"
    raise DatasetError(f"{path}: no such image list; choose another split (lists there: {present})")


def _read_list(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); write one image id a line") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: the image list is empty; write one image id a line or choose another split")
    return lines


def _without_column(line: str) -> str:
    """Return a line of a class's list without its second column, which says whether the class is there."""
    return re.sub(r"\s+(-1|0|1)$", "", line)


def _image_of(folder: VocFolder, line: str, name: str, findings: Findings) -> tuple[str, Path] | None:
    """Return id and image of a list's line: of the whole line if there is such an image, else of the first column."""
    for candidate in dict.fromkeys((line, _without_column(line))):
        for written in dict.fromkeys((candidate, candidate.replace("\\", "/"))):
            path = folder.images.find(written.removeprefix("./").removeprefix("JPEGImages/"))
            if path is not None:
                return folder.images.id_of(path), path
    list_file = folder.main / f"{name}.txt"
    findings.stop(
        f"{folder.images.folder / line}: no such image in {folder.images.folder}, but {list_file} lists it; add the "
        "image or take it off the list",
        place=line,
    )
    return None


def _read_all(folder: VocFolder, name: str, pairs: Sequence[tuple[str, Path]], findings: Findings) -> Annotations:
    """Read the annotations of a list's images; a list none of whose images has one is a test set without answers."""
    xml_paths = [folder.annotations.find(image_id) for image_id, _ in pairs]
    if not any(xml_paths):
        without = [
            AnnotatedImage(image_id=image_id, path=path, image_size=image_size(path), objects=(), place=path.name)
            for image_id, path in pairs
        ]
        return Annotations(images=tuple(without), is_annotated=False)
    images = []
    for (image_id, image_path), xml_path in zip(pairs, xml_paths, strict=True):
        if xml_path is None:
            findings.stop(
                f"{folder.annotations.folder / image_id}.xml: no such annotation, but {folder.main / name}.txt lists "
                "its image; add it or take the image off the list",
                place=f"{image_id}.xml",
            )
            continue
        images.append(read_annotated_image(image_id, image_path, xml_path, findings))
    return Annotations(images=tuple(images))
