"""Detections as other programs take them.

What goes into files is clipped to the image where its size is known, as all files of this project are.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ssd_train.boxes import xyxy_to_xywh
from ssd_train.detection_rows import DetectionRows
from ssd_train.errors import SSDDeployError
from ssd_train.escaped_text import escaped
from ssd_train.requirements import require

if TYPE_CHECKING:
    import supervision


def to_dict(found: DetectionRows) -> dict[str, Any]:
    """Return plain values, as an image's entry in `detections.json` has them.

    Returns:
        `height` and `width` in pixels, None where they are not known, and `detections`, a list of `box` (xyxy in
        pixels, clipped), `score`, `label`, `class_name`, and with tracking `track_id`.
    """
    height, width = found.image_size or (None, None)
    entries = []
    for each in _clipped(found):
        entry = {"box": list(each.box), "score": each.score, "label": each.label, "class_name": each.class_name}
        entries.append(entry if each.track_id is None else entry | {"track_id": each.track_id})
    return {"height": height, "width": width, "detections": entries}


def to_coco(
    found: DetectionRows,
    image_id: int | str,
    category_ids: Sequence[int | str | None] | Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Return entries of COCO's result format.

    Args:
        image_id: the data set's own.
        category_ids: label -> the data set's id, as `Dataset.category_ids`, or class name -> id. What has none is left
            out. None for label + 1, which COCO's own ids, with their gaps, are not.

    Returns:
        `image_id`, `category_id`, `bbox` (left, top, width and height in pixels, clipped) and `score` of each.
    """
    clipped = _clipped(found)
    if category_ids is None:
        ids: Sequence[Any] = [label + 1 for label in clipped.labels.tolist()]
    elif isinstance(category_ids, Mapping):
        ids = [category_ids.get(name) for name in clipped.names]
    else:
        ids = [category_ids[label] for label in clipped.labels.tolist()]
    bboxes = xyxy_to_xywh(clipped.boxes.astype(np.float64)).tolist()
    return [
        {"image_id": image_id, "category_id": number, "bbox": bbox, "score": score}
        for number, bbox, score in zip(ids, bboxes, clipped.scores.tolist(), strict=True)
        if number is not None
    ]


def to_yolo(found: DetectionRows, *, with_scores: bool = True) -> str:
    """Return the text of a label file: a line of label, x and y of the centre, width, height and score of each.

    Args:
        with_scores: False for annotations to train on, which have none.

    Returns:
        Shares of the image's sides with six decimals; an empty text where nothing was found.

    Raises:
        SSDDeployError: the image's size is not known.
    """
    height, width = _known_size(found, "YOLO's labels are shares of it")
    lines = []
    for each in _clipped(found):
        left, top, right, bottom = each.box
        numbers = [(left + right) / 2 / width, (top + bottom) / 2 / height]
        numbers += [(right - left) / width, (bottom - top) / height, *([each.score] if with_scores else [])]
        lines.append(" ".join([str(each.label), *(f"{number:.6f}" for number in numbers)]) + "\n")
    return "".join(lines)


def to_voc(found: DetectionRows, filename: str) -> str:
    """Return the text of a Pascal VOC annotation, without scores, for which it has no place.

    VOC counts pixels from 1, and the last one is part of the box: a box from 0 to 10 becomes 1 to 10. Numbers are
    whole, as VOC's own tools expect. Names are written by `escaped`, since XML cannot hold every character.

    Args:
        filename: the image's, without its folder.

    Raises:
        SSDDeployError: the image's size is not known.
    """
    height, width = _known_size(found, "a VOC annotation names it")
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = escaped(filename)
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    for each in _clipped(found):
        left, top, right, bottom = (round(edge) for edge in each.box)
        left, top = min(left, width - 1), min(top, height - 1)
        element = ElementTree.SubElement(root, "object")
        _add(element, {"name": escaped(each.class_name), "pose": "Unspecified", "truncated": 0, "difficult": 0})
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": max(right, left + 1), "ymax": max(bottom, top + 1)}
        _add(ElementTree.SubElement(element, "bndbox"), corners)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def to_supervision(found: DetectionRows) -> "supervision.Detections":
    """Return `supervision.Detections`: boxes in pixels, not clipped, class names in `data["class_name"]`.

    Raises:
        BackendError: supervision is not installed.
    """
    require("supervision", "supervision", "Detections for supervision")
    import supervision

    return supervision.Detections(
        xyxy=found.boxes.copy(),
        confidence=found.scores.copy(),
        class_id=found.labels.copy(),
        tracker_id=None if found.track_ids is None else found.track_ids.copy(),
        data={"class_name": np.array(found.names, dtype=str)},
    )


def _clipped(found: DetectionRows) -> DetectionRows:
    return found if found.image_size is None else found.clipped(found.image_size)


def _known_size(found: DetectionRows, why: str) -> tuple[int, int]:
    if found.image_size is None:
        raise SSDDeployError(f"the image's size is not known, and {why}; give Detections an image_size")
    return found.image_size


def _add(parent: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = str(value)
