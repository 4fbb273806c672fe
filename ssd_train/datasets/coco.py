"""COCO annotation files -> annotations; no pycocotools needed to read one."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd_train.datasets.annotations import AnnotatedImage, AnnotatedObject, Annotations, could_be_shares
from ssd_train.datasets.dataset import GroundTruth
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import MOST_SIDE, find_file, known_size
from ssd_train.errors import DatasetError
from ssd_train.json_input import JSONError, UnreadableError, quoted, quoted_json, read_annotations, shown
from ssd_train.spec import name_fault

Entry = dict[str, Any]

# A number beyond it may be an integer that no float can hold, and of two the product.
_FAR = 1e150


def read_coco(path: Path, folders: Sequence[Path], root: Path, findings: Findings) -> Annotations:
    """Read an annotation file.

    Entries may lack everything but ids, names and boxes: a missing, empty or zero `area` is the box's, a missing
    `iscrowd` is 0, a size comes from the image. Boxes stay as they are, those without width too, since pycocotools
    scores them. Annotations of images or categories that the file does not list are left out with a note, as
    pycocotools leaves them out. A file without annotations is a test set's.

    Args:
        path: the JSON file.
        folders: where its images may lie, the likeliest first.
        root: no image is taken from outside of it.
        findings: told of faults.

    Returns:
        Images by ascending id, which is pycocotools' order.

    Raises:
        DatasetError: the file is no such file, or an entry cannot be used.
        ImageError: an image whose size is not in the file cannot be read.
    """
    content = read_json(path)
    is_annotated = content.get("annotations") is not None
    # A list of images may have no categories either.
    has_categories = is_annotated or content.get("categories") is not None
    categories = _categories(content, path, findings) if has_categories else {}
    images = _images(content, path, findings)
    objects: dict[str, list[AnnotatedObject]] = {key: [] for key in images}
    class_names = {_key(category_id): name for category_id, name in categories.items()}
    for number, annotation in enumerate(_entries(content, "annotations", path) if is_annotated else []):
        _read_annotation(annotation, number, images, class_names, objects, path, findings)
    read = []
    for key in _in_order(images):
        image = _annotated_image(images[key], objects[key], folders, root, path, findings)
        if image is not None:
            read.append(image)
    names = _names_of_categories(categories, images, objects, content, path, findings)
    return Annotations(images=tuple(read), categories=names if has_categories else None, is_annotated=is_annotated)


def read_json(path: Path) -> Entry:
    """Return a JSON file's object. Raises DatasetError."""
    try:
        content = read_annotations(path)
    except UnreadableError as error:
        raise DatasetError(
            f"{path}: the annotation file {error}; choose another split, or name the COCO folder",
            arguments=("split", "data_root"),
        ) from error
    except JSONError as error:
        raise DatasetError(f"{path}: {str(error).removeprefix('is ')}; download it again") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: holds a JSON {type(content).__name__}, expected an object; is it a result file?")
    return content


def find_class_names(path: Path) -> tuple[str, ...]:
    """Return the categories of an annotation file in the order of their ids; raise DatasetError where it has none."""
    content = read_json(path)
    if not isinstance(content.get("categories"), list) or not content["categories"]:
        raise DatasetError(f"{path}: has no list of categories with id and name; is it a COCO file?")
    findings = Findings()
    categories = _categories(content, path, findings)
    if len(set(categories.values())) < len(categories):
        # Which of two with one name counts is known by their annotations.
        images = _images(content, path, findings)
        return tuple(_names_of_categories(categories, images, {}, content, path, Findings(is_complete=True)))
    return tuple(categories.values())


def training_boxes(truth: GroundTruth, image_size: tuple[int, int]) -> GroundTruth:
    """Return the objects that GluonCV trains on: far edges one pixel nearer; what has an area is kept.

    It clips to the last pixel, which comes to the same, since a training's boxes are clipped to the image already.
    """
    boxes = truth.boxes.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, boxes[:, :2])
    keep = (truth.areas > 0) & (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    return dataclasses.replace(truth, boxes=boxes).select(keep)


def _entries(content: Entry, key: str, path: Path) -> list[Entry]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        what = "has no" if entries is None else "does not have a list of objects as"
        raise DatasetError(
            f"{path}: {what} {key!r}; a COCO instances file has images, categories and annotations, as COCO's format "
            "page lists them"
        )
    return entries


def _key(value: Any) -> str | None:
    """Return an id as text, so that 1 and "1" are one; None where it is no id."""
    if type(value) is int:  # nearly all are
        return str(value)
    if isinstance(value, bool) or not isinstance(value, float | str):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value)


def _id(value: int | float | str) -> int | str:
    return int(value) if isinstance(value, float) else value


def _ids_in_order(ids: dict[str, int | str]) -> list[str]:
    """Return keys as NumPy sorts their ids: numbers by size, and as text where one of them is text."""
    if all(isinstance(value, int) for value in ids.values()):
        return sorted(ids, key=lambda key: int(ids[key]))
    return sorted(ids)


def _in_order(images: dict[str, Entry]) -> list[str]:
    return _ids_in_order({key: _id(image["id"]) for key, image in images.items()})


def _categories(content: Entry, path: Path, findings: Findings) -> dict[int | str, str]:
    """Return id -> name, by ascending id."""
    named: dict[str, Entry] = {}
    for number, category in enumerate(_entries(content, "categories", path)):
        key, name = _key(category.get("id")), category.get("name")
        if key is None or not isinstance(name, str | int) or not str(name).strip():
            findings.stop(
                f"{path}: categories[{number}] is {quoted_json(category, 200)}, expected an id and a name; mend the "
                "annotation file",
                place=f"categories[{number}]",
            )
            continue
        if fault := name_fault(str(name)):
            findings.stop(
                f"{path}: categories[{number}] has {fault}; mend the annotation file", place=f"categories[{number}]"
            )
            continue
        if key in named and named[key]["name"] != name:
            findings.stop(
                f"{path}: categories {quoted(named[key]['name'])} and {quoted(name)} have the same id {shown(key)}; "
                "mend the annotation file",
                place=f"categories[{number}]",
            )
        named.setdefault(key, category)
    order = _ids_in_order({key: _id(category["id"]) for key, category in named.items()})
    return {_id(named[key]["id"]): str(named[key]["name"]).strip() for key in order}


def _images(content: Entry, path: Path, findings: Findings) -> dict[str, Entry]:
    images: dict[str, Entry] = {}
    for number, image in enumerate(_entries(content, "images", path)):
        key, name = _key(image.get("id")), image.get("file_name")
        if key is None or not isinstance(name, str):
            findings.stop(
                f"{path}: images[{number}] has id {quoted_json(image.get('id'))} and file_name {quoted_json(name)}, "
                "expected a number or text, and a name; mend the annotation file",
                place=f"images[{number}]",
            )
        elif key in images:
            findings.stop(
                f"{path}: two images have the same id {shown(key)} ({shown(images[key]['file_name'])} and "
                f"{shown(name)}); mend the annotation file",
                place=shown(name),
            )
        else:
            images[key] = image
    return images


def _read_annotation(
    annotation: Entry,
    number: int,
    images: dict[str, Entry],
    class_names: dict[str | None, str],
    objects: dict[str, list[AnnotatedObject]],
    path: Path,
    findings: Findings,
) -> None:
    """Add an annotation to its image's objects."""
    image_key = _key(annotation.get("image_id"))
    if image_key is None or image_key not in images:
        findings.add("orphan", _called(annotation, number))
        return
    class_name = class_names.get(_key(annotation.get("category_id")))
    if class_name is None:
        called = _called(annotation, number, images[image_key])
        findings.add("unknown-category", f"{called} (category {_shown(annotation.get('category_id'))})")
        return
    problem, numbers = _numbers(annotation.get("bbox"), has_polygon=bool(annotation.get("segmentation")))
    if problem:
        called = _called(annotation, number, images[image_key])
        findings.stop(
            f"{path}: {called}: {problem}, expected x, y, width and height in pixels; mend the annotation", place=called
        )
        return
    x, y, width, height = numbers
    objects[image_key].append(
        AnnotatedObject(
            class_name=class_name,
            box=(x, y, x + width, y + height),
            is_crowd=_flag(annotation.get("iscrowd")),
            is_ignored=_flag(annotation.get("ignore")),
            area=_number(annotation.get("area")) or max(width * height, 0.0),
            is_share=could_be_shares(*numbers),
        )
    )


def _called(annotation: Entry, number: int, image: Entry | None = None) -> str:
    """Return what messages call an annotation: by its id, or its place in the list where it has none."""
    own = annotation.get("id")
    called = f"annotation {_shown(own)}" if _key(own) is not None else f"annotations[{number}]"
    return called if image is None else f"{called} of image {shown(image['file_name'])}"


def _shown(value: Any) -> str:
    return shown(value) if isinstance(value, str) else quoted(value)


def _numbers(bbox: Any, *, has_polygon: bool) -> tuple[str, list[float]]:
    """Return what is wrong with a bbox, if anything, and its numbers."""
    if bbox is None:
        return "it has no bbox" + (", only a polygon" if has_polygon else ""), []
    if not isinstance(bbox, list):
        return f"bbox is {quoted_json(bbox)}", []
    if len(bbox) != 4:
        return f"bbox has {len(bbox)} numbers", []
    if {float, int}.issuperset(map(type, bbox)) and all(-_FAR < number < _FAR for number in bbox):  # nearly all are
        return "", bbox
    numbers = [number for value in bbox if (number := _number(value)) is not None and -_FAR < number < _FAR]
    return ("", numbers) if len(numbers) == 4 else (f"bbox is {quoted_json(bbox)}", [])


def _number(value: Any) -> float | None:
    """Return a finite number, which may be written as text; None for anything else."""
    if type(value) not in (int, float, str):  # not of a truth value, though it is an int to Python
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _flag(value: Any) -> bool:
    if value in (None, 0, 1):  # all but a few
        return bool(value)
    return (isinstance(value, str) and value.strip().lower() == "true") or bool(_number(value))


def _annotated_image(
    image: Entry, objects: list[AnnotatedObject], folders: Sequence[Path], root: Path, path: Path, findings: Findings
) -> AnnotatedImage | None:
    name = image["file_name"]
    image_path, problem = find_file(name, folders, root)
    if image_path is None:
        findings.stop(
            f"{folders[0] / shown(name)}: {problem}, but {path} lists this image; add the images of this split, or "
            "mend the annotation file",
            place=shown(name),
        )
        return None
    height, width = (int(_number(image.get(side)) or 0) for side in ("height", "width"))
    if not (0 < height < MOST_SIDE and 0 < width < MOST_SIDE):
        findings.add("size-from-image", shown(name))
        size = known_size(image_path, findings)
        if size is None:
            return None
        height, width = size
    return AnnotatedImage(
        image_id=_id(image["id"]),
        path=image_path,
        image_size=(height, width),
        objects=tuple(objects),
        place=shown(name),
    )


def _names_of_categories(
    categories: dict[int | str, str],
    images: dict[str, Entry],
    objects: dict[str, list[AnnotatedObject]],
    content: Entry,
    path: Path,
    findings: Findings,
) -> dict[str, int | str]:
    """Return name -> id, by ascending id; of two categories of one name that which has objects.

    Roboflow writes the project's name as a category of its own, and a project may be called like a class.
    """
    if len(set(categories.values())) == len(categories):
        return {name: category_id for category_id, name in categories.items()}
    used = {_key(annotation.get("category_id")) for annotation in content.get("annotations") or []}
    names: dict[str, int | str] = {}
    for category_id, name in categories.items():
        if name not in names:
            names[name] = category_id
        elif _key(category_id) in used and _key(names[name]) in used:
            findings.stop(
                f"{path}: categories {names[name]} and {category_id} are both called {quoted(name)} and have objects; "
                "rename one",
                place=name,
            )
        else:
            findings.add("category-repeated", name)
            names[name] = category_id if _key(category_id) in used else names[name]
    order = {category_id: number for number, category_id in enumerate(categories)}
    return dict(sorted(names.items(), key=lambda pair: order[pair[1]]))
