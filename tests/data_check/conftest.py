"""Small Pascal VOC folders that a test writes and then spoils."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Object = tuple[str, tuple[int, int, int, int]]
Write = Callable[..., Path]


def noise(seed: int, height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """A picture like no other: 6 x 8 blocks of random colors."""
    colors = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(colors, (width, height), interpolation=cv2.INTER_NEAREST).astype(np.uint8)


@pytest.fixture
def add_image(tmp_path: Path) -> Write:
    """Add a picture of 80 x 60 to a split of the folder `data`, with objects as (class, continuous corners)."""
    root = tmp_path / "data"

    def add(split: str, name: str, objects: Sequence[Object], image: NDArray[np.uint8] | None = None) -> Path:
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        pixels = noise(int.from_bytes(name.encode())) if image is None else image
        path = root / "JPEGImages" / f"{name}.png"
        cv2.imwrite(str(path), pixels)
        rows = "".join(
            f"<object><name>{class_name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for class_name, (x0, y0, x1, y1) in objects
        )
        height, width = pixels.shape[:2]
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{rows}</annotation>")
        with (root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")
        return path

    return add


@pytest.fixture
def data(add_image: Write) -> Path:
    """A folder without fault: three pictures to train on and two to validate on, two classes."""
    for split, name in (("train", "t0"), ("train", "t1"), ("train", "t2"), ("val", "v0"), ("val", "v1")):
        path = add_image(split, name, [("cat", (10, 10, 50, 40)), ("dog", (20, 5, 70, 55))])
    return path.parents[1]
