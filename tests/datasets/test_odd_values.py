"""Odd values in annotations of every layout: a sentence or a finding, never a traceback, and never without end."""

import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_train.datasets import yolo
from ssd_train.datasets.annotations import Annotations
from ssd_train.datasets.assemble import class_names_of, make_dataset
from ssd_train.datasets.coco import find_class_names, read_coco
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.voc_xml import read_annotated_image
from ssd_train.errors import SSDDeployError

DEEP = "[" * 900 + "]" * 900
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "0.jpg", "height": 60, "width": 80}],
    "categories": [{"id": 1, "name": "a"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 99, "iscrowd": 0}],
}
# As JSON has them.
ODD = [
    "null", "true", "-1", "1.5", "NaN", "-Infinity", "1e999", "1e308", "1e160", "9" * 400, "-" + "9" * 400, "9" * 5000,
    '""', '"a\\u0000"', '"a\\ud800"', '"\\udcff"', '"1e999"', f'"{"x" * 3000}"', "[]", "{}", "[[1]]", DEEP,
    '{"a": 1}', "[1e200, 1e200, 1e200, 1e200]", f"[{'9' * 300}, 1, {'9' * 300}, {'9' * 300}]", "[1, 2, 3]",
    "[NaN, 1, 1, 1]", "[1e149, 1e149, 1e149, 1e149]",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "0.jpg"), np.zeros((60, 80, 3), np.uint8))
    return tmp_path


def _says(act: Callable[[], object]) -> None:
    """Act, which may end in a sentence."""
    try:
        act()
    except SSDDeployError as error:
        assert len(str(error)) < 1500 and "\n" not in str(error) and str(error).encode()


def _use(read: Callable[[Findings], Annotations], *, is_complete: bool) -> None:
    """Read, and make data sets of it."""
    findings = Findings(is_complete=is_complete)
    annotations = read(findings)
    for training in (True, False):
        names = class_names_of(annotations) or ("a",)
        make_dataset(annotations, names, name="x", training=training, clips=True, needs_match=False, findings=findings)
    for text in (*findings.sentences(), *(each.message for each in findings.found())):
        assert len(text) < 2500 and text.encode()


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*place, key))


@pytest.mark.parametrize("place", list(_places(COCO)), ids=lambda place: ".".join(map(str, place)))
def test_any_value_in_any_place_of_a_coco_file(place: tuple[Any, ...], folder: Path) -> None:
    path = folder / "a.json"
    for odd in ODD:
        content = copy.deepcopy(COCO)
        inner: Any = content
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "ODD"
        path.write_text(json.dumps(content).replace('"ODD"', odd), encoding="utf-8")
        for is_complete in (True, False):
            _says(lambda: _use(lambda findings: read_coco(path, [folder], folder, findings), is_complete=is_complete))  # noqa: B023
        _says(lambda: find_class_names(path))


def test_one_odd_annotation_costs_no_other(folder: Path) -> None:
    content = copy.deepcopy(COCO)
    odd = [{"bbox": [10**400] * 4}, {"area": 10**400}, {"iscrowd": 10**400}, {"id": 10**400}, {"category_id": 10**400}]
    content["annotations"] += [content["annotations"][0] | each for each in odd]
    path = folder / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    findings = Findings(is_complete=True)
    (image,) = read_coco(path, [folder], folder, findings).images
    assert [each.area for each in image.objects] == [99, 1200, 99, 99]
    assert [finding.rule for finding in findings.found()] == ["stop", "unknown-category"]


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[" * 100_000, b'{"images": ' + b"[" * 100_000, b"\xff\xfe", b"NaN", b"[]"]
)
def test_a_file_that_is_no_coco_file_is_one_sentence(data: bytes, folder: Path) -> None:
    path = folder / "a.json"
    path.write_bytes(data)
    with pytest.raises(SSDDeployError) as caught:
        find_class_names(path)
    assert str(caught.value).startswith(str(path)) and len(str(caught.value)) < 400


ALIASES = "a: &a [x]\n" + "".join(
    f"{n}: &{n} [{', '.join([f'*{o}'] * 9)}]\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{n}: &{n} {{<<: [{', '.join([f'*{o}'] * 9)}]}}\n" for o, n in zip("abcdefgh", "bcdefghi", strict=True)
)
NAMES = [
    "!!timestamp x", "!!int x", '!!int ""', "!!bool x", "!!binary x", "!!python/object:os.system x", "2001-99-99",
    "[2001-01-01]", "0x" + "f" * 6000, "9" * 5000, ".nan", '"a\\0"', '["\\ud800"]', "[[a]]", "[a, a]", "{-1: a}",
    "{99999999999: a}", "{1.5: a}", "{? [1]: a}", "~", "[~]", f'["{"x" * 3000}"]', '[a, "b\\tc"]', "*a",
    "[" * 100_000, "{a: " * 50_000, "&a [*a]",
]  # fmt: skip


def _yolo(folder: Path, text: str) -> Path:
    (folder / "images").mkdir()
    (folder / "0.jpg").rename(folder / "images" / "0.jpg")
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    return folder


@pytest.mark.parametrize(
    "text",
    [
        *(f"train: images\nnames: {names}\n" for names in NAMES),
        f"{ALIASES}names: *i\ntrain: images\n",
        f"{MERGES}names: *i\ntrain: images\n",
        f"{MERGES}names: [a]\ntrain: images\n",
        "- " * 100_000,
        "\0",
        "names: [a]\nnc: " + "9" * 400,
        "train: [1]\nnames: [a]",
        "train: {a: b}\nnames: [a]",
        'train: "a\\0b"\nnames: [a]',
        "names: [a]\ntrain: " + "x" * 5000,
    ],
    ids=lambda text: ascii(text)[:40],
)
def test_any_yaml_ends_soon(text: str, folder: Path) -> None:
    root = _yolo(folder, text)
    start = time.perf_counter()
    for is_complete in (True, False):
        _says(lambda: _use(lambda findings: yolo.read_yolo(root, "train", findings), is_complete=is_complete))  # noqa: B023
    yolo.is_yolo(root)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "line",
    [
        "0 " * 100_000,
        "\0",
        "0 .5 .5 .2 nan",
        "0 1e999 1 1 1",
        "9" * 5000 + " 1 1 1 1",
        "1e300 .1 .1 .1 .1",
        "x" * 10**6,
    ],
    ids=lambda line: ascii(line)[:20],
)
def test_any_line_of_a_label_file_is_a_finding(line: str, folder: Path) -> None:
    root = _yolo(folder, "train: images\nnames: [a]\n")
    (root / "labels" / "0.txt").write_text(f"0 .5 .5 .2 .2\n{line}\n", encoding="utf-8")
    findings = Findings(is_complete=True)
    (image,) = yolo.read_yolo(root, "train", findings).images
    assert len(image.objects) == 1 and len(findings.found()) == 1 and len(findings.found()[0].message) < 400


VOC = (
    "<annotation><size><width>80</width><height>60</height></size><object><name>a</name><difficult>0</difficult>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
)
LAUGHS = "<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY {n} '{f'&{o};' * 10}'>" for o, n in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
XML = {
    "a billion laughs": f"{LAUGHS}]><annotation><object><name>&m;</name></object></annotation>",
    "a large entity many times": f"<!DOCTYPE l [<!ENTITY a '{'x' * 50_000}'>]><annotation>{'&a;' * 5000}</annotation>",
    "a file of the machine": "<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><annotation><object><name>&a;</name></object></annotation>",
    "100,000 levels": "<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>",
    "100,000 levels, open": "<a>" * 100_000,
    "a zero byte": VOC + "\0",
    "no such encoding": f"<?xml version='1.0' encoding='{'x' * 300}'?>{VOC}",
    "an encoding that is none of text": f"<?xml version='1.0' encoding='punycode'?>{VOC}",
    "a control character in a name": VOC.replace("<name>a", "<name>a&#x85;"),
    "a line end in a name": VOC.replace("<name>a", "<name>a\nb"),
    "a name without end": VOC.replace("<name>a", f"<name>{'a' * 5000}"),
    "a size beyond all": VOC.replace("<width>80", "<width>1e308").replace("<height>60", f"<height>{'9' * 5000}"),
    "a corner beyond all": VOC.replace("<xmax>30", f"<xmax>{'9' * 5000}"),
}


@pytest.mark.parametrize("text", XML.values(), ids=XML)
def test_any_xml_ends_soon(text: str, folder: Path) -> None:
    path = folder / "0.xml"
    path.write_text(text, encoding="utf-8")
    start = time.perf_counter()

    def read(findings: Findings) -> Annotations:
        image = read_annotated_image("0", folder / "0.jpg", path, findings)
        if image is not None:
            assert not any("root:" in each.class_name for each in image.objects) and image.image_size == (60, 80)
        return Annotations(images=() if image is None else (image,))

    for is_complete in (True, False):
        _says(lambda: _use(read, is_complete=is_complete))  # noqa: B023
    assert time.perf_counter() - start < 20


def test_a_name_of_a_file_in_bytes_that_are_no_text_is_found(folder: Path) -> None:
    os.rename(folder / "0.jpg", os.fsencode(folder) + b"/\xff.jpg")
    content = json.dumps(COCO).replace("0.jpg", "\\udcff.jpg")
    (folder / "a.json").write_text(content, encoding="utf-8")
    (image,) = read_coco(folder / "a.json", [folder], folder, Findings()).images
    assert image.path.exists() and image.place.encode()
