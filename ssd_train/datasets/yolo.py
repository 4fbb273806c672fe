"""YOLO folders: images, and label files of normalised boxes, as Ultralytics and Roboflow write them."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd_train.datasets.annotations import AnnotatedImage, AnnotatedObject, Annotations
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import FileIndex, find_file, inside, known_size, spellings
from ssd_train.datasets.splits import ALL, SPLIT_NAMES, find_part
from ssd_train.datasets.yolo_yaml import read_names, read_places, read_yaml
from ssd_train.errors import DatasetError
from ssd_train.escaped_text import unescaped
from ssd_train.input_files import read_text
from ssd_train.json_input import quoted, shown

NAMES_FILE = "classes.txt"

# A share beyond it is no box that sticks out a little, but pixels.
MAX_SHARE = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class YoloFolder:
    """What `data.yaml` says, or what the folders show where there is none.

    Attributes:
        root: the data set's folder.
        names: class number -> name.
        parts: split -> folders or lists of images, relative to `base` as written.
        base: what they are relative to.
        has_keypoints: label lines go on with points after the box.
    """

    root: Path
    names: Mapping[int, str]
    parts: Mapping[str, tuple[str, ...]]
    base: Path
    has_keypoints: bool = False


def is_yolo(folder: Path) -> bool:
    """Whether there is a YAML file with names and splits, or a list of classes beside images and labels."""
    return _yaml_of(folder) is not None or (
        _names_file(folder) is not None and (folder / "images").is_dir() and (folder / "labels").is_dir()
    )


def split_names(root: Path) -> tuple[str, ...]:
    return tuple(open_folder(root).parts)


def find_split(root: Path, part: str) -> str:
    """Return the split to train or to validate on.

    Raises:
        DatasetError: there is none.
    """
    present = split_names(root)
    found = find_part(present, part)
    if found is None:
        raise DatasetError(
            f"{root}: names no images for {part}, only {', '.join(present) or 'none'}; name a split, or hold a part of "
            "the training images out, for example val_share 0.1",
            arguments=(f"{part}_split", "val_share"),
        )
    return found


def eval_split(root: Path) -> str:
    present = split_names(root)
    return present[0] if len(present) == 1 else find_split(root, "val")


def class_names(root: Path) -> tuple[str, ...]:
    return tuple(open_folder(root).names.values())


def read_yolo(root: Path, split: str, findings: Findings) -> Annotations:
    """Read the images of a split and their label files, whose lines are a class number and x, y, width, height.

    Numbers are shares of the image's sides, x and y of the box's centre. A line of a class and three or more points is
    a polygon, whose bounds are the box. An image without label file has no objects.

    Raises:
        DatasetError: the folder cannot be used, or a line is none of these.
        ImageError: an image cannot be read.
    """
    folder = open_folder(root)
    if split not in folder.parts:
        raise DatasetError(
            f"{root}: has no split {split}; choose another one ({', '.join(folder.parts)})", arguments=("split",)
        )
    images = []
    for written in folder.parts[split]:
        for path in _images_of(folder, written, findings):
            image = _annotated_image(folder, path, findings)
            if image is not None:
                images.append(image)
    categories = {name: number for number, name in folder.names.items()}
    return Annotations(images=tuple(images), categories=categories)


def open_folder(root: Path) -> YoloFolder:
    """Read what there is to know about a folder. Raises DatasetError."""
    path = _yaml_of(root)
    if path is None:
        return _without_yaml(root)
    content = read_yaml(path)
    names = read_names(content.get("names"), path)
    number = content.get("nc")
    if isinstance(number, int) and number != len(names):
        raise DatasetError(f"{path}: nc is {quoted(number)}, but there are {len(names)} names; mend one of them")
    parts = {key: read_places(content[key], key, path) for key in SPLIT_NAMES if content.get(key)}
    return YoloFolder(
        root=root, names=names, parts=parts, base=_base(root, content.get("path")), has_keypoints="kpt_shape" in content
    )


def _yaml_of(folder: Path) -> Path | None:
    """Return the YAML file with names and splits."""
    paths = sorted(
        (path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml") and not path.name.startswith(".")),
        key=lambda path: (path.stem not in ("data", "dataset"), path.name),
    )
    for path in paths:
        try:
            content = read_yaml(path)
        except DatasetError:
            if path.stem == "data":
                return path  # whoever reads it says what is wrong
            continue
        if "names" in content and any(key in content for key in SPLIT_NAMES):
            return path
    return None


def _base(root: Path, written: Any) -> Path:
    """Return the folder that splits are relative to: what `path` names, if that is here, else the YAML file's.

    It often is a folder of another machine, and Roboflow's and Ultralytics' own begin above the file.
    """
    if isinstance(written, str) and written.strip():
        path = inside(root / written.replace("\\", "/"), root)
        if path is not None and os.path.isdir(path):
            return path
    return root


def _names_file(folder: Path) -> Path | None:
    places = (folder / NAMES_FILE, folder / "labels" / NAMES_FILE)
    return next((path for path in places if path.is_file()), None)


def _without_yaml(root: Path) -> YoloFolder:
    """Take the names from a list beside the labels, and the splits from the folders in `images`."""
    path = _names_file(root)
    if path is None:
        raise DatasetError(f"{root}: has neither data.yaml nor {NAMES_FILE}; write the names of its classes there")
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); write a name a line") from error
    while lines and not lines[-1].strip():
        lines.pop()
    names = read_names([unescaped(line.strip()) for line in lines], path)
    splits = [name for name in SPLIT_NAMES if (root / "images" / name).is_dir()]
    parts = {name: (f"images/{name}",) for name in splits} or {ALL: ("images",)}
    return YoloFolder(root=root, names=names, parts=parts, base=root)


def _images_of(folder: YoloFolder, written: str, findings: Findings) -> list[Path]:
    """Return the images of a folder, or of a list of images."""
    forward = written.replace("\\", "/")
    # Roboflow writes `../train/images` of a folder beside the file; what is no more than the way up names none.
    plain = re.sub(r"^(\.{1,2}/+)+", "", f"{forward}/").rstrip("/")
    for name in dict.fromkeys((forward, plain) if plain else (forward,)):
        for base in dict.fromkeys((folder.base, folder.root)):
            path = inside(base / name, folder.root)
            if path is None:
                continue
            if os.path.isdir(path):  # which takes a name that is too long for one that is not there
                return list(FileIndex(path).paths.values())
            if os.path.isfile(path) and path.suffix == ".txt":
                return _listed(folder, path, findings)
    why = "which leads out of it" if forward.startswith("/") or forward.startswith("..") else "which is not there"
    findings.stop(
        f"{folder.root}: its images are said to be in {shown(written)}, {why}; write a folder inside, relative to the "
        "file",
        place=written,
    )
    return []


def _listed(folder: YoloFolder, path: Path, findings: Findings) -> list[Path]:
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as UTF-8 text ({error}); write an image a line") from error
    paths = []
    for line in filter(None, map(str.strip, lines)):
        found, problem = find_file(line, (path.parent, folder.base, folder.root), folder.root)
        if found is None:
            findings.stop(f"{path}: image {shown(line)}: {problem}; mend the list, or add the image", place=shown(line))
        else:
            paths.append(found)
    return paths


def _label_path(root: Path, image: Path) -> Path:
    """Return where an image's labels are: in `labels` for the last `images` of its path, else beside it."""
    parts = list(image.relative_to(root).parts)
    for position in reversed(range(len(parts) - 1)):
        if parts[position] == "images":
            parts[position] = "labels"
            break
    usual = root.joinpath(*parts).with_suffix(".txt")
    places = (folder / name for folder in (usual.parent, image.parent) for name in spellings(usual.name))
    return next((path for path in places if path.is_file()), usual)


def _annotated_image(folder: YoloFolder, path: Path, findings: Findings) -> AnnotatedImage | None:
    label_path = _label_path(folder.root, path)
    size = known_size(path, findings)
    if size is None:
        return None
    objects: list[AnnotatedObject] = []
    place = label_path.relative_to(folder.root).as_posix()
    if label_path.is_file():
        try:
            lines = read_text(label_path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            findings.stop(f"{label_path}: cannot be read as UTF-8 text ({error}); mend it", place=place)
            lines = []
        seen: set[tuple[str, ...]] = set()
        for number, line in enumerate(lines, start=1):
            words = tuple(line.split())
            if words in seen:
                # Tools that add to a file leave lines twice; Ultralytics takes each once, too.
                findings.add("repeated-line", place)
            elif words:
                seen.add(words)
                each = _object(folder, words, f"{label_path}: line {number}", place, size, findings)
                if each is not None:
                    objects.append(each)
    else:
        findings.add("no-annotation", place)
    image_id = path.relative_to(folder.root).with_suffix("").as_posix()
    return AnnotatedImage(image_id=image_id, path=path, image_size=size, objects=tuple(objects), place=place)


def _object(
    folder: YoloFolder, words: Sequence[str], called: str, place: str, size: tuple[int, int], findings: Findings
) -> AnnotatedObject | None:
    """Return a line's object; None where it is left out."""
    try:
        number, *values = map(float, words)
    except ValueError:
        number, values = math.nan, []
    if folder.has_keypoints:
        values = values[:4]
    is_polygon = len(values) >= 6 and len(values) % 2 == 0
    if not number.is_integer() or not (len(values) == 4 or is_polygon) or not all(map(math.isfinite, values)):
        findings.stop(
            f"{called} is {' '.join(words)[:80]!r}, expected a class number and x, y, width, height, or a polygon of "
            "three or more points, as shares of the image; mend it",
            place=place,
        )
        return None
    if number < 0:
        findings.add("no-class", place)
        return None
    if int(number) not in folder.names:
        findings.stop(
            f"{called} has class {number:g}, but the names are of 0 to {max(folder.names)}; mend the line or the names",
            place=place,
        )
        return None
    if max(map(abs, values)) > MAX_SHARE:
        findings.stop(
            f"{called} has {max(values, key=abs):g}, where shares of the image from 0 to 1 are expected; divide pixels "
            "by its width and height",
            place=place,
        )
        return None
    if is_polygon:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
    else:
        x, y, width, height = values
        left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    rows, columns = size
    return AnnotatedObject(
        class_name=folder.names[int(number)], box=(left * columns, top * rows, right * columns, bottom * rows)
    )
