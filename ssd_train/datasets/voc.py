"""Pascal VOC folders: JPEGImages, Annotations and ImageSets/Main; one of them, or one a year."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssd_train.datasets.annotations import AnnotatedImage, Annotations
from ssd_train.datasets.class_names import Spellings
from ssd_train.datasets.dataset import GroundTruth
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import FileIndex, known_size
from ssd_train.datasets.splits import ALL, no_lists
from ssd_train.datasets.voc_xml import class_names_in, read_annotated_image
from ssd_train.errors import DatasetError
from ssd_train.input_files import read_text
from ssd_train.json_input import shown

# The published trainings' own, of a folder with one VOC<year> folder for each year.
YEAR_TRAIN_SPLIT = "2007_trainval,2012_trainval"
YEAR_TEST_SPLIT = "2007_test"

XML_SUFFIXES = (".xml",)

# As VOC calls it, and as people do who have its annotations alone.
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocFolder:
    """A folder's images, annotations and lists."""

    root: Path
    images: FileIndex
    annotations: FileIndex

    @classmethod
    def open(cls, root: Path) -> "VocFolder":
        places = [root / name for name in IMAGE_FOLDERS]
        return cls(
            root=root,
            images=FileIndex(next((path for path in places if path.is_dir()), places[0])),
            annotations=FileIndex(root / "Annotations", XML_SUFFIXES),
        )

    @property
    def main(self) -> Path:
        return self.root / "ImageSets" / "Main"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListedImage:
    """An image that a list names.

    Attributes:
        image_id: its path in the folder of images, without suffix.
        path: the image file.
        xml_path: its annotation; None where there is none.
        folder, list_name: where it is named.
    """

    image_id: str
    path: Path
    xml_path: Path | None
    folder: VocFolder
    list_name: str


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
    listed: list[ListedImage] = []
    for folder, name in _resolved(root, split):
        listed += filter(None, (_image_of(folder, line, name, findings) for line in _lines(folder, name)))
    # Lists none of whose images has an annotation are a test set without answers.
    is_annotated = any(each.xml_path is not None for each in listed)
    images = [_annotated_image(each, is_annotated, findings) for each in listed]
    return Annotations(images=tuple(image for image in images if image is not None), is_annotated=is_annotated)


def split_names(root: Path) -> tuple[str, ...]:
    """Return the lists of a folder, without those of single classes; `all` where it has none."""
    for base in _bases(root):
        if (base / "Annotations").is_dir() or (base / "ImageSets").is_dir():
            return tuple(_list_names(base / "ImageSets" / "Main")) or (ALL,)
        if years := _years(base):
            return tuple(
                f"{year.name.removeprefix('VOC')}_{name}"
                for year in years
                for name in _list_names(year / "ImageSets" / "Main") or [ALL]
            )
    return ()


def train_split(root: Path) -> str:
    """Return the list to train on: the published trainings' own, else `train`, or `trainval` where it is that.

    Raises:
        DatasetError: there are annotations, but no such list.
    """
    names = _existing_lists(root)
    if _is_by_year(names):
        return YEAR_TRAIN_SPLIT
    return _first(root, names, ("train", "trainval") if "val" in names else ("trainval", "train"), "train")


def val_split(root: Path) -> str:
    """Return the list to validate on in a training: `val`, else `test`; 2007_test where there are years.

    Raises:
        DatasetError: there are annotations, but no such list.
    """
    names = _existing_lists(root)
    if _is_by_year(names):
        return YEAR_TEST_SPLIT
    return _first(root, names, ("val", "test"), "val")


def eval_split(root: Path) -> str:
    """Return the list to evaluate on: `test`, else `val`, or the only one; 2007_test where there are years.

    Without lists it is all images.

    Raises:
        DatasetError: there are several lists, but no such one.
    """
    names = split_names(root)
    if _is_without_lists(names):
        return ",".join(names)
    if _is_by_year(names):
        return YEAR_TEST_SPLIT
    return names[0] if len(names) == 1 else _first(root, names, ("test", "val"), "val")


def _existing_lists(root: Path) -> tuple[str, ...]:
    """Return the lists of a folder; raise DatasetError where there are annotations alone."""
    names = split_names(root)
    return no_lists(root) if _is_without_lists(names) else names


def _first(root: Path, names: Sequence[str], wanted: Sequence[str], part: str) -> str:
    """Return the first list that is there."""
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise DatasetError(
            f"{root}: has no list {' or '.join(wanted)}, only {', '.join(names[:8])}; name a list, or hold out a part "
            "of the training images, for example val_share 0.1",
            arguments=(f"{part}_split", "val_share"),
        )
    return found


def find_class_names(root: Path) -> tuple[str, ...]:
    """Return the classes of the objects in all images that the lists name, by alphabet.

    Raises:
        DatasetError: none names a class.
    """
    paths: dict[Path, None] = {}
    for folder, part in _resolved(root, ",".join(split_names(root)) or ALL):
        for line in _lines(folder, part):
            listed = _image_of(folder, line, part, Findings(is_complete=True))
            if listed is not None and listed.xml_path is not None:
                paths[listed.xml_path] = None
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
    """Whether lists are those of year folders; where there is nothing, they are expected."""
    return all(re.match(r"\d{4}_", name) for name in names)


def _is_without_lists(names: Sequence[str]) -> bool:
    return bool(names) and all(re.fullmatch(rf"(\d{{4}}_)?{ALL}", name) for name in names)


def _list_names(main: Path) -> list[str]:
    """Return the lists of all classes; where each class has lists of its own, as VoTT writes them, their parts."""
    names = sorted(path.stem for path in main.glob("*.txt") if not path.name.startswith("."))
    usual = ("train", "val", "trainval", "test")
    parts = tuple(f"_{part}" for part in {*usual, *names})
    plain = [name for name in names if not name.endswith(parts)]
    return plain or [part for part in usual if any(name.endswith(f"_{part}") for name in names)]


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
            named = [_of_year(base, part, years) for part in parts]
            # Each folder is listed once, however many of its lists are wanted.
            folders = {year: VocFolder.open(year) for year in dict.fromkeys(year for year, _ in named)}
            return [(folders[year], name) for year, name in named]
    raise DatasetError(
        f"{root}: no Pascal VOC data; expected Annotations, JPEGImages and ImageSets/Main, or folders like "
        "VOC2007, or VOCdevkit; name the right folder",
        arguments=("data_root",),
    )


def _of_year(base: Path, part: str, years: list[Path]) -> tuple[Path, str]:
    """Return the folder and the list that a part of a split names."""
    match = re.fullmatch(r"(\d{4})_(.+)", part)
    root = base / f"VOC{match[1]}" if match else None
    if match is None or root is None or root not in years:
        present = ", ".join(year.name for year in years)
        raise DatasetError(
            f"{base}: split {part!r} names no year that is here ({present}); "
            "write it as <year>_<list>, for example 2007_test"
        )
    return root, match[2]


def _lines(folder: VocFolder, name: str) -> list[str]:
    """Return the lines of a list, of a class's lists put together, or the ids of all annotated images."""
    path = folder.main / f"{name}.txt"
    if os.path.isfile(path):  # which takes a name that is too long for one that is not there
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
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); write one image id a line") from error
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: the image list is empty; write one image id a line or choose another split")
    return lines


def _without_column(line: str) -> str:
    """Return a line of a class's list without its second column, which says whether the class is there."""
    return re.sub(r"\s+(-1|0|1)$", "", line)


def _image_of(folder: VocFolder, line: str, name: str, findings: Findings) -> ListedImage | None:
    """Return the image of a list's line: of the whole line if there is such an image, else of the first column."""
    for candidate in dict.fromkeys((line, _without_column(line))):
        for written in dict.fromkeys((candidate, candidate.replace("\\", "/"))):
            path = folder.images.find(written.removeprefix("./").removeprefix("JPEGImages/"))
            if path is not None:
                image_id = folder.images.id_of(path)
                xml_path = folder.annotations.find(image_id)
                return ListedImage(image_id=image_id, path=path, xml_path=xml_path, folder=folder, list_name=name)
    findings.stop(
        f"{shown(str(folder.images.folder / line), 500)}: no such image in {folder.images.folder}, but "
        f"{folder.main / name}.txt lists it; add the image or take it off the list",
        place=line,
    )
    return None


def _annotated_image(listed: ListedImage, is_annotated: bool, findings: Findings) -> AnnotatedImage | None:
    """Read an image's annotation, which it need not have in a test set without answers; None where that fails."""
    if listed.xml_path is not None:
        return read_annotated_image(listed.image_id, listed.path, listed.xml_path, findings)
    if is_annotated:
        findings.stop(
            f"{listed.folder.annotations.folder / listed.image_id}.xml: no such annotation, but "
            f"{listed.folder.main / listed.list_name}.txt lists its image; add it or take the image off the list",
            place=f"{listed.image_id}.xml",
        )
        return None
    size = known_size(listed.path, findings)
    if size is None:
        return None
    return AnnotatedImage(
        image_id=listed.image_id, path=listed.path, image_size=size, objects=(), place=listed.path.name
    )
