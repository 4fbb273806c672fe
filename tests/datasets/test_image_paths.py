"""Names in annotations are data: they find files inside of the data set's folder, and nothing outside."""

import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import FileIndex, find_file, image_size, known_size
from ssd_train.errors import ImageError
from ssd_train.preprocess import load_image


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("val/a.jpg", "val/sub/b.jpg", "a:b.jpg", "val/it's.jpg", "val/c\\d.jpg", "val/..x.jpg"):
        touch(tmp_path / "data" / name)
    touch(tmp_path / "elsewhere" / "a.jpg")
    touch(tmp_path / "data2" / "a.jpg")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "val/a.jpg"),
        ("sub/b.jpg", "val/sub/b.jpg"),
        ("sub\\b.jpg", "val/sub/b.jpg"),
        ("val/a.jpg", "val/a.jpg"),
        ("./a.jpg", "val/a.jpg"),
        (".\\a.jpg", "val/a.jpg"),
        ("../val/a.jpg", "val/a.jpg"),
        ("..\\val\\a.jpg", "val/a.jpg"),
        ("sub/../a.jpg", "val/a.jpg"),
        ("a:b.jpg", "a:b.jpg"),
        ("it's.jpg", "val/it's.jpg"),
        ("c\\d.jpg", "val/c\\d.jpg"),
        ("..x.jpg", "val/..x.jpg"),
    ],
)
@pytest.mark.parametrize("given", ["whole", ".", "..", "data"])
def test_names_with_folders_and_slashes_of_either_kind_are_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: str, given: str
) -> None:
    folder = {"whole": root, ".": Path("."), "..": Path(".."), "data": Path("data")}[given]
    monkeypatch.chdir({"whole": root, ".": root, "..": root / "val", "data": root.parent}[given])
    path, problem = find_file(name, (folder / "val", folder), folder)
    assert path is not None and path.resolve() == (root / found).resolve(), problem


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "the name is absolute"),
        ("C:\\val\\a.jpg", "the name is absolute"),
        ("c:/val/a.jpg", "the name is absolute"),
        ("\\\\server\\a.jpg", "the name is absolute"),
        ("../../elsewhere/a.jpg", "the name leads out of"),
        ("..\\..\\elsewhere\\a.jpg", "the name leads out of"),
        ("sub/../../../elsewhere/a.jpg", "the name leads out of"),
        ("../../data2/a.jpg", "the name leads out of"),
        ("", "the name is empty"),
        ("  ", "the name is empty"),
        ("a\0.jpg", "zero byte"),
        ("sub", "there is no such file"),
        (".", "there is no such file"),
        ("b.jpg", "there is no such file"),
        ("x" * 5000, "there is no such file"),
        ("\ud800.jpg", "there is no such file"),
    ],
)
@pytest.mark.parametrize("given", ["whole", ".", "..", "data"])
def test_names_that_lead_out_or_nowhere_are_refused_with_the_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str, given: str
) -> None:
    folder = {"whole": root, ".": Path("."), "..": Path(".."), "data": Path("data")}[given]
    monkeypatch.chdir({"whole": root, ".": root, "..": root / "val", "data": root.parent}[given])
    path, reason = find_file(name, (folder / "val", folder), folder)
    assert path is None and problem in reason


def test_links_inside_may_lead_where_they_do(root: Path) -> None:
    (root / "val" / "link.jpg").symlink_to(root.parent / "elsewhere" / "a.jpg")
    assert find_file("link.jpg", (root / "val",), root) == (root / "val" / "link.jpg", "")


def test_accents_are_found_in_either_form(root: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    for on_disk, written in ((composed, apart), (apart, composed)):
        path = touch(root / "val" / on_disk)
        assert find_file(written, (root / "val",), root)[0] == path
        path.unlink()


def test_an_index_has_the_images_of_all_folders_but_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "z/a.JPG", "a.txt", ".a.jpg", ".git/c.jpg", "a.v1.webp", "b.jpg"):
        touch(tmp_path / name)
    index = FileIndex(tmp_path)
    # Of two files of one name the usual suffix wins.
    assert index.paths == {
        "a": tmp_path / "a.jpg",
        "b": tmp_path / "b.jpg",
        "z/a": tmp_path / "z/a.JPG",
        "a.v1": tmp_path / "a.v1.webp",
    }
    assert index.find("b.png") == tmp_path / "b.png"
    assert index.find("z/a.jpg") == tmp_path / "z/a.JPG"
    assert index.find("a.v1") == tmp_path / "a.v1.webp"
    assert index.find("a.v2") is None and index.find("a.txt") is None
    assert index.id_of(tmp_path / "z" / "a.JPG") == "z/a"
    assert FileIndex(tmp_path / "nowhere").paths == {}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("turn", [None, 1, 3, 6, 8])
def test_a_size_from_the_header_is_that_of_the_pixels_as_they_are_read(
    tmp_path: Path, suffix: str, turn: int | None
) -> None:
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    if turn is not None:
        exif[0x0112] = turn
    Image.new("RGB", (20, 12)).save(path, **({} if suffix == ".bmp" else {"exif": exif}))
    assert image_size(path) == load_image(path).shape[:2]


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_stops_a_reading_and_is_listed_by_a_complete_one(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.jpg"):
        known_size(path, Findings())
    findings = Findings(is_complete=True)
    assert known_size(path, findings) is None
    assert [finding.rule for finding in findings.found()] == ["stop"]


def test_formats_of_opencv_alone_have_a_size_too(tmp_path: Path) -> None:
    path = tmp_path / "a.ppm"
    cv2.imwrite(str(path), np.zeros((12, 20, 3), np.uint8))
    assert image_size(path) == (12, 20)
