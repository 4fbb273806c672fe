"""Where COCO files and their images lie, in the folders of each tool."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from small_voc import write_pixels

from ssd_train.datasets.findings import Findings
from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError, ImageError

NAMES = ("cat", "dog")


def content(file_names: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Return an image each with a cat and a dog."""
    ids = range(1, 1 + len(file_names))
    images = [{"id": n, "file_name": name, "width": 40, "height": 30} for n, name in zip(ids, file_names, strict=True)]
    annotations = [
        {"id": 10 * n + label, "image_id": n, "category_id": label, "bbox": [5, 5, 10 + label, 10]}
        for n in ids
        for label in (1, 2)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write(path: Path, file_names: Sequence[str] = ("a.png",), **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = content(file_names, **changes)
    path.write_text(json.dumps({key: value for key, value in whole.items() if value != "absent"}))
    return path


# --- Layouts ---


@pytest.mark.parametrize(
    ("layout", "splits", "path", "images"),
    [
        ("coco", ("train", "val"), "annotations/instances_{}.json", "{}"),
        ("coco", ("train", "val"), "annotations/instances_{}.json", "."),
        ("coco", ("train", "val"), "annotations/instances_{}.json", "images"),
        ("coco", ("train2017", "val2017"), "annotations/instances_{}.json", "{}"),
        ("cvat", ("train", "val"), "annotations/instances_{}.json", "images/{}"),
        ("roboflow-coco", ("train", "valid"), "{}/_annotations.coco.json", "{}"),
        ("roboflow-coco", ("train", "val"), "{}/_annotations.coco.json", "{}"),
    ],
)
def test_a_tool_s_folders_are_recognised_and_its_splits_found(
    tmp_path: Path, layout: str, splits: tuple[str, str], path: str, images: str
) -> None:
    for split in splits:
        write(tmp_path / path.format(split), [f"{split}.png"])
        write_pixels(tmp_path / images.format(split) / f"{split}.png")
    source = find_source(tmp_path)
    assert (source.layout.name, source.train_split, source.val_split) == (layout, *splits)
    assert source.split_names() == splits
    assert source.class_names() == NAMES
    for split in splits:
        (sample,) = source.load(split, NAMES).samples
        assert (sample.path.name, len(sample.ground_truth)) == (f"{split}.png", 2)
    assert source.load(None, NAMES).name == f"{layout} {source.val_split}"


@pytest.mark.parametrize(
    ("layout", "path", "images", "file_names"),
    [
        ("cvat", "annotations/instances_default.json", "images/default", ["{}.png"]),
        ("label-studio", "result.json", "images", ["images/{}.png", "images\\{}.png", "../images/{}.png"]),
        ("coco", "annotations/instances_mine.json", "mine", ["{}.png", "mine/{}.png", "..\\mine\\{}.png"]),
    ],
)
def test_an_only_split_is_evaluated_and_split_by_a_share(
    tmp_path: Path, layout: str, path: str, images: str, file_names: list[str]
) -> None:
    write(tmp_path / path, [file_names[number % len(file_names)].format(number) for number in range(9)])
    for number in range(9):
        write_pixels(tmp_path / images / f"{number}.png")
    source = find_source(tmp_path)
    assert source.layout.name == layout
    assert len(source.load(None, NAMES).samples) == 9
    with pytest.raises(DatasetError, match="val_share|hold out a part"):
        source.train_split  # noqa: B018
    shared = find_source(tmp_path, val_share=0.3)
    assert shared.class_names() == NAMES
    parts = [{sample.image_id for sample in shared.load(split, NAMES).samples} for split in (shared.train_split, "val")]
    assert sorted(map(int, parts[0] | parts[1])) == list(range(1, 10)) and not parts[0] & parts[1] and all(parts)


def test_files_and_folders_anywhere_are_named_by_hand(tmp_path: Path) -> None:
    train, val = write(tmp_path / "x" / "t.json", ["a.png", "b.png"]), write(tmp_path / "y.json", ["c.png"])
    for name in ("p/a.png", "p/b.png", "q/c.png"):
        write_pixels(tmp_path / name)
    alone = find_source(None, annotations=train, images=tmp_path / "p")
    assert (alone.layout.title, len(alone.load(None, NAMES).samples)) == ("COCO file", 2)
    both = find_source(None, annotations=train, images=tmp_path / "p", val_annotations=val, val_images=tmp_path / "q")
    assert (both.train_split, both.val_split, both.class_names()) == ("train", "val", NAMES)
    assert [len(both.load(split, NAMES).samples) for split in ("train", "val")] == [2, 1]
    with pytest.raises(DatasetError, match=r"split test2017 does not apply to named annotation files \(train, val\)"):
        both.load("test2017", NAMES)
    shared = find_source(None, annotations=train, images=tmp_path / "p", val_share=0.5)
    assert [len(shared.load(split, NAMES).samples) for split in (shared.train_split, "val")] == [1, 1]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"annotations": "a.json"}, "name a file and a folder, together"),
        ({"images": "p"}, "name a file and a folder, together"),
        ({"data": "voc", "annotations": "a.json", "images": "p"}, "without a data set beside them"),
        ({"val_annotations": "a.json"}, "name a file and a folder, together"),
    ],
)
def test_half_of_what_is_named_by_hand_is_refused(named: dict[str, str], message: str) -> None:
    values = {key: Path(value) if key != "data" else value for key, value in named.items()}
    with pytest.raises(DatasetError, match=message):
        find_source(**{"data": None, **values})  # type: ignore[arg-type]


def test_a_folder_of_images_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json")
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        find_source(None, annotations=path, images=tmp_path / "nowhere").load(None, NAMES)


# --- Names of files ---


@pytest.mark.parametrize("name", ["a.png", "val/a.png", "..\\val\\a.png", "sub/a b.png", "sub\\a b.png", "é.png"])
def test_images_are_found_by_names_with_folders(tmp_path: Path, name: str) -> None:
    for image in ("a", "sub/a b", "é"):
        write_pixels(tmp_path / "val" / f"{image}.png")
    write(tmp_path / "annotations" / "instances_val.json", [name])
    assert find_source(tmp_path).load(None, NAMES).samples[0].path.is_file()


@pytest.mark.parametrize("layout", ["coco", "roboflow-coco", "label-studio", "coco-file"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../elsewhere/a.png", "the name leads out"),
        ("..\\..\\..\\elsewhere\\a.png", "the name leads out"),
        ("{root}/val/a.png", "the name is absolute"),
        ("C:\\pictures\\a.png", "the name is absolute"),
        ("", "the name is empty"),
        ("a\0.png", "zero byte"),
        (".", "there is no such file"),
        ("gone.png", "there is no such file"),
    ],
)
def test_a_name_that_leads_out_or_nowhere_is_refused_in_every_layout(
    tmp_path: Path, layout: str, name: str, problem: str
) -> None:
    root = tmp_path / "data"
    write_pixels(tmp_path / "elsewhere" / "a.png")
    write_pixels(tmp_path.parent / "elsewhere" / "a.png")
    write_pixels(root / "val" / "a.png")
    write_pixels(root / "images" / "a.png")
    file = {
        "coco": "annotations/instances_val.json",
        "roboflow-coco": "val/_annotations.coco.json",
        "label-studio": "result.json",
        "coco-file": "a.json",
    }[layout]
    path = write(root / file, [name.format(root=root)])
    by_hand = layout == "coco-file"
    source = find_source(None, annotations=path, images=root / "val") if by_hand else find_source(root)
    assert source.layout.name == layout
    with pytest.raises(DatasetError, match=problem):
        source.load(None, NAMES)


# --- Entries ---


@pytest.mark.parametrize("ids", [(5, 3, 4), (5.0, 3, 4), ("b", "a", "c"), (0, -1, 7), ("5", "3", "04")])
def test_ids_are_numbers_or_text_and_images_come_in_their_order(tmp_path: Path, ids: tuple[Any, ...]) -> None:
    names = ["x.png", "y.png", "z.png"]
    images = [{"id": number, "file_name": name} for number, name in zip(ids, names, strict=True)]
    annotations = [{"image_id": ids[0], "category_id": 1, "bbox": [1, 1, 5, 5]}]
    write(tmp_path / "annotations" / "instances_val.json", names, images=images, annotations=annotations)
    for name in names:
        write_pixels(tmp_path / "val" / name)
    samples = find_source(tmp_path).load(None, NAMES).samples
    assert [sample.image_id for sample in samples] == sorted(
        int(each) if isinstance(each, float) else each for each in ids
    )
    assert {sample.path.name: len(sample.ground_truth) for sample in samples} == {"x.png": 1, "y.png": 0, "z.png": 0}


def test_a_number_and_its_text_are_one_id(tmp_path: Path) -> None:
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": [1, 1, 5, 5]}
        for n, (image, category) in enumerate([("1", 1), (1.0, "1"), (1, 2.0)])
    ]
    write(tmp_path / "annotations" / "instances_val.json", annotations=annotations)
    write_pixels(tmp_path / "val" / "a.png")
    assert find_source(tmp_path).load(None, NAMES).samples[0].ground_truth.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("flag", "is_crowd"),
    [
        (0, False), (1, True), (None, False), ("0", False), ("1", True), (True, True), ("true", True), ("", False),
        ([], False), ({}, False),
    ],
)  # fmt: skip
def test_the_flag_of_crowds_is_read_in_whatever_form(tmp_path: Path, flag: Any, is_crowd: bool) -> None:
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": ["1", 1, "5.5", 5], "iscrowd": flag}]
    write(tmp_path / "annotations" / "instances_val.json", annotations=annotations)
    write_pixels(tmp_path / "val" / "a.png")
    truth = find_source(tmp_path).load(None, NAMES).samples[0].ground_truth
    assert truth.is_crowd.tolist() == [is_crowd]
    assert truth.boxes.tolist() == [[1, 1, 6.5, 6]]


@pytest.mark.parametrize("size", [{}, {"width": None, "height": None}, {"width": 0, "height": 0}, {"width": "x"}])
def test_sizes_that_are_missing_come_from_the_images(tmp_path: Path, size: dict[str, Any]) -> None:
    images = [{"id": 1, "file_name": "a.png", **size}]
    write(tmp_path / "annotations" / "instances_val.json", images=images)
    write_pixels(tmp_path / "val" / "a.png")
    dataset = find_source(tmp_path).load(None, NAMES)
    assert dataset.samples[0].image_size == (30, 40)
    assert dataset.notes == ("took the size of 1 images from their files, since the annotation has none: a.png",)
    (tmp_path / "val" / "a.png").write_bytes(b"no image")
    with pytest.raises(ImageError):
        find_source(tmp_path).load(None, NAMES)
    findings = Findings(is_complete=True)
    assert find_source(tmp_path).load(None, NAMES, findings=findings).samples == ()
    assert [finding.place for finding in findings.found() if finding.rule == "stop"][0] == "a.png"


def test_annotations_that_belong_to_nothing_listed_are_left_out_with_a_note(tmp_path: Path) -> None:
    extra = [
        {"id": 90, "image_id": 77, "category_id": 1, "bbox": [1, 1, 5, 5]},
        {"image_id": None, "category_id": 1, "bbox": []},
        {"id": 92, "image_id": 1, "category_id": 8, "bbox": [1, 1, 5, 5]},
        {"id": 93, "image_id": 1, "category_id": None, "bbox": [1, 1, 5, 5]},
    ]
    annotations = content(["a.png"])["annotations"] + extra
    write(tmp_path / "annotations" / "instances_val.json", annotations=annotations)
    write_pixels(tmp_path / "val" / "a.png")
    dataset = find_source(tmp_path).load(None, NAMES)
    assert len(dataset.samples[0].ground_truth) == 2
    assert dataset.notes == (
        "left out 2 objects of categories that are not listed: annotation 92 of image a.png (category 8), "
        "annotation 93 of image a.png (category None)",
        "left out 2 annotations of images that the annotation file does not list: annotation 90, annotations[3]",
    )


@pytest.mark.parametrize("first", [0, 9])
def test_of_two_categories_of_one_name_the_one_with_objects_is_meant(tmp_path: Path, first: int) -> None:
    # Roboflow's own category is called like the project.
    categories = [{"id": first, "name": "cat", "supercategory": "none"}, *content(["a.png"])["categories"]]
    write(tmp_path / "train" / "_annotations.coco.json", categories=categories)
    write(tmp_path / "valid" / "_annotations.coco.json", categories=categories)
    for split in ("train", "valid"):
        write_pixels(tmp_path / split / "a.png")
    source = find_source(tmp_path)
    assert source.class_names() == NAMES
    dataset = source.load(None, NAMES)
    assert (dataset.category_ids, dataset.samples[0].ground_truth.labels.tolist()) == ((1, 2), [0, 1])
    assert dataset.notes == ("left out 1 categories without objects that repeat a name: cat",)


def test_a_category_that_no_annotation_uses_is_noted_whether_the_detector_has_it_or_not(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "things"}, *content(["a.png"])["categories"]]
    write(tmp_path / "annotations" / "instances_val.json", categories=categories)
    write_pixels(tmp_path / "val" / "a.png")
    source = find_source(tmp_path, train_split="val")
    assert source.class_names() == ("things", *NAMES)
    for class_names in (NAMES, ("things", *NAMES)):
        assert source.load("val", class_names).notes == ("no objects of these classes: things",)


def test_names_keep_their_letters_and_lose_the_spaces_around(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": " traffic light "}, {"id": 2, "name": 7}]
    write(tmp_path / "annotations" / "instances_val.json", categories=categories)
    write_pixels(tmp_path / "val" / "a.png")
    source = find_source(tmp_path, train_split="val")
    assert source.class_names() == ("traffic light", "7")
    assert source.load("val", source.class_names()).samples[0].ground_truth.labels.tolist() == [0, 1]


# --- Lists of images ---


@pytest.mark.parametrize("annotations", ["absent", None])
@pytest.mark.parametrize("categories", [[{"id": 4, "name": "cat"}, {"id": 2, "name": "dog"}], "absent", None])
@pytest.mark.parametrize("file", ["instances_test-dev2017.json", "image_info_test-dev2017.json"])
def test_a_list_of_images_without_annotations_has_no_score(
    tmp_path: Path, annotations: Any, categories: Any, file: str
) -> None:
    write(tmp_path / "annotations" / file, annotations=annotations, categories=categories)
    write_pixels(tmp_path / "test2017" / "a.png")
    dataset = find_source(tmp_path).load("test-dev2017", NAMES)
    assert not dataset.is_annotated and dataset.notes == ()
    assert dataset.samples[0].path == tmp_path / "test2017" / "a.png"
    assert dataset.category_ids == ((4, 2) if isinstance(categories, list) else (1, 2))
