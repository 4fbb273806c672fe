"""XML of Pascal VOC's kind without VOC's folders: Roboflow and LabelImg."""

from pathlib import Path

import pytest
from small_voc import CLASSES, object_xml, write_pixels, write_xml

from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError

CAT = object_xml("cat", 5, 6, 20, 25)
DOG = object_xml("dog", 5, 6, 20, 25)


def pair(folder: Path, name: str, *objects: str, xml_folder: Path | None = None, suffix: str = ".xml") -> None:
    write_pixels(folder / f"{name}.jpg")
    write_xml((xml_folder or folder) / f"{name}{suffix}", *(objects or (CAT,)))


@pytest.mark.parametrize("val", ["valid", "val", "validation"])
@pytest.mark.parametrize("suffix", [".xml", ".XML"])
def test_roboflow_s_folders_are_splits(tmp_path: Path, val: str, suffix: str) -> None:
    pair(tmp_path / "train", "a", CAT, DOG, suffix=suffix)
    pair(tmp_path / val, "b", suffix=suffix)
    source = find_source(tmp_path)
    assert (source.layout.name, source.train_split, source.val_split) == ("roboflow-voc", "train", val)
    assert source.class_names() == ("cat", "dog")
    assert [len(source.load(split, CLASSES).samples[0].ground_truth) for split in ("train", None)] == [2, 1]


def test_a_folder_of_a_split_without_xml_is_no_split(tmp_path: Path) -> None:
    pair(tmp_path / "train", "a")
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "._b.xml").write_bytes(b"\x00\x05")
    source = find_source(tmp_path)
    assert source.split_names() == ("train",)
    with pytest.raises(DatasetError, match="has no folder valid or val or validation, only train; .*hold out"):
        source.load(None, CLASSES)
    with pytest.raises(DatasetError, match=r"test: no such folder; choose another split \(train\)"):
        source.load("test", CLASSES)


@pytest.mark.parametrize(
    ("images", "annotations"),
    [
        ("", ""),
        ("pictures", "pictures"),
        ("images", "annotations"),
        ("images", "xml"),
        ("images/cam 1", "labels/cam 1"),
    ],
)
def test_labelimg_s_xml_lies_beside_the_images_or_in_a_folder_beside_theirs(
    tmp_path: Path, images: str, annotations: str
) -> None:
    for name in "abcdef":
        pair(tmp_path / images, name, xml_folder=tmp_path / annotations)
    write_pixels(tmp_path / images / "nobody looked.jpg")
    source = find_source(tmp_path)
    assert (source.layout.name, source.split_names()) == ("labelimg", ("all",))
    dataset = source.load(None, CLASSES)
    assert len(dataset.samples) == 6 and all(len(sample.ground_truth) == 1 for sample in dataset.samples)
    assert any(note.startswith("left out 1 images without annotation") for note in dataset.notes)
    with pytest.raises(DatasetError, match="has no lists of images .*val_share"):
        source.class_names()
    shared = find_source(tmp_path, val_share=0.4)
    assert shared.class_names() == ("cat",)
    parts = [{sample.path for sample in shared.load(split, CLASSES).samples} for split in (shared.train_split, "val")]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 6 and all(parts)


def test_hidden_and_foreign_files_are_nobody_s_business(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    (tmp_path / "._a.xml").write_bytes(b"\x00\x05\x16\x07")
    pair(tmp_path / ".trash", "b")
    (tmp_path / "predefined_classes.txt").write_text("cat")
    dataset = find_source(tmp_path).load(None, CLASSES)
    assert [sample.image_id for sample in dataset.samples] == ["a"]
    assert dataset.notes == ("no objects of these classes: Dog",)


def test_an_annotation_whose_image_is_gone_is_left_out_with_a_note(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    write_xml(tmp_path / "gone.xml", DOG)
    source = find_source(tmp_path, val_share=0.5)
    assert source.class_names() == ("cat",)
    assert "left out 1 annotations whose image is not there: gone.xml" in source.load("all", CLASSES).notes


def test_the_folder_and_path_in_an_annotation_are_those_of_another_machine(tmp_path: Path) -> None:
    write_pixels(tmp_path / "a.jpg")
    xml = f"<folder>C</folder><filename>z.png</filename><path>D:\\z\\z.png</path>{CAT}"
    write_xml(tmp_path / "a.xml", xml)
    assert find_source(tmp_path).load(None, CLASSES).samples[0].path == tmp_path / "a.jpg"


@pytest.mark.parametrize("class_names", [("cat",), ("CAT", "cow")])
def test_fewer_and_other_classes_leave_out_objects_with_a_count(tmp_path: Path, class_names: tuple[str, ...]) -> None:
    pair(tmp_path, "a", CAT, DOG, DOG)
    dataset = find_source(tmp_path).load(None, class_names)
    assert dataset.samples[0].ground_truth.labels.tolist() == [0]
    assert dataset.notes[0] == "left out 2 objects of classes that the detector does not know: dog (2)"
