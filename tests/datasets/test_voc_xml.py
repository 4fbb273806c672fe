"""One annotation as tools write it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from small_voc import SIZE_XML, object_xml, write_pixels, write_xml

from ssd_train.datasets.annotations import AnnotatedImage
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.voc_xml import class_names_in, read_annotated_image


def read(tmp_path: Path, *objects: str, size: str = SIZE_XML) -> tuple[AnnotatedImage, Findings]:
    findings = Findings()
    xml_path = write_xml(tmp_path / "a.xml", *objects, size=size)
    image = read_annotated_image("a", write_pixels(tmp_path / "a.png"), xml_path, findings)
    assert image is not None
    return image, findings


@pytest.mark.parametrize(
    ("word", "is_difficult", "is_odd"),
    [
        *((word, True, False) for word in ("1", "true", "True", " YES ", "y", "on", "1.0", "2")),
        *((word, False, False) for word in ("0", "", "false", "No", "Unspecified", "0.0", "None", "null", "off")),
        *((word, False, True) for word in ("maybe", "ja", "?")),
    ],
)
def test_difficult_is_read_in_whatever_words(tmp_path: Path, word: str, is_difficult: bool, is_odd: bool) -> None:
    image, findings = read(tmp_path, object_xml("cat", 1, 1, 9, 9, f"<difficult>{word}</difficult>"))
    assert image.objects[0].is_difficult is is_difficult
    notes = (f"took 1 objects for not difficult, whose flag is neither yes nor no: a.xml {word!r}",)
    assert findings.sentences() == (notes if is_odd else ())


def test_names_keep_their_letters_and_lose_the_spaces_around(tmp_path: Path) -> None:
    names = ("traffic light", "Крест", "圆", "carré", "star ★", "a&amp;b")
    image, _ = read(tmp_path, *(object_xml(f"\n  {name}\t", 1, 1, 9, 9) for name in names))
    assert [each.class_name for each in image.objects] == [*names[:-1], "a&b"]
    assert class_names_in(tmp_path / "a.xml") == [*names[:-1], "a&b"]


@pytest.mark.parametrize(
    ("corners", "is_share"),
    [
        ((0.1, 0.2, 0.7, 0.9), True),
        ((0, 0, 1, 1), True),
        ((-0.05, 0.2, 1.08, 0.9), True),
        ((0.5, 0.5, 1.3, 0.9), False),
        ((0.5, 0.5, 12, 9), False),
        ((1, 1, 2, 2), False),
    ],
)
def test_numbers_that_could_be_shares_are_marked(tmp_path: Path, corners: tuple[float, ...], is_share: bool) -> None:
    image, _ = read(tmp_path, object_xml("cat", *corners))
    assert image.objects[0].is_share is is_share


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_an_annotation_may_be_in_the_encoding_that_it_names(tmp_path: Path, encoding: str) -> None:
    name = encoding.removesuffix("-sig")
    text = (
        f'<?xml version="1.0" encoding="{name}"?><annotation>{SIZE_XML}{object_xml("carré", 1, 1, 9, 9)}</annotation>'
    )
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    image = read_annotated_image("a", tmp_path / "a.png", tmp_path / "a.xml", Findings())
    assert image is not None and image.objects[0].class_name == "carré"


@pytest.mark.parametrize(("turn", "size"), [(1, (30, 40)), (6, (40, 30)), (8, (40, 30)), (3, (30, 40))])
def test_the_size_of_a_turned_picture_is_that_it_is_shown_in(tmp_path: Path, turn: int, size: tuple[int, int]) -> None:
    jpeg = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    exif = bytes.fromhex(f"ffe1 0022 457869660000 49492a00 08000000 0100 1201 0300 01000000 0{turn}000000 00000000")
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    xml_path = write_xml(tmp_path / "a.xml", object_xml("cat", 1, 1, 9, 9), size="")
    findings = Findings()
    image = read_annotated_image("a", tmp_path / "a.jpg", xml_path, findings)
    assert image is not None and image.image_size == size
    assert findings.sentences() == ("took the size of 1 images from their files, since the annotation has none: a.xml",)
