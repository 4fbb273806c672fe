"""One XML file of Pascal VOC's kind -> an image's size and objects."""

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from ssd_train.datasets.annotations import AnnotatedImage, AnnotatedObject, could_be_shares
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import MOST_SIDE, known_size
from ssd_train.escaped_text import unescaped
from ssd_train.input_files import open_regular
from ssd_train.json_input import quoted, shown
from ssd_train.spec import name_fault

# What tools write into `difficult`. LabelImg and others have `Unspecified` for what nobody filled in.
_YES = {"1", "true", "yes", "y", "t", "on"}
_NO = {"", "0", "false", "no", "n", "f", "off", "unspecified", "undefined", "unknown", "none", "null", "nan"}

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_annotated_image(image_id: str, image_path: Path, xml_path: Path, findings: Findings) -> AnnotatedImage | None:
    """Read an image's annotation; where it has no size, that comes from the image, and None if that fails.

    XML numbers are 1-based and inclusive; boxes become continuous and 0-based, that is (xmin - 1, ymin - 1, xmax,
    ymax).

    Raises:
        DatasetError: the annotation cannot be used.
        ImageError: one without a size belongs to an image that cannot be read.
    """
    root = _parse(xml_path, findings)
    size = _annotated_size(root)
    if size is None:
        findings.add("size-from-image", xml_path.name)
        size = known_size(image_path, findings)
        if size is None:
            return None
    return AnnotatedImage(
        image_id=image_id,
        path=image_path,
        image_size=size,
        objects=_objects(root, xml_path, findings),
        place=xml_path.name,
    )


def class_names_in(path: Path) -> list[str]:
    """Return the class of every object, without those that have none; nothing of a file that is no annotation."""
    names = [_text(element, "name") for element in _parse(path, Findings(is_complete=True)).iterfind("object")]
    return [name for name in names if not name_fault(name)]


def _parse(path: Path, findings: Findings) -> ElementTree.Element:
    try:
        with open_regular(path) as file:
            return ElementTree.parse(file).getroot()
    # Besides its own ParseError the parser raises what an encoding's decoder does.
    except (OSError, ElementTree.ParseError, ValueError, LookupError, TypeError, MemoryError, SystemError) as error:
        reason = shown(str(error) or type(error).__name__)
        findings.stop(f"{path}: not readable XML ({reason}); mend or replace the annotation", place=path.name)
        return ElementTree.Element("annotation")


def _text(element: ElementTree.Element, tag: str) -> str:
    return unescaped((element.findtext(tag) or "").strip())


def _annotated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Return (height, width), or None where the annotation has no such numbers or writes 0, as some tools do."""
    try:
        height, width = (int(float(_text(root, f"size/{side}"))) for side in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if 0 < height < MOST_SIDE and 0 < width < MOST_SIDE else None


def _objects(root: ElementTree.Element, path: Path, findings: Findings) -> tuple[AnnotatedObject, ...]:
    objects = []
    for number, element in enumerate(root.findall("object"), start=1):
        name = _text(element, "name")
        if not name:
            findings.stop(f"{path}: object {number} has no name; name its class, or remove the object", place=path.name)
            continue
        if fault := name_fault(name):
            findings.stop(f"{path}: object {number} has {fault}; mend the annotation", place=path.name)
            continue
        corners = _corners(element, f"{path}: object {number} ({name})", path, findings)
        if corners is None:
            continue
        xmin, ymin, xmax, ymax = corners
        # Without width or height as written it has no area for anyone, though a pixel is left of it by VOC's count.
        right, bottom = (xmax, ymax) if xmin < xmax and ymin < ymax else (xmin - 1, ymin - 1)
        objects.append(
            AnnotatedObject(
                class_name=name,
                box=(xmin - 1, ymin - 1, right, bottom),
                is_difficult=_is_difficult(element, path, findings),
                is_share=could_be_shares(*corners),
            )
        )
    return tuple(objects)


def _corners(element: ElementTree.Element, what: str, path: Path, findings: Findings) -> list[float] | None:
    """Return xmin, ymin, xmax, ymax as written."""
    corners = []
    for corner in CORNERS:
        text = _text(element, f"bndbox/{corner}")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            findings.stop(
                f"{what}: its bndbox has {corner} {quoted(text)}, expected a number; mend the annotation",
                place=path.name,
            )
            return None
        corners.append(value)
    return corners


def _is_difficult(element: ElementTree.Element, path: Path, findings: Findings) -> bool:
    word = _text(element, "difficult").lower()
    if word in _YES or word in _NO:
        return word in _YES
    try:
        return float(word) != 0
    except ValueError:
        findings.add("difficult-word", f"{path.name} {quoted(word)}")
        return False
