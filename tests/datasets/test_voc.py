from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.datasets.layouts import find_source
from ssd_train.errors import DatasetError

CLASSES = ("cat", "Dog")


def object_xml(name: str, xmin: object, ymin: object, xmax: object, ymax: object, extra: str = "") -> str:
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


SIZE_XML = "<size><width>40</width><height>30</height><depth>3</depth></size>"


def write_image(folder: Path, image_id: str, *objects: str, size: str = SIZE_XML, suffix: str = ".jpg") -> None:
    """Add a 40x30 image with its annotation to a VOC folder."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "JPEGImages" / f"{image_id}{suffix}"), np.zeros((30, 40, 3), np.uint8))
    xml = f"<annotation>{size}{''.join(objects)}</annotation>"
    (folder / "Annotations" / f"{image_id}.xml").write_text(xml)


def write_list(folder: Path, name: str, text: str) -> None:
    (folder / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    write_image(folder, "a", object_xml("cat", 1, 1, 40, 30))
    write_image(folder, "b")
    write_list(folder, "test", "b\na\n")
    return folder


def test_inclusive_numbers_from_1_become_continuous_boxes_from_0(voc: Path) -> None:
    dataset = find_source("voc", voc).load(None, CLASSES)
    assert dataset.name == "voc test"
    assert dataset.category_ids == (1, 2)
    assert [sample.image_id for sample in dataset.samples] == ["b", "a"]
    assert [len(sample.ground_truth) for sample in dataset.samples] == [0, 1]
    # The whole 40x30 image.
    assert dataset.samples[1].ground_truth.boxes.tolist() == [[0, 0, 40, 30]]
    assert dataset.samples[1].ground_truth.areas.tolist() == [1200]
    assert dataset.samples[1].image_size == (30, 40)
    assert dataset.notes == ()


def test_names_compare_without_case_or_spaces_and_difficult_is_read(voc: Path) -> None:
    difficult = "<difficult>{}</difficult>".format
    write_image(
        voc,
        "a",
        object_xml(" dog ", 5.5, 6, 7, 8, difficult(1)),
        object_xml("CAT", 5, 6, 7, 8, difficult(0)),
        object_xml("cat", 5, 6, 7, 8),
    )
    truth = find_source("voc", voc).load("test", CLASSES).samples[1].ground_truth
    assert truth.labels.tolist() == [1, 0, 0]
    assert truth.is_difficult.tolist() == [True, False, False]
    assert not truth.is_crowd.any()
    assert truth.boxes[0].tolist() == [4.5, 5, 7, 8]


def test_boxes_of_body_parts_are_not_objects(voc: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write_image(voc, "a", object_xml("cat", 5, 6, 7, 8, part))
    assert find_source("voc", voc).load("test", CLASSES).samples[1].ground_truth.boxes.tolist() == [[4, 5, 7, 8]]


def test_objects_without_area_are_left_out_and_noted(voc: Path) -> None:
    write_image(
        voc,
        "a",
        object_xml("cat", 5, 5, 5, 9),
        object_xml("cat", 5, 9, 8, 5),
        object_xml("cat", 41, 5, 50, 9),
        object_xml("cat", -8, 5, 0, 9),
        object_xml("cat", 5, 5, 6, 6),
    )
    dataset = find_source("voc", voc).load("test", CLASSES)
    assert dataset.samples[1].ground_truth.boxes.tolist() == [[4, 4, 6, 6]]
    assert dataset.notes == ("left out 4 objects without area inside their image: a.xml (4)",)


def test_boxes_that_reach_outside_are_kept_unclipped_and_noted(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", 0, 5, 41, 9))
    dataset = find_source("voc", voc).load("test", CLASSES)
    assert dataset.samples[1].ground_truth.boxes.tolist() == [[-1, 4, 41, 9]]
    assert dataset.notes == ("kept 1 objects that reach outside their image, boxes not clipped: a.xml (1)",)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>", "<size><width/></size>"])
def test_a_size_that_is_missing_or_zero_is_read_from_the_image(voc: Path, size: str) -> None:
    write_image(voc, "b", size=size)
    dataset = find_source("voc", voc).load("test", CLASSES)
    assert dataset.samples[0].image_size == (30, 40)
    assert "b.xml" in dataset.notes[0]


def test_notes_name_five_files_and_count_the_rest(voc: Path) -> None:
    for index in range(7):
        write_image(voc, str(index), object_xml("cat", 3, 3, 3, 3))
    write_list(voc, "many", "\n".join(map(str, range(7))))
    (note,) = find_source("voc", voc).load("many", CLASSES).notes
    assert note.endswith("4.xml (1), and 2 more files")
    assert "left out 7 objects" in note


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".bmp", ".JPG"])
def test_other_image_suffixes_are_found(voc: Path, suffix: str) -> None:
    write_image(voc, "c.v1", suffix=suffix)
    write_list(voc, "val", "c.v1")
    assert find_source("voc", voc).load("val", CLASSES).samples[0].path.name == f"c.v1{suffix}"


def test_a_jpg_is_preferred_to_another_file_of_the_same_name(voc: Path) -> None:
    write_image(voc, "a", suffix=".png")
    assert find_source("voc", voc).load(None, CLASSES).samples[1].path.name == "a.jpg"


def test_lists_may_have_a_second_column_blank_lines_and_windows_ends(voc: Path) -> None:
    write_list(voc, "cat_test", "a  1\r\n\r\nb -1\r\n")
    assert [sample.image_id for sample in find_source("voc", voc).load("cat_test", CLASSES).samples] == ["a", "b"]


def test_val_stands_in_where_there_is_no_test_list(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").unlink()
    write_list(voc, "val", "a")
    assert find_source("voc", voc).load(None, CLASSES).name == "voc val"


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
def test_year_folders_are_found_beside_each_other_or_in_a_devkit(tmp_path: Path, inside: str) -> None:
    for year, image_id in (("2007", "000001"), ("2012", "2008_000008")):
        folder = tmp_path / inside / f"VOC{year}"
        write_image(folder, image_id)
        write_list(folder, "trainval", image_id)
        write_list(folder, "test", image_id)
    assert find_source("voc", tmp_path).load(None, CLASSES).name == "voc 2007_test"
    both = find_source("voc", tmp_path).load("2007_trainval, 2012_trainval", CLASSES)
    assert [sample.image_id for sample in both.samples] == ["000001", "2008_000008"]
    for split in ("test", "2010_test"):
        with pytest.raises(DatasetError, match=f"'{split}' names no year that is here \\(VOC2007, VOC2012\\)"):
            find_source("voc", tmp_path).load(split, CLASSES)


def unknown_class(voc: Path) -> None:
    write_image(voc, "a", object_xml("horse", 1, 1, 4, 4))


def missing_image(voc: Path) -> None:
    (voc / "JPEGImages" / "a.jpg").unlink()


def missing_xml(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").unlink()


def broken_xml(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").write_text("<annotation><size>")


def unknown_encoding(voc: Path) -> None:
    (voc / "Annotations" / "a.xml").write_bytes(b'<?xml version="1.0" encoding="klingon"?><annotation/>')


def text_for_a_number(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", "one", 1, 4, 4))


def infinite_number(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", 1, 1, "inf", 4))


def no_box(voc: Path) -> None:
    write_image(voc, "a", "<object><name>cat</name></object>")


def no_name(voc: Path) -> None:
    write_image(voc, "a", "<object></object>")


def odd_difficult(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", 1, 1, 4, 4, "<difficult>maybe</difficult>"))


def odd_size(voc: Path) -> None:
    write_image(voc, "a", size="<size><width>wide</width><height>30</height></size>")


def empty_list(voc: Path) -> None:
    write_list(voc, "test", " \n\n")


def listed_twice(voc: Path) -> None:
    write_list(voc, "test", "a\nb\na\n")


def no_list(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").rename(voc / "ImageSets" / "Main" / "other.txt")


def binary_list(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xff\xfe\x00a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            unknown_class,
            r"a\.xml: class 'horse' is not one of the detector's 2 \(cat, dog, ...\); give the data set's",
        ),
        (missing_image, r"a\.jpg: no such image .*test\.txt lists it"),
        (missing_xml, r"a\.xml: no such annotation, but .*test\.txt lists its image"),
        (broken_xml, r"a\.xml: not readable XML"),
        (unknown_encoding, r"a\.xml: not readable XML"),
        (text_for_a_number, r"a\.xml: an object's bndbox has xmin 'one', expected a number"),
        (infinite_number, r"a\.xml: an object's bndbox has xmax 'inf'"),
        (no_box, r"a\.xml: an object's bndbox has xmin ''"),
        (no_name, r"a\.xml: class ''"),
        (odd_difficult, r"a\.xml: an object's difficult flag is 'maybe', expected 0 or 1"),
        (odd_size, r"a\.xml: its size .*wide"),
        (empty_list, r"test\.txt: the image list is empty"),
        (listed_twice, r"test\.txt: image a is listed twice"),
        (no_list, r"val\.txt: no such image list; .*lists there: other"),
        (binary_list, r"test\.txt: cannot be read as UTF-8"),
    ],
)
def test_damage_is_an_error_that_names_the_file(voc: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(voc)
    with pytest.raises(DatasetError, match=message):
        find_source("voc", voc).load(None, CLASSES)


def test_a_folder_of_something_else_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no Pascal VOC data; expected Annotations, JPEGImages"):
        find_source("voc", tmp_path).load(None, CLASSES)


@pytest.mark.parametrize("split", ["test,", ",", "test,,val"])
def test_a_split_with_an_empty_part_is_refused(voc: Path, split: str) -> None:
    with pytest.raises(DatasetError, match="empty part"):
        find_source("voc", voc).load(split, CLASSES)


def test_classes_that_differ_in_case_only_are_refused(voc: Path) -> None:
    with pytest.raises(DatasetError, match="'cat' and 'CAT' differ only in case"):
        find_source("voc", voc).load(None, ("cat", "CAT"))


def test_blood_cells_load_without_the_two_boxes_that_have_no_size(real_data: Path) -> None:
    dataset = find_source("voc", real_data / "bccd").load("trainval, test", ("RBC", "WBC", "Platelets"))
    assert len(dataset.samples) == 364
    assert dataset.notes == (
        "left out 2 objects without area inside their image: BloodImage_00338.xml (1), BloodImage_00343.xml (1)",
    )
    counts = np.bincount(np.concatenate([sample.ground_truth.labels for sample in dataset.samples]))
    # 4,888 boxes as the data's README says, less two RBC; per class counted with grep.
    assert counts.tolist() == [4155 - 2, 372, 361]
    assert find_source("voc", real_data / "bccd").load(None, dataset.class_names).name == "voc test"
