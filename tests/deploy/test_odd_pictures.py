"""Pictures with odd names and sizes: what cannot be written of one is reported, and all others have their results."""

import csv
import json
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.detected import Detected
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.results.names import LONGEST_NAME
from ssd_deploy.results.table import RESULTS
from ssd_deploy.sources.open import open_sources
from ssd_train.class_list import read_class_list
from ssd_train.datasets.source import find_source
from ssd_train.errors import SSDDeployError
from ssd_train.escaped_text import unescaped
from ssd_train.spec import DetectorSpec

CLASSES = ("cat", "dog")
ROWS = [(10, 20, 50, 60, 0.9, 1), (60, 50, 90, 90, 0.7, 0)]
OF_PICTURES = [name for name, row in RESULTS.items() if "pictures" in row.takes]


def detect(
    paths: Sequence[Path], out: Path, save: Sequence[str] = OF_PICTURES, class_names: tuple[str, ...] = CLASSES
) -> Detected:
    spec = DetectorSpec(network="tiny", class_names=class_names, input_size=(100, 100))
    return detect_sources(Detector(FakeRunner(spec, ROWS), batch_size=2), open_sources(paths), out, save=save)


def picture(path: Path, image: np.ndarray | None = None) -> Path:
    """Write a PNG whatever the name says, since OpenCV takes no name that is not UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = blocks(40, 60, 10, 0) if image is None else image
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return path


ODD_NAMES = [
    "a" * 242 + ".png",
    "a" * 251 + ".png",
    "a" * 251 + ".jpg",
    "ä" * 125 + ".webp",
    os.fsdecode(b"caf\xe9.jpg"),
    os.fsdecode(b"\xff" * 251 + b".bmp"),
    "line\nend\r\t\x1b[31m.png",
    "\u2028.png",
    "c1\x85.png",
    "emoji \U0001f600.jpg",
    r"a\udcff.jpg",
]


def test_odd_names_have_all_results_and_are_read_back(tmp_path: Path) -> None:
    paths = [picture(tmp_path / "in" / name) for name in [*ODD_NAMES, "z.png"]]
    found = detect(paths, tmp_path / "out")
    assert found.errors == () and not found.is_lossy
    written = {each.path for each in found.pictures}
    assert len(written) == len(paths)
    assert all(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), 1).shape == (40, 60, 3) for path in written)
    for kind, ending in (("voc", ".xml"), ("yolo", ".txt")):
        files = list(found.results[kind].iterdir())
        assert len(files) == len(paths) and {path.suffix for path in files} == {ending}
    assert len(list(found.results["crops"].rglob("*.*"))) == 2 * len(paths)
    names = [str(path) for path in paths]
    assert [each["file"] for each in json.loads(found.results["json"].read_text("utf-8"))["images"]] == names
    content = json.loads(found.results["coco"].read_text("utf-8"))
    assert [each["file_name"] for each in content["images"]] == [path.name for path in paths]
    with found.results["csv"].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(unescaped(row["file"]) for row in rows)) == names
    roots = [ElementTree.parse(path).getroot() for path in found.results["voc"].iterdir()]
    assert {unescaped(root.findtext("filename") or "") for root in roots} == {path.name for path in paths}
    assert not [path for path in (tmp_path / "out").rglob("*") if len(os.fsencode(path.name)) > LONGEST_NAME]
    # A COCO file with such names is a data set of these pictures.
    dataset = find_source(None, None, annotations=found.results["coco"], images=tmp_path / "in").load(None, CLASSES)
    assert [sample.path for sample in dataset.samples] == paths


def test_long_names_that_begin_alike_stay_apart(tmp_path: Path) -> None:
    paths = [
        picture(tmp_path / "in" / f"{'a' * 245}{number}{suffix}") for number in "12" for suffix in (".jpg", ".tiff")
    ]
    found = detect(paths, tmp_path / "out", ["pictures", "crops"])
    assert len({each.path for each in found.pictures}) == 4 and found.errors == ()
    assert len(list((tmp_path / "out" / "crops" / "cat").iterdir())) == 4


CLASS_LISTS = [
    ("c" * 300 + "1", "c" * 300 + "2"),
    ("..", "."),
    (r"\udce9", "\\"),
]


@pytest.mark.parametrize("class_names", CLASS_LISTS, ids=range(len(CLASS_LISTS)))
def test_whatever_classes_are_called_they_have_folders_and_are_read_back(
    tmp_path: Path, class_names: tuple[str, ...]
) -> None:
    # Without the labels of another layout, since a folder has one.
    save = [name for name in OF_PICTURES if name not in ("pictures", "voc")]
    found = detect([picture(tmp_path / "in" / "a.png")], tmp_path / "out", save, class_names)
    assert found.errors == ()
    assert sorted(len(list(folder.iterdir())) for folder in found.results["crops"].iterdir()) == [1, 1]
    spec = json.loads(found.results["json"].read_text("utf-8"))["detector"]
    assert tuple(spec["class_names"]) == class_names
    assert read_class_list(tmp_path / "out" / "classes.txt") == class_names
    picture(tmp_path / "out" / "images" / "a.png")
    assert find_source(str(tmp_path / "out"), None).load(None, class_names).class_names == class_names
    voc = detect([picture(tmp_path / "in" / "a.png")], tmp_path / "voc", ["voc"], class_names).results["voc"]
    (annotation,) = voc.iterdir()
    names = ElementTree.parse(annotation).getroot().iterfind("object/name")
    assert {unescaped(name.text or "") for name in names} == set(class_names)
    with found.results["csv"].open(newline="", encoding="utf-8") as file:
        assert {unescaped(row["class"]) for row in csv.DictReader(file)} == set(class_names)


def test_what_cannot_be_written_of_one_picture_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["0.png", "folder.png", "gone.png", "loop.png", "wide.jpg", "z.png"]
    paths = [picture(tmp_path / "in" / name) for name in names]
    picture(paths[4], np.zeros((2, 70_000, 3), np.uint8))
    (out / "folder.png").mkdir(parents=True)
    (out / "loop.png").symlink_to("loop.png")
    sources = open_sources(paths)
    paths[2].unlink()
    spec = DetectorSpec(network="tiny", class_names=CLASSES, input_size=(100, 100))
    found = detect_sources(
        Detector(FakeRunner(spec, ROWS), batch_size=2), sources, out, save=["pictures", "json", "yolo"]
    )
    assert [each.path for each in found.pictures] == [out / "0.png", *paths[1:2], *paths[3:5], out / "z.png"]
    assert all((out / name).is_file() for name in ("0.png", "z.png"))
    for name, said in (("folder", "is a folder"), ("gone", "gone.png"), ("loop", "links"), ("wide", "cannot hold")):
        (error,) = (error for error in found.errors if name in error)
        assert said in error
    assert len(found.errors) == len(found.unsaid) == 4
    assert found.is_lossy and found.unwritten == 3
    content = json.loads(found.results["json"].read_text("utf-8"))
    assert sorted(content["errors"]) == sorted(found.errors) and content["is_complete"]
    # What is not its annotated picture is there of each.
    assert [Path(each["file"]).name for each in content["images"]] == [name for name in names if name != "gone.png"]
    assert len(list(found.results["yolo"].iterdir())) == 5


def test_a_path_that_is_too_long_for_a_subfolder_is_reported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    # So that the pictures still fit into PATH_MAX, and their crops in a folder more do not.
    while len(str(out)) < 3800:
        out /= "d" * 200
    out /= "d" * (3999 - len(str(out)))
    paths = [picture(tmp_path / "in" / name) for name in ("a.png", "b.png")]
    found = detect(paths, out, ["pictures", "crops"], ("c" * 100, "dog"))
    assert [each.path.is_file() for each in found.pictures] == [True, True]
    assert len(list((out / "crops" / "dog").iterdir())) == 2
    assert len(found.errors) == 2 and all("name too long" in error for error in found.errors) and found.is_lossy


def test_a_full_disk_still_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / "in" / f"{number}.png", blocks(40, 60, 10, 0)) for number in range(20)]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SSDDeployError, match="No space left"):
        detect(paths, tmp_path / "out", ["pictures", "json"])


def test_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    shown = picture(tmp_path / "in" / "a.jpg")
    hidden = ("._a.jpg", ".a.0123abcd.jpg", ".0123456789abcdef.ssd-deploy-part", ".cache/b.jpg", ".cache/sub/c.jpg")
    for name in hidden:
        picture(tmp_path / "in" / name)
    found = detect([tmp_path / "in"], tmp_path / "out", ["json"])
    assert [each["file"] for each in json.loads(found.results["json"].read_text())["images"]] == [str(shown)]
    # Who names one means it.
    found = detect([tmp_path / "in" / "._a.jpg", tmp_path / "in" / ".cache"], tmp_path / "out", ["json"])
    assert len(found.pictures) == 3
