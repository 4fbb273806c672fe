"""Pictures and data sets of a few files, made from nothing, and a backend that answers what it is told."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import RawPredictions
from ssd_train.detections import PaddedDetections
from ssd_train.spec import DetectorSpec

Image = NDArray[np.uint8]


def blocks(height: int, width: int, cell: int, seed: int, contrast: float = 1.0) -> Image:
    """Squares of random colors: something to find for random weights, more of it with more contrast."""
    rng = np.random.default_rng(seed)
    colors = rng.integers(0, 256, (-(-height // cell), -(-width // cell), 3))
    colors = (124 + (colors - 124) * contrast).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(np.repeat(colors, cell, 0), cell, 1)[:height, :width])


def write_image(path: Path, image: Image) -> Path:
    """Write RGB pixels in the format that the name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return path


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an Exif APP1 segment whose only entry is tag 0x0112 (Exif 2.3, section 4.6.2)."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    payload = b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def write_turned(path: Path, upright: Image) -> Path:
    """Write a JPEG whose stored pixels lie on their left side, and whose Exif entry (6) says so."""
    write_image(path, np.rot90(upright))
    path.write_bytes(with_orientation(path.read_bytes(), 6))
    return path


class Annotated(NamedTuple):
    """One object: picture number, class name, and x1, y1, x2, y2 in continuous pixels (whole numbers)."""

    picture: int
    class_name: str
    box: tuple[int, int, int, int]


def write_voc(root: Path, pictures: Sequence[Image], objects: Sequence[Annotated]) -> Path:
    """Write a Pascal VOC folder: pictures `p0.png`, `p1.png`, ..., all in the list `test`."""
    names = [f"p{index}" for index in range(len(pictures))]
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index, (name, picture) in enumerate(zip(names, pictures, strict=True)):
        write_image(root / "JPEGImages" / f"{name}.png", picture)
        rows = [voc_object(item.class_name, item.box) for item in objects if item.picture == index]
        write_annotation(root / "Annotations" / f"{name}.xml", picture.shape[:2], rows)
    (root / "ImageSets" / "Main" / "test.txt").write_text("\n".join(names) + "\n")
    return root


def voc_object(class_name: str, box: tuple[int, int, int, int]) -> str:
    """VOC counts pixels from 1 and inclusively, so x2 and y2 stay and x1 and y1 grow by 1."""
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (box[0] + 1, box[1] + 1, box[2], box[3]), strict=True)
    bndbox = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
    return f"<object><name>{class_name}</name><difficult>0</difficult><bndbox>{bndbox}</bndbox></object>"


def write_annotation(path: Path, image_size: tuple[int, int], objects: Sequence[str]) -> None:
    size = f"<size><width>{image_size[1]}</width><height>{image_size[0]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation>{size}{''.join(objects)}</annotation>")


def write_coco(root: Path, pictures: Sequence[Image], objects: Sequence[Annotated], class_names: Sequence[str]) -> Path:
    """Write a COCO folder with split `val2017`; image ids 100, 99, ... and category ids with gaps: 7, 10, 13, ..."""
    categories = {name: 7 + 3 * index for index, name in enumerate(class_names)}
    images, annotations = [], []
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        write_image(root / "val2017" / f"p{index}.png", picture)
        images.append({"id": 100 - index, "file_name": f"p{index}.png", "height": height, "width": width})
    for number, (picture_index, class_name, (x1, y1, x2, y2)) in enumerate(objects):
        annotations.append({
            "id": 500 + number,
            "image_id": 100 - picture_index,
            "category_id": categories[class_name],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        })  # fmt: skip
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    coco_file(root).write_text(json.dumps(content))
    return root


def coco_file(root: Path) -> Path:
    return root / "annotations" / "instances_val2017.json"


class FakeRunner:
    """A fake backend: for every image the same detections, and raw predictions that depend on the image.

    Args:
        spec: what it claims to be.
        rows: (x1, y1, x2, y2, score, label) in network-input pixels, best first.
        logits_shift, offsets_shift: added to one raw value each.
        max_batch_size: as every runner's.

    Attributes:
        batch_sizes: how many images each call brought.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        rows: Sequence[tuple[float, ...]],
        *,
        name: str = "fake",
        logits_shift: float = 0.0,
        offsets_shift: float = 0.0,
        max_batch_size: int | None = None,
    ) -> None:
        self.name, self.spec, self.max_batch_size = name, spec, max_batch_size
        self.rows = rows
        self.shifts = (logits_shift, offsets_shift)
        self.batch_sizes: list[int] = []

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        self.batch_sizes.append(len(images))
        count, kept = len(images), self.spec.postprocess.max_detections
        answer = PaddedDetections(
            np.full((count, kept, 4), -1, np.float32),
            np.full((count, kept), -1, np.float32),
            np.full((count, kept), -1, np.int64),
        )
        for index, (*box, score, label) in enumerate(self.rows):
            answer.boxes[:, index], answer.scores[:, index], answer.labels[:, index] = box, score, int(label)
        return answer

    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        level = images.mean(axis=(1, 2, 3))[:, None, None]
        logits = np.linspace(-1, 1, 5 * 3, dtype=np.float32).reshape(1, 5, 3) + level
        offsets = np.linspace(-2, 2, 5 * 4, dtype=np.float32).reshape(1, 5, 4) + level
        logits[:, 2, 1] += self.shifts[0]
        offsets[:, 3, 0] += self.shifts[1]
        return RawPredictions(logits, offsets)
