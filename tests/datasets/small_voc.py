"""Pascal VOC folders of a few small images."""

from pathlib import Path

import cv2
import numpy as np

CLASSES = ("cat", "Dog")


def object_xml(name: str, xmin: object, ymin: object, xmax: object, ymax: object, extra: str = "") -> str:
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


SIZE_XML = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def write_image(folder: Path, image_id: str, *objects: str, size: str = SIZE_XML, suffix: str = ".jpg") -> None:
    """Add a 40x30 image with its annotation to a VOC folder."""
    write_pixels(folder / "JPEGImages" / f"{image_id}{suffix}")
    write_xml(folder / "Annotations" / f"{image_id}.xml", *objects, size=size)


def write_pixels(path: Path, level: int = 0) -> Path:
    """Write a 40x30 image of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((30, 40, 3), level, np.uint8))
    return path


def write_xml(path: Path, *objects: str, size: str = SIZE_XML) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{size}{''.join(objects)}</annotation>")
    return path


def write_list(folder: Path, name: str, text: str) -> None:
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
