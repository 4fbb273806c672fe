"""Generated pictures -> a Pascal VOC folder, which is whole or known not to be."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.cpus import available_cpus
from ssd_train.datasets.generated import SHAPE_CLASSES, Image, draw_picture
from ssd_train.encode import encoded
from ssd_train.errors import DatasetError
from ssd_train.files import written_atomically

JPEG_QUALITY = 92
# Validation pictures are numbered from here, so that they stay the same however many are for training.
FIRST_VAL_INDEX = 1_000_000


def write_shapes(
    root: Path, *, train: int, val: int, seed: int, on_progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write a data set as a Pascal VOC folder with the image lists `train` and `val`.

    The lists name seed and index of each picture and are written last: where both are there the data set is
    whole, and it is left as it is if they are what was asked for. The same seed gives the same bytes (with the
    same OpenCV and NumPy), and the first pictures of a larger data set are those of a smaller one.

    Args:
        root: made if missing; may hold nothing, or this data set.
        train, val: numbers of pictures, at least 1 each.
        seed: from 0.
        on_progress: called with the pictures written so far and those there will be, in this thread.

    Returns:
        `root`.

    Raises:
        DatasetError: the numbers cannot be used, or the folder holds other things or half a data set.
        SSDDeployError: the folder cannot be written.
    """
    if train < 1 or val < 1 or seed < 0 or train > FIRST_VAL_INDEX:
        raise DatasetError(
            f"{train} training and {val} validation pictures of seed {seed} cannot be drawn; ask for at least 1 of "
            f"each, for at most {FIRST_VAL_INDEX} training pictures, and for a seed from 0"
        )
    lists = {
        "train": [_image_id(seed, index) for index in range(train)],
        "val": [_image_id(seed, FIRST_VAL_INDEX + index) for index in range(val)],
    }
    if _is_whole(root, lists):
        return root
    indices = [*range(train), *range(FIRST_VAL_INDEX, FIRST_VAL_INDEX + val)]
    try:
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(available_cpus()) as pool:
            for done, _ in enumerate(pool.map(lambda index: _write_picture(root, seed, index), indices), start=1):
                if on_progress is not None:
                    on_progress(done, len(indices))
    except OSError as error:
        raise DatasetError(
            f"{root}: cannot be written ({error.strerror}); make room or choose another folder"
        ) from error
    for name, image_ids in lists.items():
        with written_atomically(root / "ImageSets" / "Main" / f"{name}.txt") as temporary:
            temporary.write_text("\n".join(image_ids) + "\n", encoding="utf-8")
    return root


def _image_id(seed: int, index: int) -> str:
    return f"shapes{seed}_{index:07d}"


def _is_whole(root: Path, lists: dict[str, list[str]]) -> bool:
    """True where `root` is this data set, False where there is nothing; raise DatasetError for anything else."""
    if root.is_file():
        raise DatasetError(f"{root}: is a file; name a folder for the pictures")
    if not root.exists() or not any(root.iterdir()):
        return False
    paths = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in lists}
    if all(path.is_file() for path in paths.values()):
        if all(paths[name].read_bytes().split() == [i.encode() for i in ids] for name, ids in lists.items()):
            return True
        raise DatasetError(f"{root}: holds another data set; name a new folder")
    if (root / "JPEGImages").is_dir():
        raise DatasetError(f"{root}: holds half a data set, without its image lists; remove it and try again")
    raise DatasetError(f"{root}: holds other things; name a new folder")


def _write_picture(root: Path, seed: int, index: int) -> None:
    image, boxes, labels = draw_picture(seed, index)
    name = _image_id(seed, index)
    data = encoded(image, ".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    with written_atomically(root / "JPEGImages" / f"{name}.jpg") as temporary:
        temporary.write_bytes(data)
    with written_atomically(root / "Annotations" / f"{name}.xml") as temporary:
        temporary.write_text(_annotation(name, image, boxes, labels), encoding="utf-8")


def _annotation(name: str, image: Image, boxes: NDArray[np.float64], labels: NDArray[np.int64]) -> str:
    height, width = image.shape[:2]
    lines = [
        "<annotation>",
        f"  <filename>{name}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for (x1, y1, x2, y2), label in zip(boxes.astype(int).tolist(), labels, strict=True):
        # VOC counts pixels from 1, and the last one belongs to the box.
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
        bndbox = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners.items())
        lines.append(
            f"  <object><name>{SHAPE_CLASSES[label]}</name><difficult>0</difficult><bndbox>{bndbox}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])
