"""A whole folder: what is found, in which split, what it means, and that nothing is found where nothing is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssd_train.data_check.check import check_data
from ssd_train.data_check.report import CheckReport
from ssd_train.datasets.findings import Effect
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.errors import NetworkError
from ssd_train.files import to_json

Write = Callable[..., Path]


def check(root: Path, **settings: Any) -> CheckReport:
    return check_data(find_source(root), **settings)


def found(report: CheckReport) -> list[tuple[str, tuple[str, ...], str]]:
    return [(each.finding.rule, each.splits, each.finding.place) for each in report.findings]


def test_a_folder_without_fault_has_no_findings(data: Path) -> None:
    report = check(data)
    assert report.findings == () and report.copies == ()
    assert report.exit_code() == report.exit_code(strict=True) == 0
    assert [(row.role, row.name, row.images, row.objects) for row in report.rows] == [
        ("train", "train", 3, 6), ("val", "val", 2, 4),
    ]  # fmt: skip
    assert report.class_names == ("cat", "dog")


def test_generated_pictures_pass(tmp_path: Path) -> None:
    report = check(write_shapes(tmp_path / "shapes", train=24, val=16, seed=1), network="ssd_300_mobilenet0.25_custom")
    assert [each.finding.rule for each in report.findings if each.finding.rule != "anchors"] == []


def test_every_broken_image_is_named_with_its_split(data: Path) -> None:
    images = data / "JPEGImages"
    (images / "t1.png").write_bytes((images / "t1.png").read_bytes()[:-20])
    (images / "v0.png").write_bytes(b"")
    report = check(data)
    assert found(report) == [
        ("stop", ("train",), str(images / "t1.png")),
        ("stop", ("val",), str(images / "v0.png")),
    ]
    assert all(each.finding.effect is Effect.STOP for each in report.findings)
    assert "cut off" in report.findings[0].finding.message
    assert report.exit_code() == 1
    # Nothing is opened without images.
    assert check(data, with_images=False).findings == ()


def test_a_held_out_picture_that_is_trained_on_makes_a_score_too_good(data: Path, add_image: Write) -> None:
    shutil.copy(data / "JPEGImages" / "t1.png", data / "JPEGImages" / "v1.png")
    report = check(data)
    assert found(report) == [("trained-copy", (), "val v1.png is train t1.png")]
    assert report.exit_code() == 1
    assert report.copies == (
        (("train", str(data / "JPEGImages" / "t1.png")), ("val", str(data / "JPEGImages" / "v1.png"))),
    )


def test_one_file_in_two_lists_is_a_copy_too(data: Path) -> None:
    with (data / "ImageSets" / "Main" / "val.txt").open("a") as file:
        file.write("t0\n")
    assert found(check(data)) == [("trained-copy", (), "val t0.png is train t0.png")]


def test_copies_inside_a_split_and_between_held_out_ones_are_notes(data: Path, add_image: Write) -> None:
    for name in ("t2", "t1"):
        shutil.copy(data / "JPEGImages" / "t0.png", data / "JPEGImages" / f"{name}.png")
    copy = add_image("test", "x0", [("cat", (10, 10, 50, 40))])
    shutil.copy(data / "JPEGImages" / "v0.png", copy)
    report = check(data)
    assert found(report) == [
        ("copy", (), "train t1.png is t0.png"),
        ("copy", (), "train t2.png is t0.png"),
        ("held-out-copy", (), "test x0.png is val v0.png"),
    ]
    assert (report.exit_code(), report.exit_code(strict=True)) == (0, 1)


def test_a_test_split_is_checked_where_there_is_one(data: Path, add_image: Write) -> None:
    add_image("test", "x0", [("cat", (10, 10, 50, 40))]).write_bytes(b"")
    report = check(data)
    assert [row.role for row in report.rows] == ["train", "val", "test"]
    assert [splits for _, splits, _ in found(report)] == [("test",)]


def test_what_is_wrong_in_two_splits_is_told_once(data: Path) -> None:
    with (data / "ImageSets" / "Main" / "val.txt").open("a") as file:
        file.write("t0\n")
    (data / "JPEGImages" / "t0.png").write_bytes(b"")
    assert found(check(data)) == [("stop", ("train", "val"), str(data / "JPEGImages" / "t0.png"))]


def test_a_validation_split_without_objects_loses_its_score(add_image: Write) -> None:
    add_image("train", "t0", [("cat", (10, 10, 50, 40))])
    data = add_image("val", "v0", []).parents[1]
    report = check(data)
    assert found(report) == [("nothing-to-score", ("val",), "val"), ("class-unscored", (), "cat")]
    assert report.exit_code() == 1


def test_a_split_that_is_not_there_stops_and_the_others_are_read(data: Path) -> None:
    (data / "ImageSets" / "Main" / "train.txt").unlink()
    report = check(data)
    assert report.findings[0].finding.effect is Effect.STOP and report.findings[0].splits == ("train",)
    assert [(row.role, row.images) for row in report.rows] == [("train", 0), ("val", 2)]


def test_objects_that_reach_outside_are_clipped_and_images_without_objects_left_out(add_image: Write) -> None:
    for split, name in (("train", "t0"), ("val", "v0")):
        data = add_image(split, name, [("cat", (10, 10, 50, 40))]).parents[1]
    # Six pixels beyond the right edge.
    add_image("train", "t1", [("cat", (10, 10, 86, 40)), ("cat", (1, 1, 30, 30))])
    add_image("train", "t2", [])
    report = check(data)
    assert found(report) == [("clipped", ("train",), "t1.xml"), ("without-objects", ("train",), "t2.png")]


def test_a_network_of_fixed_classes_brings_them(data: Path) -> None:
    report = check(data, network="ssd_300_mobilenet0.25_voc")
    assert len(report.class_names) == 20
    assert len([rule for rule, _, _ in found(report) if rule == "class-without-objects"]) == 18


def test_a_network_that_does_not_exist_is_refused_before_anything_is_read(data: Path) -> None:
    shutil.rmtree(data / "Annotations")
    with pytest.raises(NetworkError, match="there is no network"):
        check(data, network="ssd_301_mobilenet0.25_custom")


def test_the_report_is_plain_data(data: Path) -> None:
    report = check(data, network="ssd_300_mobilenet0.25_custom", class_names=["cat", "dog", "bird"])
    plain = json.loads(to_json(report.to_dict()))
    assert plain["counts"] == {"note": 1, "loss": 0, "stop": 0}
    assert plain["findings"] == [
        {
            "rule": "class-without-objects", "effect": "note", "place": "bird", "count": 1,
            "message": "no objects of these classes", "splits": [],
        }
    ]  # fmt: skip
    cat, _, bird = plain["classes"]
    # 40 x 30 less one pixel a side of an image of 80 x 60, as GluonCV reads it: of an input of 300 x 300.
    side = np.sqrt((39 * 300 / 80) * (29 * 300 / 60))
    assert cat["sizes"]["0.5"] == pytest.approx(side) and cat["objects"] == {"train": 3, "val": 2}
    assert bird["sizes"]["0.5"] is None and bird["objects"] == {"train": 0, "val": 0}
    assert plain["anchors"]["networks"][0]["covered"]["bird"] is None
    assert plain["input_size"] == [300, 300] and plain["images_read"]
