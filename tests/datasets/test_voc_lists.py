"""Image lists of Pascal VOC folders as people and tools write them, and folders that have none."""

import unicodedata
from pathlib import Path

import pytest
from small_voc import CLASSES, object_xml, write_image, write_list, write_pixels, write_xml

from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError

CAT = object_xml("cat", 5, 6, 20, 25)
DOG = object_xml("Dog", 5, 6, 20, 25)


def load(root: Path, split: str | None = "val", *, training: bool = False) -> Dataset:
    return find_source("voc", root).load(split, CLASSES, training=training)


def ids(dataset: Dataset) -> list[int | str]:
    return [sample.image_id for sample in dataset.samples]


def with_images(root: Path, *names: str) -> Path:
    for name in names:
        write_image(root, name, CAT)
    return root


@pytest.mark.parametrize(
    ("images", "line", "image_id"),
    [
        (["photo", "photo 1"], "photo 1", "photo 1"),
        (["photo", "photo 0"], "photo 0", "photo 0"),
        (["photo", "photo -1"], "photo -1", "photo -1"),
        (["photo", "photo 1"], "photo 1 1", "photo 1"),
        (["photo", "photo 1"], "photo 1 -1", "photo 1"),
        (["photo", "photo 1"], "photo 1.jpg", "photo 1"),
        (["photo", "photo 1"], "photo 1.jpg 1", "photo 1"),
        # No such image: the number is a column.
        (["photo"], "photo 1", "photo"),
        (["photo"], "photo\t-1", "photo"),
        (["photo"], "photo    0", "photo"),
        (["photo 2"], "photo 2", "photo 2"),
        (["photo"], "  photo \t ", "photo"),
        (["photo"], "./photo", "photo"),
        (["photo"], "JPEGImages/photo.jpg", "photo"),
        (["photo"], "photo.JPG", "photo"),
        (["photo"], "photo.png", "photo"),  # converted since
        (["photo.v1.2"], "photo.v1.2", "photo.v1.2"),
        (["photo.v1.2", "photo.v1"], "photo.v1.2.jpg", "photo.v1.2"),
        (["cam 1/photo"], "cam 1/photo", "cam 1/photo"),
        (["cam 1/photo"], "cam 1\\photo.jpg", "cam 1/photo"),
        (["cam 1/photo"], ".\\cam 1\\photo 1", "cam 1/photo"),
        (["a\\b"], "a\\b", "a\\b"),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_a_line_names_one_image(tmp_path: Path, images: list[str], line: str, image_id: str, training: bool) -> None:
    with_images(tmp_path, *images)
    write_list(tmp_path, "val", f"{line}\n")
    dataset = load(tmp_path, training=training)
    assert ids(dataset) == [image_id]
    assert dataset.samples[0].path == tmp_path / "JPEGImages" / f"{image_id}.jpg"
    assert len(dataset.samples[0].ground_truth) == 1


def test_a_line_with_a_suffix_is_the_image_with_that_suffix(tmp_path: Path) -> None:
    with_images(tmp_path, "a")
    write_pixels(tmp_path / "JPEGImages" / "a.png")
    for line, name in (("a.png", "a.png"), ("a.jpg", "a.jpg"), ("a", "a.jpg")):
        write_list(tmp_path, "val", line)
        assert load(tmp_path).samples[0].path.name == name


@pytest.mark.parametrize("line", ["photo 2", "photo  x", "../JPEGImages/photo", "/etc/passwd", "photo.txt", "phot"])
def test_a_line_without_image_is_refused_with_its_list(tmp_path: Path, line: str) -> None:
    with_images(tmp_path, "photo")
    write_list(tmp_path, "val", line)
    with pytest.raises(DatasetError, match=r"no such image in .*JPEGImages, but .*val\.txt lists it"):
        load(tmp_path)


def test_accents_may_be_written_in_either_way(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café é") for form in ("NFC", "NFD"))
    write_pixels(tmp_path / "JPEGImages" / f"{apart}.jpg")
    write_xml(tmp_path / "Annotations" / f"{composed}.xml", CAT)
    for name in (composed, apart):
        write_list(tmp_path, "val", name)
        assert [len(sample.ground_truth) for sample in load(tmp_path).samples] == [1]


def test_a_list_of_another_system_is_read(tmp_path: Path) -> None:
    with_images(tmp_path, "a", "b")
    write_list(tmp_path, "val", "\ufeffb  1\r\n\r\n \t\r\na -1\r\n")
    assert ids(load(tmp_path)) == ["b", "a"]


def test_hidden_and_foreign_files_are_nobody_s_business(tmp_path: Path) -> None:
    with_images(tmp_path, "a")
    write_list(tmp_path, "val", "a")
    write_list(tmp_path, "._val", "\x00\x05")
    (tmp_path / "Annotations" / "._a.xml").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "Annotations" / "notes.txt").write_text("x")
    (tmp_path / "Annotations" / "other.xml").write_text("<html>")
    (tmp_path / "JPEGImages" / "._a.jpg").write_bytes(b"\x00\x05\x16\x07")
    write_pixels(tmp_path / "JPEGImages" / ".thumbs" / "a.jpg")
    (tmp_path / "JPEGImages" / "Thumbs.db").write_bytes(b"x")
    source = find_source(tmp_path)
    assert source.split_names() == ("val",)
    assert find_source(tmp_path, val_share=0.5).class_names() == ("cat",)
    assert ids(source.load("val", CLASSES)) == ["a"]
    (tmp_path / "ImageSets" / "Main" / "val.txt").unlink()
    assert ids(find_source(tmp_path).load(None, CLASSES)) == ["a"]


def test_suffixes_in_capitals_are_found_for_annotations_too(tmp_path: Path) -> None:
    write_pixels(tmp_path / "JPEGImages" / "a.JPG")
    write_xml(tmp_path / "Annotations" / "a.XML", CAT)
    write_list(tmp_path, "val", "a")
    assert [len(sample.ground_truth) for sample in load(tmp_path).samples] == [1]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    with_images(tmp_path / "store", "a")
    (tmp_path / "data").mkdir()
    for name in ("JPEGImages", "Annotations"):
        (tmp_path / "data" / name).mkdir()
        (tmp_path / "data" / name / "cam").symlink_to(tmp_path / "store" / name)
        (tmp_path / "data" / name / "again").symlink_to(tmp_path / "data" / name)
    write_list(tmp_path / "data", "val", "cam/a")
    assert ids(load(tmp_path / "data")) == ["cam/a"]


# --- An image named twice ---


def test_an_image_listed_twice_counts_twice_in_a_training_and_is_refused_in_an_evaluation(tmp_path: Path) -> None:
    with_images(tmp_path, "a", "b")
    write_list(tmp_path, "val", "a\nb\na.jpg\n./a 1\n")
    dataset = load(tmp_path, training=True)
    assert ids(dataset) == ["a", "b", "a", "a"]
    assert "took 3 images as often as the list names them: a (3)" in dataset.notes
    with pytest.raises(DatasetError, match="voc val: image a is listed twice"):
        load(tmp_path)


def test_two_lists_with_an_image_in_common_count_it_twice(tmp_path: Path) -> None:
    with_images(tmp_path, "a", "b")
    write_list(tmp_path, "one", "a\nb")
    write_list(tmp_path, "two", "a")
    assert ids(load(tmp_path, "one,two", training=True)) == ["a", "b", "a"]
    with pytest.raises(DatasetError, match="listed twice"):
        load(tmp_path, "one,two")


# --- Lists of each class ---


def test_lists_of_classes_as_vott_writes_them_are_the_split_together(tmp_path: Path) -> None:
    with_images(tmp_path, "a", "b", "photo", "photo 1")
    write_list(tmp_path, "cat_train", "a.jpg 1\nb.jpg -1\n")
    write_list(tmp_path, "dog_train", "a.jpg -1\nb.jpg 1\n")
    write_list(tmp_path, "cat_val", "photo.jpg 1\nphoto 1.jpg -1\n")
    write_list(tmp_path, "dog_val", "photo.jpg -1\nphoto 1.jpg 1\n")
    source = find_source(tmp_path)
    assert source.split_names() == ("train", "val")
    assert (source.train_split, source.val_split) == ("train", "val")
    assert ids(source.load("train", CLASSES)) == ["a", "b"]
    assert ids(source.load(None, CLASSES)) == ["photo", "photo 1"]


def test_cvat_s_only_list_is_evaluated_and_split_by_a_share(tmp_path: Path) -> None:
    with_images(tmp_path, *"abcdef")
    write_list(tmp_path, "default", "\n".join("abcdef"))
    write_list(tmp_path, "cat_default", "a  1\nb -1\n")
    source = find_source(tmp_path)
    assert source.split_names() == ("default",)
    assert len(source.load(None, CLASSES).samples) == 6
    with pytest.raises(DatasetError, match="has no list trainval or train, only default; .*val_share"):
        source.train_split  # noqa: B018
    shared = find_source(tmp_path, val_share=0.4)
    assert shared.class_names() == ("cat",)
    train, val = (ids(shared.load(split, CLASSES)) for split in (shared.train_split, shared.val_split))
    assert sorted([*train, *val]) == list("abcdef") and train and val


# --- Folders without lists ---


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
@pytest.mark.parametrize("images", ["JPEGImages", "images"])
def test_without_lists_all_annotated_images_are_evaluated(tmp_path: Path, inside: str, images: str) -> None:
    for name in ("b", "sub/a"):
        write_pixels(tmp_path / inside / images / f"{name}.png")
        write_xml(tmp_path / inside / "Annotations" / f"{name}.xml", CAT)
    write_pixels(tmp_path / inside / images / "not annotated.png")
    dataset = find_source(tmp_path).load(None, CLASSES)
    assert dataset.name == "voc all"
    assert sorted(map(str, ids(dataset))) == ["b", "sub/a"]


def test_year_folders_without_lists_are_evaluated_and_split_by_a_share(tmp_path: Path) -> None:
    for year in ("2007", "2012"):
        for number in range(4):
            write_image(tmp_path / "VOCdevkit" / f"VOC{year}", f"cam/{year}_{number}", CAT)
    source = find_source(tmp_path)
    assert source.split_names() == ("2007_all", "2012_all")
    assert len(source.load(None, CLASSES).samples) == 8
    with pytest.raises(DatasetError, match="has no lists of images .*val_share"):
        source.train_split  # noqa: B018
    shared = find_source(tmp_path, val_share=0.3)
    assert shared.class_names() == ("cat",)
    counts = [len(shared.load(split, CLASSES).samples) for split in (shared.train_split, "val")]
    assert sum(counts) == 8 and all(counts)


@pytest.mark.parametrize("training", [False, True])
def test_sub_folders_of_a_year_work_in_training_and_evaluation(tmp_path: Path, training: bool) -> None:
    folder = tmp_path / "VOC2007"
    write_image(folder, "cam 1/a", CAT)
    write_image(folder, "cam 2/a", DOG)
    write_list(folder, "test", "cam 2/a\ncam 1\\a.jpg\n")
    dataset = load(tmp_path, "2007_test", training=training)
    assert ids(dataset) == ["cam 2/a", "cam 1/a"]
    assert [sample.ground_truth.labels.tolist() for sample in dataset.samples] == [[1], [0]]


# --- Images without annotations ---


def test_a_list_without_any_annotation_is_a_test_set_without_answers(tmp_path: Path) -> None:
    with_images(tmp_path, "a")
    for name in ("t1", "sub/t2"):
        write_pixels(tmp_path / "JPEGImages" / f"{name}.jpg")
    write_list(tmp_path, "train", "a")
    write_list(tmp_path, "test", "t1\nsub/t2")
    dataset = load(tmp_path, "test")
    assert not dataset.is_annotated
    assert [sample.image_size for sample in dataset.samples] == [(30, 40)] * 2
    assert dataset.notes == ()


def test_an_unannotated_list_beside_an_annotated_one_is_no_list_of_empty_images(tmp_path: Path) -> None:
    with_images(tmp_path, "a")
    write_pixels(tmp_path / "JPEGImages" / "t.jpg")
    write_list(tmp_path, "train", "a")
    write_list(tmp_path, "test", "t")
    for split in ("train,test", "test,train"):
        with pytest.raises(DatasetError, match=r"t\.xml: no such annotation, but .*test\.txt lists its image"):
            load(tmp_path, split)


# --- All faults of a folder ---


def test_a_complete_reading_lists_every_fault_and_goes_on(tmp_path: Path) -> None:
    with_images(tmp_path, "a", "b")
    write_image(tmp_path, "nameless", "<object/>", CAT)
    write_image(tmp_path, "boxless", "<object><name>cat</name></object>")
    write_image(tmp_path, "broken", size="")
    (tmp_path / "JPEGImages" / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "Annotations" / "b.xml").write_text("<annotation>")
    write_list(tmp_path, "val", "a\nb\nnot there\nnameless\nboxless\nbroken\na\n")
    findings = Findings(is_complete=True)
    dataset = find_source(tmp_path).load("val", CLASSES, findings=findings)
    assert ids(dataset) == ["a", "b", "nameless", "boxless"]
    stops = {finding.place: finding.message for finding in findings.found() if finding.rule == "stop"}
    assert list(stops) == ["not there", "b.xml", "nameless.xml", "boxless.xml", "broken.jpg", "a"]
    with pytest.raises(DatasetError, match="not there"):
        load(tmp_path)
