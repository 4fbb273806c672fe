from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_voc import CLASSES, object_xml, write_image, write_list

from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError


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
    assert dataset.notes == ("no objects of these classes: Dog",)


def test_names_compare_without_case_or_spaces_and_difficult_is_read(voc: Path) -> None:
    difficult = "<difficult>{}</difficult>".format
    write_image(
        voc,
        "a",
        object_xml(" dog ", 5.5, 6, 7, 8, difficult(1)),
        object_xml("cat", 5, 6, 7, 8, difficult(0)),
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
    assert dataset.notes[:2] == (
        "left out 2 objects without width or height: a.xml (2)",
        "left out 2 objects that lie wholly outside their image: a.xml (2)",
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("written", "clipped"),
    [
        ((0, 5, 41, 9), (0, 4, 40, 9)),
        ((0, 0, 40, 30), (0, 0, 40, 30)),
        ((0.0, 5, 43.4, 9), (0, 4, 40, 9)),
        ((-7, -7, 100, 100), (0, 0, 40, 30)),
        ((38.5, 5, 44, 33.4), (37.5, 4, 40, 30)),
    ],
)
def test_boxes_that_reach_outside_are_clipped_and_noted(
    voc: Path, written: tuple[float, ...], clipped: tuple[float, ...], training: bool
) -> None:
    write_image(voc, "a", object_xml("cat", *written))
    dataset = find_source("voc", voc).load("test", CLASSES, training=training)
    truth = dataset.samples[1].ground_truth
    assert truth.boxes.tolist() == [list(clipped)]
    assert truth.areas.tolist() == [(clipped[2] - clipped[0]) * (clipped[3] - clipped[1])]
    # What GluonCV's rule is about.
    assert truth.written_boxes.tolist() == [[written[0] - 1, written[1] - 1, *written[2:]]]
    assert dataset.notes[0] == "clipped 1 objects that reach outside their image: a.xml"


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width/></size>",
        "<size><width>wide</width><height>30</height></size>",
        "<size><width>-40</width><height>-30</height></size>",
        "<size><width>nan</width><height>inf</height></size>",
    ],
)
def test_a_size_that_is_missing_or_zero_is_read_from_the_image(voc: Path, size: str) -> None:
    write_image(voc, "b", size=size)
    dataset = find_source("voc", voc).load("test", CLASSES)
    assert dataset.samples[0].image_size == (30, 40)
    assert "b.xml" in dataset.notes[0]


def test_notes_name_five_files_and_count_the_rest(voc: Path) -> None:
    for index in range(7):
        write_image(voc, str(index), object_xml("cat", 3, 3, 3, 3))
    write_list(voc, "many", "\n".join(map(str, range(7))))
    note = find_source("voc", voc).load("many", CLASSES).notes[0]
    assert note == "left out 7 objects without width or height: 0.xml, 1.xml, 2.xml, 3.xml, 4.xml, and 2 more"


@pytest.mark.parametrize("suffix", [".jpeg", ".png", ".bmp", ".JPG", ".Jpg", ".webp", ".WebP", ".tif", ".TIFF"])
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


def other_classes_only(voc: Path) -> None:
    write_image(voc, "a", object_xml("horse", 1, 1, 4, 4))


def shares(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", 0.1, 0.2, 0.9, 1.02))


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


def name_of_spaces(voc: Path) -> None:
    write_image(voc, "a", object_xml("cat", 1, 1, 4, 4), object_xml("  ", 1, 1, 4, 4))


def empty_list(voc: Path) -> None:
    write_list(voc, "test", " \n\n")


def listed_twice(voc: Path) -> None:
    write_list(voc, "test", "a\nb\na\n")


def no_list(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").rename(voc / "ImageSets" / "Main" / "other.txt")
    write_list(voc, "another", "a")


def binary_list(voc: Path) -> None:
    (voc / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xff\xfe\x00a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            other_classes_only,
            r"voc test: its objects are of horse, and the detector knows cat, Dog; evaluate a detector of this",
        ),
        (shares, r"coordinates of all objects lie between 0 and 1 \(the first in a\.xml\), so they are shares"),
        (missing_image, r"JPEGImages/a: no such image .*test\.txt lists it"),
        (missing_xml, r"a\.xml: no such annotation, but .*test\.txt lists its image"),
        (broken_xml, r"a\.xml: not readable XML"),
        (unknown_encoding, r"a\.xml: not readable XML"),
        (text_for_a_number, r"a\.xml: object 1 \(cat\): its bndbox has xmin 'one', expected a number"),
        (infinite_number, r"a\.xml: object 1 \(cat\): its bndbox has xmax 'inf'"),
        (no_box, r"a\.xml: object 1 \(cat\): its bndbox has xmin ''"),
        (no_name, r"a\.xml: object 1 has no name; name its class"),
        (name_of_spaces, r"a\.xml: object 2 has no name; name its class"),
        (empty_list, r"test\.txt: the image list is empty"),
        (listed_twice, r"voc test: image a is listed twice"),
        (no_list, r"has no list test or val, only another, other; name a list"),
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


def test_a_list_that_is_not_there_is_refused_with_those_that_are(voc: Path) -> None:
    with pytest.raises(DatasetError, match=r"val\.txt: no such image list; .*lists there: test\)") as caught:
        find_source("voc", voc).load("val", CLASSES)
    assert "another split" in str(caught.value)


def test_blood_cells_load_without_the_two_boxes_that_have_no_size(real_data: Path) -> None:
    dataset = find_source("voc", real_data / "bccd").load("trainval, test", ("RBC", "WBC", "Platelets"))
    assert len(dataset.samples) == 364
    assert dataset.notes == ("left out 2 objects without width or height: BloodImage_00338.xml, BloodImage_00343.xml",)
    counts = np.bincount(np.concatenate([sample.ground_truth.labels for sample in dataset.samples]))
    # 4,888 boxes as the data's README says, less two RBC; per class counted with grep.
    assert counts.tolist() == [4155 - 2, 372, 361]
    assert find_source("voc", real_data / "bccd").load(None, dataset.class_names).name == "voc test"
