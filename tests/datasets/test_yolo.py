"""YOLO folders as Ultralytics, Roboflow, Label Studio and LabelImg write them."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from small_voc import write_pixels

from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError, ImageError

NAMES = ("cat", "dog")
YAML = "names: [cat, dog]\ntrain: images/train\nval: images/val\n"
# Of the 40x30 images: x 8 to 24, y 6 to 21.
LINE = "0 0.4 0.45 0.4 0.5"
BOX = [8.0, 6.0, 24.0, 21.0]


def write(root: Path, *label_files: str | None, yaml: str | None = YAML, split: str = "val") -> Path:
    """Write images 0, 1, ... of a split with these label files; None writes none."""
    for number, text in enumerate(label_files):
        write_pixels(root / "images" / split / f"{number}.png")
        if text is not None:
            path = root / "labels" / split / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
    if yaml is not None:
        (root / "data.yaml").write_text(yaml, encoding="utf-8")
    return root


def load(root: Path, split: str | None = None, *, training: bool = False) -> Dataset:
    return find_source(root).load(split, NAMES, training=training)


def boxes(dataset: Dataset, number: int = 0) -> list[list[float]]:
    return dataset.samples[number].ground_truth.boxes.round(9).tolist()


# --- Label files ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LINE, [BOX]),
        (f"\ufeff{LINE}\r\n\r\n1 0.5 0.5 1 1\r\n", [BOX, [0, 0, 40, 30]]),
        ("0\t0.4  0.45 4e-1 5.0E-1 \n", [BOX]),
        ("0.0 .4 +0.45 0.40 0.50", [BOX]),
        # Polygons: of three points, of four.
        ("0 0.2 0.2 0.6 0.3 0.4 0.7", [BOX]),
        ("0 0.2 0.2 0.6 0.2 0.6 0.7 0.2 0.7", [BOX]),
        ("0 0.2 0.2 0.6 0.2 0.6 0.7 0.2 0.7\n1 0.5 0.5 1 1", [BOX, [0, 0, 40, 30]]),
        # Boxes that stick out.
        ("0 0.95 0.5 0.2 0.5", [[34, 7.5, 40, 22.5]]),
        ("0 -0.01 0.5 0.1 1.2", [[0, 0, 1.6, 30]]),
        ("", []),
        ("\n \n", []),
    ],
)
def test_lines_are_boxes_in_shares_of_the_image(tmp_path: Path, text: str, expected: list[list[float]]) -> None:
    for training in (False, True):
        assert boxes(load(write(tmp_path, text), training=training)) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "0 0.4 0.45 0.4",
            r"line 2 is '0 0.4 0.45 0.4', expected a class number and x, y, width, height, or a polygon",
        ),
        ("0 0.4 0.45 0.4 0.5 0.9", "line 2 is '0 0.4 0.45 0.4 0.5 0.9', expected"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "expected a class number"),
        ("0", "expected a class number"),
        ("cat 0.4 0.45 0.4 0.5", "expected a class number"),
        ("0,0.4,0.45,0.4,0.5", "expected a class number"),
        ("0.5 0.4 0.45 0.4 0.5", "expected a class number"),
        ("nan 0.4 0.45 0.4 0.5", "expected a class number"),
        ("0 nan 0.45 0.4 0.5", "expected a class number"),
        ("0 0.4 0.45 inf 0.5", "expected a class number"),
        ("2 0.4 0.45 0.4 0.5", "line 2 has class 2, but the names are of 0 to 1"),
        ("0 16 13 16 15", "line 2 has 16, where shares of the image from 0 to 1 are expected; divide pixels"),
        ("0 8 6 24 6 24 21", "line 2 has 24, where shares"),
    ],
)
def test_a_line_that_is_none_is_refused_with_its_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, f"\n{line}\n")
    with pytest.raises(DatasetError, match=f"labels/val/0.txt: .*{message}"):
        load(tmp_path)


def test_what_is_left_out_of_a_label_file_is_noted(tmp_path: Path) -> None:
    write(tmp_path, f"{LINE}\n-1 0.5 0.5 0.1 0.1\n{LINE} \n0 0.5 0.5 0 0.1\n1 3e-1 1.5 0.1 0.1\n", None)
    dataset = load(tmp_path)
    assert boxes(dataset) == [BOX]
    assert dataset.notes == (
        "left out 1 objects without width or height: labels/val/0.txt",
        "left out 1 objects that lie wholly outside their image: labels/val/0.txt",
        "left out 1 objects with a negative class number: labels/val/0.txt",
        "no objects of these classes: dog",
        "took 1 images without annotation file for images without objects: labels/val/1.txt",
        "left out 1 lines that repeat another one: labels/val/0.txt",
    )


def test_objects_and_their_numbers_are_those_of_the_same_objects_in_coco(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [np.concatenate([rng.uniform(0.2, 0.8, (5, 2)), rng.uniform(0.05, 0.4, (5, 2))], 1) for _ in range(4)]
    labels = rng.integers(0, 2, (4, 5))
    lines = [
        "\n".join(f"{label} {' '.join(map(repr, row.tolist()))}" for label, row in zip(own, of_image, strict=True))
        for own, of_image in zip(labels, rows, strict=True)
    ]
    yolo = write(tmp_path / "yolo", *lines)
    coco = tmp_path / "coco"
    annotations = [
        {
            "id": 1 + 5 * image + number,
            "image_id": image,
            "category_id": int(labels[image, number]),
            "bbox": [(x - w / 2) * 40, (y - h / 2) * 30, w * 40, h * 30],
        }
        for image, of_image in enumerate(rows)
        for number, (x, y, w, h) in enumerate(of_image.tolist())
    ]
    images = [{"id": image, "file_name": f"{image}.png"} for image in range(4)]
    for image in images:
        write_pixels(coco / "val" / str(image["file_name"]))
    (coco / "annotations").mkdir()
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (coco / "annotations" / "instances_val.json").write_text(json.dumps(content))
    ours, theirs = load(yolo), load(coco)
    assert [sample.image_size for sample in ours.samples] == [(30, 40)] * 4
    assert ours.category_ids == theirs.category_ids == (0, 1)
    for one, other in zip(ours.samples, theirs.samples, strict=True):
        # COCO's stay as they are where they stick out.
        clipped = other.ground_truth.boxes.clip(0, [40, 30, 40, 30])
        np.testing.assert_allclose(one.ground_truth.boxes, clipped, atol=1e-9)
        np.testing.assert_array_equal(one.ground_truth.labels, other.ground_truth.labels)


def test_points_after_a_box_are_no_polygon(tmp_path: Path) -> None:
    points = " ".join(["0.9 0.9 2"] * 3)
    assert boxes(load(write(tmp_path, f"{LINE} {points}", yaml=f"{YAML}kpt_shape: [3, 3]\n"))) == [BOX]


# --- data.yaml ---


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[cat, dog]", {"cat": 0, "dog": 1}),
        ("\n- cat\n- dog", {"cat": 0, "dog": 1}),
        ("\n  0: cat\n  1: dog", {"cat": 0, "dog": 1}),
        ("{1: dog, 0: cat}", {"cat": 0, "dog": 1}),
        ("{'0': cat, '7': dog}", {"cat": 0, "dog": 7}),
        ("[1, 2.5]", {"1": 0, "2.5": 1}),
        # YAML would have truth values.
        ("[yes, no, on, Off, true]", {"yes": 0, "no": 1, "on": 2, "Off": 3, "true": 4}),
        ("['stop sign', 圆, \"a: b\"]", {"stop sign": 0, "圆": 1, "a: b": 2}),
    ],
)
def test_names_are_a_list_or_numbers_and_names(tmp_path: Path, names: str, expected: dict[str, int]) -> None:
    write(tmp_path, "", yaml=f"names: {names}\nval: images/val\nnc: {len(expected)}\n")
    source = find_source(tmp_path, val_share=0.5)
    assert source.class_names() == tuple(expected)
    assert source.layout.read(tmp_path, "val", Findings()).categories == expected


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("", "holds no keys and values"),
        ("names:\n\t- cat\ntrain: images/val", "cannot be read as YAML"),
        ("names: [cat, dog]\nnc: 3\nval: images/val", "nc is 3, but there are 2 names"),
        ("names: [cat, cat]\nval: images/val", "expected different names"),
        ("names: []\nval: images/val", "expected different names"),
        ("names: cat\nval: images/val", "expected different names"),
        ("names: {cat: 0}\nval: images/val", "names has 'cat': 0, expected a number from 0 and a name"),
        ("names: [cat, null]\nval: images/val", "names has 1: None"),
        ("names: [cat, [dog]]\nval: images/val", "names has 1"),
        ("names: [cat]\nval: 3", "val is 3, expected a folder or list of images"),
        ("names: [cat]\nval: [images/val, null]", "val is .*, expected a folder or list of images"),
        ("names: &a [*a]\nval: images/val", "data.yaml"),
        ("names: [cat]\nval: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_a_yaml_file_that_is_none_is_refused_by_name(tmp_path: Path, yaml: str, message: str) -> None:
    write(tmp_path, LINE, yaml=yaml)
    for ask in (lambda: load(tmp_path), lambda: find_source(tmp_path, val_share=0.5).class_names()):
        with pytest.raises(DatasetError, match=rf"data\.yaml: .*{message}" if message != "data.yaml" else message):
            ask()


@pytest.mark.parametrize("where", ["images/val", "./images/val/", "images\\val", "../images/val", "../../x/images/val"])
@pytest.mark.parametrize("path", ["", "path: .", "path: /another/machine", "path: ../datasets/cells", "path: C:\\data"])
def test_splits_are_found_beside_the_file_wherever_it_was_written(tmp_path: Path, where: str, path: str) -> None:
    if "x" in where:
        where = where.replace("x/", "")
    write(tmp_path, LINE, yaml=f"{path}\nnames: [cat, dog]\nval: '{where}'\n")
    assert boxes(load(tmp_path)) == [BOX]
    # The file stands for its folder.
    assert boxes(find_source(tmp_path / "data.yaml").load(None, NAMES)) == [BOX]


@pytest.mark.parametrize("given", ["whole", ".", ".."])
def test_a_folder_may_be_named_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    write(tmp_path, LINE, yaml=f"names: [cat, dog]\nval: {tmp_path}/images/val\n")
    monkeypatch.chdir(tmp_path / "images" if given == ".." else tmp_path)
    dataset = find_source(tmp_path if given == "whole" else Path(given)).load(None, NAMES)
    assert boxes(dataset) == [BOX]
    assert dataset.samples[0].image_id == "images/val/0"


def test_a_path_inside_is_what_splits_are_relative_to(tmp_path: Path) -> None:
    write(tmp_path / "cells", LINE, yaml=None)
    (tmp_path / "data.yaml").write_text("path: cells\nnames: [cat, dog]\nval: images/val\n")
    assert boxes(load(tmp_path)) == [BOX]


def test_a_split_may_be_several_folders_or_a_list_of_images(tmp_path: Path) -> None:
    write(tmp_path, LINE, LINE, split="a")
    write(tmp_path, LINE, split="b/c")
    (tmp_path / "val.txt").write_text("./images/a/1.png\r\n\nimages\\b\\c\\0.png\n")
    yaml = "names: [cat, dog]\ntrain: [images/a, images/b]\nval: val.txt\n"
    write(tmp_path, yaml=yaml)
    source = find_source(tmp_path)
    assert source.split_names() == ("train", "val")
    ids = {split: [sample.image_id for sample in source.load(split, NAMES).samples] for split in ("train", "val")}
    assert ids == {"train": ["images/a/0", "images/a/1", "images/b/c/0"], "val": ["images/a/1", "images/b/c/0"]}
    assert all(boxes(source.load("train", NAMES), number) == [BOX] for number in range(3))


@pytest.mark.parametrize(
    ("val", "message"),
    [
        ("valid/images", "said to be in valid/images, which is not there"),
        ("/elsewhere/images", "said to be in /elsewhere/images, which leads out"),
        ("../../elsewhere", "which leads out"),
        ("data.yaml", "which is not there"),
        ("x" * 400, "which is not there"),
    ],
)
def test_a_split_whose_images_are_not_there_is_refused_and_may_be_held_out(
    tmp_path: Path, val: str, message: str
) -> None:
    write(tmp_path.parent / "elsewhere", LINE, yaml=None)
    write(tmp_path, *[LINE] * 6, split="train", yaml=f"names: [cat, dog]\ntrain: images/train\nval: {val}\n")
    with pytest.raises(DatasetError, match=message):
        load(tmp_path)
    shared = find_source(tmp_path, val_share=0.4)
    counts = [len(shared.load(split, NAMES).samples) for split in (shared.train_split, shared.val_split)]
    assert sum(counts) == 6 and all(counts)


@pytest.mark.parametrize("line", ["/etc/passwd", "../../elsewhere/a.png", "nowhere.png", "images/val"])
def test_a_list_names_images_inside(tmp_path: Path, line: str) -> None:
    write(tmp_path, LINE, yaml="names: [cat, dog]\nval: val.txt\n")
    (tmp_path / "val.txt").write_text(line)
    with pytest.raises(DatasetError, match=rf"val\.txt: image {line}: (the name|there is no such file)"):
        load(tmp_path)


# --- Folders ---


def test_roboflow_s_folders_have_images_and_labels_a_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_pixels(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    source = find_source(tmp_path)
    assert (source.layout.name, source.train_split, source.val_split) == ("yolo", "train", "val")
    for split in ("train", "val"):
        assert boxes(source.load(split, NAMES)) == [BOX]


@pytest.mark.parametrize("names_file", ["classes.txt", "labels/classes.txt"])
def test_without_yaml_a_list_of_classes_lies_beside_images_and_labels(tmp_path: Path, names_file: str) -> None:
    write_pixels(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(LINE.replace("0", "1", 1))
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / names_file).write_text("cat\r\ndog \r\n\r\n")
    source = find_source(tmp_path)
    assert (source.layout.name, source.split_names()) == ("yolo", ("all",))
    dataset = source.load(None, NAMES)
    assert [sample.ground_truth.labels.tolist() for sample in dataset.samples] == [[1]]
    # A line that is empty would give all that follow another number.
    (tmp_path / names_file).write_text("cat\n\ndog\n")
    with pytest.raises(DatasetError, match=r"classes\.txt: names has 1: ''"):
        source.load(None, NAMES)


def test_without_yaml_folders_are_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, LINE, yaml=None, split=split)
    (tmp_path / "classes.txt").write_text("cat\ndog")
    source = find_source(tmp_path)
    assert (source.train_split, source.val_split) == ("train", "val")
    assert boxes(source.load(None, NAMES)) == [BOX]


def test_labels_may_lie_beside_the_images(tmp_path: Path) -> None:
    for folder in ("images/train", "data"):
        write_pixels(tmp_path / folder / "a.jpg")
        (tmp_path / folder / "a.txt").write_text(LINE)
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train\nval: data\n")
    for split in ("train", "val"):
        assert boxes(load(tmp_path, split)) == [BOX]


def test_labels_of_names_with_dots_and_accents_are_found(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "é.v1") for form in ("NFC", "NFD"))
    write(tmp_path, yaml=YAML)
    write_pixels(tmp_path / "images" / "val" / f"{composed}.png")
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val" / f"{apart}.txt").write_text(LINE)
    assert boxes(load(tmp_path)) == [BOX]


def test_fewer_and_other_classes_leave_out_objects_with_a_count(tmp_path: Path) -> None:
    write(tmp_path, f"{LINE}\n1 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.25 0.5")
    dataset = find_source(tmp_path).load(None, ("Cat", "cow"))
    assert dataset.samples[0].ground_truth.labels.tolist() == [0]
    assert dataset.category_ids == (0, None)
    assert dataset.notes == (
        "left out 2 objects of classes that the detector does not know: dog (2)",
        "the data lack these classes of the detector: cow",
        "took names that differ in upper and lower case for one class: cat as Cat",
    )


def test_a_broken_image_stops_a_reading_and_is_listed_by_a_complete_one(tmp_path: Path) -> None:
    write(tmp_path, LINE, LINE)
    (tmp_path / "images" / "val" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"0\.png"):
        load(tmp_path)
    findings = Findings(is_complete=True)
    assert len(find_source(tmp_path).load(None, NAMES, findings=findings).samples) == 1
    assert [finding.place for finding in findings.found() if finding.rule == "stop"] == ["0.png"]


@pytest.mark.parametrize("split", ["test", "images/val"])
def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, split: str) -> None:
    write(tmp_path, LINE)
    with pytest.raises(DatasetError, match=rf"has no split {split}; choose another one \(train, val\)"):
        load(tmp_path, split)
