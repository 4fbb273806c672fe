"""Pascal VOC folders -> Dataset: the original sets, and anything annotated in the same layout."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd_train.datasets.dataset import Dataset, GroundTruth, Sample, make_ground_truth
from ssd_train.errors import DatasetError
from ssd_train.preprocess import load_image

# The published trainings' own, of a folder with one VOC<year> folder for each year.
YEAR_TRAIN_SPLIT = "2007_trainval,2012_trainval"
YEAR_TEST_SPLIT = "2007_test"

# Looked for in this order beside an image id; upper case too, since cameras write .JPG.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG", ".BMP")

# What a reader says of objects and images: how many, and in which annotations.
NOTES = (
    "left out {} objects without area inside their image: {}",
    "kept {} objects that reach outside their image, boxes not clipped: {}",
    "took the size of {} images from their files, since the annotation has none: {}",
)


def load_voc(root: Path, split: str | None, class_names: Sequence[str]) -> Dataset:
    """Read one or more image lists of a Pascal VOC folder with their annotations.

    XML numbers are 1-based and inclusive; boxes become continuous and 0-based, that is
    (xmin - 1, ymin - 1, xmax, ymax). Objects without width or height as written (xmax <= xmin), and
    objects wholly outside their image, are left out with a note. Boxes that merely reach outside are
    kept as they are, as the VOC devkit does.

    Args:
        root: a VOC folder (JPEGImages, Annotations, ImageSets/Main), a folder of VOC<year> folders,
            or one that holds VOCdevkit.
        split: an image list, `test`, or `2007_test` where there are year folders; several joined by
            commas. None: `2007_test` with year folders, else `test` if that list exists, else `val`.
        class_names: label order; compared with the XML's names in lower case.

    Raises:
        DatasetError: a folder, list, image or annotation is missing or unusable, a list is empty, an
            image is listed twice, or an object's class is not in `class_names`.
        ImageError: an annotation without a size belongs to an image that cannot be read.
    """
    labels = _labels_by_name(class_names)
    name, lists = _resolve_split(root, split)
    samples: list[Sample] = []
    counts: dict[str, dict[str, int]] = {sentence: {} for sentence in NOTES}
    listed: set[str] = set()
    for folder, list_file in lists:
        for image_id in _read_image_list(list_file):
            if image_id in listed:
                raise DatasetError(
                    f"{list_file}: image {image_id} is listed twice in split {name}; name each list once"
                )
            listed.add(image_id)
            sample, noted = _read_sample(folder, image_id, list_file, labels)
            samples.append(sample)
            for sentence, count in zip(NOTES, noted, strict=True):
                if count:
                    counts[sentence][f"{image_id}.xml"] = count
    return Dataset(
        name=f"voc {name}",
        class_names=tuple(class_names),
        samples=tuple(samples),
        category_ids=tuple(range(1, len(class_names) + 1)),
        notes=tuple(_notes(counts)),
    )


def is_voc(folder: Path) -> bool:
    """Whether a folder looks like Pascal VOC's: pictures, annotations or lists, or a folder a year."""
    # By the listing, since some file systems take COCO's `annotations` for `Annotations`.
    return any(
        {"JPEGImages", "Annotations", "ImageSets"} & {path.name for path in base.iterdir()} or _years(base)
        for base in _bases(folder)
        if base.is_dir()
    )


def training_splits(root: Path) -> tuple[str, str]:
    """Return the lists to train and to validate on where none are named.

    Those of the published trainings, and in a folder with one `ImageSets/Main` its `train` (or `trainval`, where
    that is all there is beside `test`) and its `val` (or `test`).
    """
    main = next((base / "ImageSets" / "Main" for base in _bases(root) if (base / "ImageSets" / "Main").is_dir()), None)
    if main is None:
        return YEAR_TRAIN_SPLIT, YEAR_TEST_SPLIT
    lists = {path.stem for path in main.glob("*.txt")}
    held_out = next((name for name in ("val", "test") if name in lists), "val")
    train = "train" if "train" in lists and ("val" in lists or "trainval" not in lists) else "trainval"
    return train, held_out


def find_class_names(root: Path) -> tuple[str, ...]:
    """Return the class names in all annotations of a folder, by alphabet, each once in any case.

    Raises:
        DatasetError: an annotation cannot be read, or none names a class.
    """
    names: dict[str, str] = {}
    for path in sorted(root.glob("**/Annotations/*.xml")):
        for element in _parse_xml(path).iterfind("object/name"):
            name = (element.text or "").strip()
            names.setdefault(name.lower(), name)
    if not names:
        raise DatasetError(
            f"{root}: its annotations name no class; name the right folder, or give a class list",
            arguments=("data", "classes"),
        )
    return tuple(names[key] for key in sorted(names))


def gluoncv_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Return the objects as GluonCV reads, trains on and scores them.

    All four numbers of the XML minus 1; objects outside 0 <= min < size and min < max <= size are left out.
    """
    boxes = truth.boxes - np.array([0, 0, 1, 1])
    low, high, size = boxes[:, :2], boxes[:, 2:], np.array(image_size[::-1])
    keep = ((low >= 0) & (low < size) & (low < high) & (high <= size)).all(axis=1)
    return dataclasses.replace(truth, boxes=boxes).select(keep)


def _bases(root: Path) -> tuple[Path, Path]:
    return root, root / "VOCdevkit"


def _years(base: Path) -> list[Path]:
    return sorted(base.glob("VOC[0-9][0-9][0-9][0-9]"))


def _labels_by_name(class_names: Sequence[str]) -> dict[str, int]:
    labels: dict[str, int] = {}
    for label, name in enumerate(class_names):
        key = name.strip().lower()
        if key in labels:
            raise DatasetError(
                f"classes {class_names[labels[key]]!r} and {name!r} differ only in case or spaces, which VOC "
                "annotations do not tell apart; rename one",
                arguments=("classes",),
            )
        labels[key] = label
    return labels


def _resolve_split(root: Path, split: str | None) -> tuple[str, list[tuple[Path, Path]]]:
    """Return the split's name and its (VOC folder, list file) pairs."""
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder; name the Pascal VOC folder", arguments=("data_root",))
    for base in _bases(root):
        if (base / "Annotations").is_dir() or (base / "ImageSets").is_dir():
            main = base / "ImageSets" / "Main"
            name = split or ("test" if (main / "test.txt").is_file() else "val")
            return name, [(base, _existing_list(main, part)) for part in _parts(name)]
        if years := _years(base):
            name = split or YEAR_TEST_SPLIT
            return name, [_year_list(base, part, years) for part in _parts(name)]
    raise DatasetError(
        f"{root}: no Pascal VOC data; expected Annotations, JPEGImages and ImageSets/Main, or folders like "
        "VOC2007, or VOCdevkit; name the right folder",
        arguments=("data_root",),
    )


def _parts(split: str) -> list[str]:
    parts = [part.strip() for part in split.split(",")]
    if not all(parts):
        raise DatasetError(f"split {split!r} has an empty part; write names joined by single commas")
    return parts


def _year_list(base: Path, part: str, years: list[Path]) -> tuple[Path, Path]:
    match = re.fullmatch(r"(\d{4})_(.+)", part)
    folder = base / f"VOC{match[1]}" if match else None
    if match is None or folder not in years:
        present = ", ".join(year.name for year in years)
        raise DatasetError(
            f"{base}: split {part!r} names no year that is here ({present}); "
            "write it as <year>_<list>, for example 2007_test"
        )
    return folder, _existing_list(folder / "ImageSets" / "Main", match[2])


def _existing_list(main: Path, name: str) -> Path:
    path = main / f"{name}.txt"
    if not path.is_file():
        present = ", ".join(sorted(file.stem for file in main.glob("*.txt"))[:8]) or "none"
        raise DatasetError(f"{path}: no such image list; choose another split (lists there: {present})")
    return path


def _read_image_list(path: Path) -> list[str]:
    """Return the first column; class lists have a second one with 1, 0 or -1."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); write one image id a line") from error
    image_ids = [re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines if line.strip()]
    if not image_ids:
        raise DatasetError(f"{path}: the image list is empty; write one image id a line or choose another split")
    return image_ids


def _read_sample(
    folder: Path, image_id: str, list_file: Path, labels: dict[str, int]
) -> tuple[Sample, tuple[int, int, int]]:
    """Return the sample, and how often each of `NOTES` is true of it."""
    candidates = (folder / "JPEGImages" / f"{image_id}{suffix}" for suffix in SUFFIXES)
    image_path = next((path for path in candidates if path.is_file()), None)
    if image_path is None:
        raise DatasetError(
            f"{folder / 'JPEGImages' / image_id}.jpg: no such image (nor .jpeg, .png, .bmp), but {list_file} "
            "lists it; add the image or take it off the list"
        )
    xml_path = folder / "Annotations" / f"{image_id}.xml"
    if not xml_path.is_file():
        raise DatasetError(
            f"{xml_path}: no such annotation, but {list_file} lists its image; add it or take the image off the list"
        )
    root = _parse_xml(xml_path)
    image_size = _annotated_size(root, xml_path)
    without_size = image_size is None
    height, width = image_size = image_size or load_image(image_path).shape[:2]

    rows: list[dict[str, Any]] = []
    without_area = reaching_outside = 0
    for element in root.findall("object"):
        label = _label(element, xml_path, labels)
        xmin, ymin, xmax, ymax = _corners(element, xml_path)
        box = (xmin - 1, ymin - 1, xmax, ymax)
        is_outside = box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0
        if xmax <= xmin or ymax <= ymin or is_outside:
            without_area += 1
            continue
        reaching_outside += box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height
        rows.append({
            "box": box,
            "label": label,
            "is_difficult": _is_difficult(element, xml_path),
            "is_crowd": False,
            "area": (box[2] - box[0]) * (box[3] - box[1]),
        })  # fmt: skip
    sample = Sample(image_id=image_id, path=image_path, image_size=image_size, ground_truth=make_ground_truth(rows))
    return sample, (without_area, reaching_outside, int(without_size))


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    # Besides its own ParseError the parser raises ValueError or LookupError for encodings it cannot read.
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DatasetError(f"{path}: not readable XML ({error}); mend or replace the annotation") from error


def _annotated_size(root: ElementTree.Element, path: Path) -> tuple[int, int] | None:
    """Return (height, width), or None where the annotation leaves them out or writes 0, as some tools do."""
    texts = [(root.findtext(f"size/{side}") or "0").strip() for side in ("height", "width")]
    try:
        height, width = (int(float(text or "0")) for text in texts)
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{path}: its size {texts} is not two numbers; mend the annotation") from error
    return (height, width) if height > 0 and width > 0 else None


def _label(element: ElementTree.Element, path: Path, labels: dict[str, int]) -> int:
    name = (element.findtext("name") or "").strip()
    if name.lower() not in labels:
        raise DatasetError(
            f"{path}: class {name!r} is not one of the detector's {len(labels)} ({', '.join(list(labels)[:5])}, ...); "
            "give the data set's own class list",
            arguments=("classes",),
        )
    return labels[name.lower()]


def _corners(element: ElementTree.Element, path: Path) -> list[float]:
    """Return xmin, ymin, xmax, ymax as written."""
    corners = []
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        text = element.findtext(f"bndbox/{corner}") or ""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DatasetError(
                f"{path}: an object's bndbox has {corner} {text.strip()!r}, expected a number; mend the annotation"
            )
        corners.append(value)
    return corners


def _is_difficult(element: ElementTree.Element, path: Path) -> bool:
    text = (element.findtext("difficult") or "").strip() or "0"
    if text not in ("0", "1"):
        raise DatasetError(f"{path}: an object's difficult flag is {text!r}, expected 0 or 1; mend the annotation")
    return text == "1"


def _notes(counts: dict[str, dict[str, int]]) -> list[str]:
    notes = []
    for sentence, by_file in counts.items():
        if by_file:
            named = [f"{file} ({count})" for file, count in list(by_file.items())[:5]]
            more = [f"and {len(by_file) - 5} more files"] if len(by_file) > 5 else []
            notes.append(sentence.format(sum(by_file.values()), ", ".join(named + more)))
    return notes
