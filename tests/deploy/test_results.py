"""Files of results, read back by those who read such files."""

import csv
import json
import os
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.detected import Detected
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.results.names import safe_name
from ssd_deploy.results.table import RESULTS, choose
from ssd_deploy.sources.frame import SourceInfo
from ssd_deploy.sources.open import open_sources
from ssd_train.datasets.source import find_source
from ssd_train.errors import SSDDeployError
from ssd_train.spec import DetectorSpec

CLASSES = ("cat", "dog", "a/b: c?")
SPEC = DetectorSpec(network="tiny", class_names=CLASSES, input_size=(100, 100))
# In percent of the picture; the second one sticks out at the right, the last one is below the threshold.
ROWS = [(10, 20, 50, 60, 0.9, 1), (60, 50, 130, 90, 0.7, 0), (20, 20, 40, 50, 0.6, 2), (0, 0, 9, 9, 0.2, 0)]
SIZES = {"a.png": (50, 100), "b.jpg": (200, 100), "c.png": (100, 300)}


def expected(name: str) -> list[tuple[str, list[float]]]:
    height, width = SIZES[name]
    scale = np.array([width, height, width, height]) / 100
    return [(CLASSES[label], (np.minimum([*box], 100) * scale).tolist()) for *box, score, label in ROWS if score > 0.5]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return [write_image(tmp_path / "data" / "images" / name, blocks(*size, 10, 0)) for name, size in SIZES.items()]


def detect(words: Sequence[Any], out: Path, save: str, rows: Sequence[tuple[float, ...]] = ROWS) -> Detected:
    detector = Detector(FakeRunner(SPEC, rows), batch_size=2)
    return detect_sources(detector, open_sources(words), out, save=save.split(","))


def read_dataset(root: Path) -> dict[str, list[tuple[str, list[float]]]]:
    dataset = find_source(str(root), None).load(None, CLASSES)
    return {
        sample.path.name: [
            (dataset.class_names[label], box)
            for label, box in zip(sample.ground_truth.labels.tolist(), sample.ground_truth.boxes.tolist(), strict=True)
        ]
        for sample in dataset.samples
    }


def assert_same(found: dict[str, list[tuple[str, list[float]]]], atol: float) -> None:
    assert sorted(found) == sorted(SIZES)
    for name, rows in found.items():
        assert [class_name for class_name, _ in rows] == [class_name for class_name, _ in expected(name)]
        np.testing.assert_allclose([box for _, box in rows], [box for _, box in expected(name)], atol=atol)


def test_yolo_labels_beside_the_pictures_are_a_data_set(pictures: list[Path], tmp_path: Path) -> None:
    assert detect(pictures, tmp_path / "out", "yolo").results == {"yolo": tmp_path / "out" / "labels"}
    for path in pictures:
        (tmp_path / "out" / "images").mkdir(exist_ok=True)
        path.rename(tmp_path / "out" / "images" / path.name)
    assert_same(read_dataset(tmp_path / "out"), atol=1e-3)
    assert (tmp_path / "out" / "classes.txt").read_text().splitlines() == list(CLASSES)


def test_voc_annotations_beside_the_pictures_are_a_data_set(pictures: list[Path], tmp_path: Path) -> None:
    assert detect(pictures, tmp_path / "out", "voc").results == {"voc": tmp_path / "out" / "Annotations"}
    (tmp_path / "out" / "JPEGImages").mkdir()
    for path in pictures:
        path.rename(tmp_path / "out" / "JPEGImages" / path.name)
    split = tmp_path / "out" / "ImageSets" / "Main" / "test.txt"
    split.parent.mkdir(parents=True)
    split.write_text("\n".join(path.stem for path in pictures))
    # Whole pixels.
    assert_same(read_dataset(tmp_path / "out"), atol=0.51)


def test_a_coco_file_is_read_by_this_project_and_by_pycocotools(pictures: list[Path], tmp_path: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    path = detect(pictures, tmp_path / "out", "coco").results["coco"]
    content = json.loads(path.read_text())
    assert [image["file_name"] for image in content["images"]] == list(SIZES)
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "a/b: c?"}]
    read = pycocotools.COCO(str(path))
    for number, name in enumerate(SIZES, 1):
        rows = read.loadAnns(read.getAnnIds(imgIds=[number]))
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (row["bbox"] for row in rows)]
        np.testing.assert_allclose(boxes, [box for _, box in expected(name)], rtol=1e-6)
        assert [row["area"] for row in rows] == pytest.approx([row["bbox"][2] * row["bbox"][3] for row in rows])
        assert [row["score"] for row in rows] == pytest.approx([0.9, 0.7, 0.6])
    with_pictures = find_source(None, None, annotations=path, images=pictures[0].parent).load(None, CLASSES)
    assert [len(sample.ground_truth) for sample in with_pictures.samples] == [3, 3, 3]
    # The annotations are results for `loadRes`, too.
    assert len(read.loadRes(content["annotations"]).anns) == 9
    assert [row["id"] for row in content["annotations"]] == list(range(1, 10))


def test_a_table_is_read_back(pictures: list[Path], tmp_path: Path) -> None:
    path = detect(pictures, tmp_path / "out", "csv").results["csv"]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and rows[0]["file"] == str(pictures[0])
    assert [row["class"] for row in rows[:3]] == ["dog", "cat", "a/b: c?"]
    np.testing.assert_allclose([float(row["score"]) for row in rows[:3]], [0.9, 0.7, 0.6], rtol=1e-6)
    boxes = [[float(row[key]) for key in ("x1", "y1", "x2", "y2")] for row in rows[3:6]]
    np.testing.assert_allclose(boxes, [box for _, box in expected("b.jpg")], rtol=1e-6)
    assert {row["frame"] + row["time_s"] + row["track_id"] for row in rows} == {""}


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = '=cmd|calc, "x".png'
    write_image(Path(name), blocks(9, 9, 3, 0))
    spec = DetectorSpec(network="tiny", class_names=("+1",), input_size=(100, 100))
    detector = Detector(FakeRunner(spec, [(0, 0, 50, 50, 0.9, 0)]))
    path = detect_sources(detector, open_sources([name]), tmp_path / "out", save=["csv"]).results["csv"]
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["file"], row["class"]) == (f"'{name}", "'+1")


def test_crops_are_what_the_boxes_hold(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)
    path = write_image(tmp_path / "a.png", image)
    assert detect([path], tmp_path / "out", "crops").results == {"crops": tmp_path / "out" / "crops"}
    crops = {str(crop.relative_to(tmp_path / "out" / "crops")): crop for crop in (tmp_path / "out").rglob("*.png")}
    assert sorted(crops) == ["a_b_ c_/a_2.png", "cat/a_1.png", "dog/a_0.png"]
    # By hand from the percentages: 10 to 50 of 100, 20 to 60 of 50; clipped at the right edge.
    for name, part in (("dog/a_0.png", image[10:30, 10:50]), ("cat/a_1.png", image[25:45, 60:])):
        np.testing.assert_array_equal(cv2.imread(str(crops[name]))[:, :, ::-1], part)


def test_a_box_outside_the_picture_makes_no_crop(tmp_path: Path) -> None:
    found = detect([blocks(50, 50, 5, 0)], tmp_path / "out", "crops", [(120, 20, 150, 60, 0.9, 1)])
    assert found.sources[0].detections == 1 and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("../../etc", ".._.._etc"), ("..", "_"), ("", "_"), (" . ", "_"), ("a\0b", "a_b"), ("C:\\x", "C__x"),
        ("dog ", "dog"), ("犬", "犬"), ("a.b", "a.b"), ("?", "__"), ("CON", "_CON"), ("aux.x", "_aux.x"), ("cone", "cone"),
    ],
)  # fmt: skip
def test_any_name_is_one_folder_that_stays_inside(name: str, folder: str) -> None:
    assert safe_name(name) == folder and len(Path(folder).parts) == 1


def test_classes_whose_names_become_the_same_have_folders_of_their_own(tmp_path: Path) -> None:
    spec = DetectorSpec(network="tiny", class_names=("a/b", "a:b", "A_b"), input_size=(100, 100))
    rows = [(0, 0, 50, 50, 0.9, 0), (0, 0, 50, 50, 0.8, 1), (0, 0, 50, 50, 0.7, 2)]
    detect_sources(
        Detector(FakeRunner(spec, rows)), open_sources([blocks(50, 50, 5, 0)]), tmp_path / "out", save=["crops"]
    )
    assert {path.name for path in (tmp_path / "out" / "crops").iterdir()} == {"a_b", "a_b-2", "A_b-3"}


def test_labels_of_pictures_that_differ_in_suffix_or_folder_are_numbered(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / name, blocks(20, 20, 5, 0)) for name in ("a.png", "a.jpg", "x/A.png")]
    detect(paths, tmp_path / "out", "yolo,voc,pictures")
    assert sorted(path.name for path in (tmp_path / "out" / "labels").iterdir()) == ["A-3.txt", "a-2.txt", "a.txt"]
    assert len(list((tmp_path / "out" / "Annotations").iterdir())) == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.*")) == ["A-2.png", "a.jpg", "a.png", "classes.txt"]


def test_names_in_a_coco_file_start_at_the_folder_that_all_pictures_share(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "in" / name, blocks(9, 9, 3, 0)) for name in ("x/a.png", "x/y/a.png", "z/b.png")]
    content = json.loads(detect(paths, tmp_path / "out", "coco").results["coco"].read_text())
    assert [image["file_name"] for image in content["images"]] == ["x/a.png", "x/y/a.png", "z/b.png"]


@pytest.mark.parametrize(("save", "folder"), [("yolo", "labels"), ("voc", "Annotations")])
def test_annotations_beside_the_pictures_are_never_replaced(
    pictures: list[Path], tmp_path: Path, save: str, folder: str
) -> None:
    mine = tmp_path / "data" / folder / "a.txt"
    mine.parent.mkdir()
    mine.write_text("by hand")
    with pytest.raises(SSDDeployError, match="its labels would be replaced"):
        detect(pictures, tmp_path / "data", save)
    assert mine.read_text() == "by hand" and len(list(mine.parent.iterdir())) == 1


def test_pictures_without_detections_have_empty_labels_and_an_image_in_every_list(tmp_path: Path) -> None:
    found = detect([blocks(20, 20, 5, 0)], tmp_path / "out", ",".join(set(RESULTS) - {"video", "crops"}), [])
    assert (tmp_path / "out" / "labels" / "images[0].txt").read_text() == ""
    assert "<object>" not in (tmp_path / "out" / "Annotations" / "images[0].xml").read_text()
    content = json.loads(found.results["coco"].read_text())
    assert len(content["images"]) == 1 and content["annotations"] == []
    assert json.loads(found.results["json"].read_text())["images"][0]["detections"] == []
    assert len(found.results["csv"].read_text().splitlines()) == 1


def test_everything_is_kept_where_one_result_cannot_be_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "labels").write_text("a file where a folder should be")
    images = [blocks(20, 20, 5, 0)] * 7
    with pytest.raises(SSDDeployError, match="labels"):
        detect(images, out, "json,yolo,csv")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_full_disk_is_said_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises((SSDDeployError, OSError), match="space"):
        detect([blocks(20, 20, 5, 0)] * 3, tmp_path / "out", "pictures,json")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"detections.json"}


def test_what_is_usual_follows_from_the_source() -> None:
    pictures, video, live = (
        SourceInfo(name=kind, kind=kind, frames=None)
        for kind in ("pictures", "video", "live")  # type: ignore[arg-type]
    )
    assert choose(None, [pictures]) == {"pictures": ("pictures",), "json": ("pictures",)}
    assert choose(None, [video]) == {"video": ("video",), "json": ("video",)}
    assert choose(None, [live]) == {"json": ("live",)}
    assert choose(None, [pictures, video]) == {
        "pictures": ("pictures",), "video": ("video",), "json": ("pictures", "video"),
    }  # fmt: skip
    assert choose(["crops", "video"], [pictures, live]) == {"crops": ("pictures", "live"), "video": ("live",)}


@pytest.mark.parametrize("save", [["gif"], ["json", "xlsx"], []])
def test_a_kind_of_result_that_does_not_exist_is_refused_with_those_that_do(save: list[str]) -> None:
    with pytest.raises(SSDDeployError, match="no kind of result; choose of pictures, video, json, coco"):
        choose(save, [SourceInfo(name="x", kind="pictures", frames=1)])


def test_memory_stays_level_over_many_frames(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        images = [np.full((64, 64, 3), 90, np.uint8)] * count
        tracemalloc.start()
        try:
            detect(images, tmp_path / str(count), "json,csv")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # A frame's results are some 700 bytes here; what stays of it are its name, its count and its place in a list.
    grown = (peak(1200) - peak(200)) / 1000
    assert grown < 1500
    assert os.path.getsize(tmp_path / "1200" / "detections.json") > 400_000
