"""Detections drawn into a picture, and pictures written."""

import colorsys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.detection_rows import DetectionRows, name_of
from ssd_train.encode import imencode
from ssd_train.errors import ResultError, first_line
from ssd_train.files import written_atomically
from ssd_train.lettering import MOST_LETTERS, drawable, put_text, text_size


def draw(
    image: NDArray[np.uint8], detections: DetectionRows, class_names: tuple[str, ...], *, with_scores: bool = True
) -> NDArray[np.uint8]:
    """Return a copy of an image with boxes, class names and scores in it.

    Args:
        image: (H, W, 3) RGB uint8.
        detections: boxes in pixels of that image; drawn worst first, so that the best lies on top.
        class_names: label order; a label beyond them is called by its number.
        with_scores: False for annotations, which have none.

    Tracked detections have their track's number before the name, as in `#7 dog 0.98`.
    """
    canvas = image.copy()
    height, width = image.shape[:2]
    # Lines and letters keep their share of the picture, from thumbnails to panoramas.
    unit = max(1.0, min(height, width) / 400)
    thickness, scale = round(unit + 0.5), 0.4 * unit
    shown = detections.clipped((height, width))
    corners = shown.boxes.round().astype(int).tolist()
    track_ids = [-1] * len(shown) if shown.track_ids is None else shown.track_ids.tolist()
    rows = list(zip(corners, shown.scores.tolist(), shown.labels.tolist(), track_ids, strict=True))
    for (left, top, right, bottom), _, label, _ in reversed(rows):
        cv2.rectangle(canvas, (left, top), (right, bottom), _color(label), thickness)
    # Names after all boxes, so that no line runs through one.
    for (left, top, _, _), score, label, track_id in reversed(rows):
        color = _color(label)
        # The score is seen behind a name of any length.
        text = drawable(str(name_of(label, class_names)), MOST_LETTERS // 2)
        text = f"{text} {score:.2f}" if with_scores else text
        text = text if track_id < 0 else f"#{track_id} {text}"
        (text_width, text_height), baseline = text_size(text, scale, max(1, thickness - 1))
        # Above the box, or inside it where there is no room; never past the right edge.
        x = max(0, min(left, width - text_width))
        y = top - baseline if top - text_height - baseline >= 0 else top + text_height + baseline
        cv2.rectangle(canvas, (x, y - text_height - 1), (x + text_width, y + baseline), color, cv2.FILLED)
        put_text(canvas, text, (x, y), scale, _ink(color), max(1, thickness - 1))
    return canvas


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an (H, W, 3) RGB picture in the format that the name says, atomically.

    Raises:
        ResultError: the format cannot hold such a picture, or there can be no file of that name.
        SSDDeployError: the file cannot be written.
    """
    with written_atomically(path) as temporary:
        try:
            data = imencode(image, path.suffix)
        except cv2.error as error:
            raise _cannot_hold(path, image, f" ({first_line(error.err)})") from error
        if data is None:
            raise _cannot_hold(path, image)
        temporary.write_bytes(data)


def _cannot_hold(path: Path, image: NDArray[np.uint8], reason: str = "") -> ResultError:
    height, width = image.shape[:2]
    kind = path.suffix[1:].upper() or "file without a suffix"
    return ResultError(
        f"{path}: a {kind} cannot hold a picture of {width}x{height} pixels{reason}; take another format"
    )


def _color(label: int) -> tuple[int, int, int]:
    """Return a bright RGB color; the golden ratio keeps neighbouring labels far apart on the color wheel."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _ink(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black on light colors, white on dark ones (ITU-R BT.601 luma)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
