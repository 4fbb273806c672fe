"""What a user calls a data set -> its layout, folder, splits and classes."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ssd_train.datasets.annotations import AnnotatedImage, Annotations
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.layouts import LAYOUTS, Layout
from ssd_train.datasets.source import DataSource, find_source
from ssd_train.errors import DatasetError
from ssd_train.metrics.table import METRICS


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def splits(source: DataSource) -> tuple[str, str]:
    return source.train_split, source.val_split


def annotate(root: Path, *class_names: str) -> Path:
    """Write an image and its VOC annotation that holds one object of each class."""
    number = len(list(root.glob("Annotations/*.xml")))
    touch(root, f"JPEGImages/{number}.jpg", f"Annotations/{number}.xml")
    objects = "".join(f"<object><name>{name}</name></object>" for name in class_names)
    (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


# --- Which layout, and where ---


def test_a_layout_s_name_stands_for_the_published_splits_in_its_usual_folder() -> None:
    home = Path.home() / ".torch" / "datasets"
    voc, coco = find_source("voc"), find_source("coco")
    assert (voc.layout.name, voc.root, splits(voc)) == (
        "voc", home / "voc", ("2007_trainval,2012_trainval", "2007_test"),
    )  # fmt: skip
    assert (coco.layout.name, coco.root, splits(coco)) == ("coco", home / "coco", ("train2017", "val2017"))


def test_the_folder_and_the_splits_that_are_named_are_taken(tmp_path: Path) -> None:
    touch(tmp_path, "VOC2007/ImageSets/Main/trainval.txt")
    voc = find_source("voc", tmp_path)
    assert (voc.layout.name, voc.root, splits(voc)) == ("voc", tmp_path, ("2007_trainval,2012_trainval", "2007_test"))
    assert splits(find_source("voc", tmp_path, train_split="2007_train", val_split="2007_val")) == (
        "2007_train", "2007_val",
    )  # fmt: skip
    # A name is believed, whatever the folder looks like.
    assert splits(find_source("coco", tmp_path, train_split="a", val_split="b")) == ("a", "b")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (["JPEGImages/a.jpg"], "voc"),
        (["Annotations/a.xml"], "voc"),
        (["ImageSets/Main/train.txt"], "voc"),
        (["VOC2012/JPEGImages/a.jpg"], "voc"),
        (["VOCdevkit/VOC2007/JPEGImages/a.jpg"], "voc"),
        (["VOCdevkit/JPEGImages/a.jpg"], "voc"),
        (["annotations/instances_val2017.json"], "coco"),
        (["annotations/instances_train_blood.json", "train_blood/a.jpg"], "coco"),
    ],
)
def test_a_folder_s_layout_is_told_by_its_content(tmp_path: Path, files: list[str], name: str) -> None:
    for data in (tmp_path, str(tmp_path)):
        source = find_source(data if isinstance(data, str) else touch(data, *files))
        assert (source.layout.name, source.root) == (name, tmp_path)


@pytest.mark.parametrize("files", [[], ["a.jpg", "notes.txt"], ["annotations/a.json"], ["labels/a.txt"]])
def test_a_folder_without_a_data_set_is_refused_with_what_was_looked_for(tmp_path: Path, files: list[str]) -> None:
    touch(tmp_path, *files)
    with pytest.raises(DatasetError) as caught:
        find_source(tmp_path)
    for word in (str(tmp_path), "JPEGImages", "VOC2007", "VOCdevkit", "annotations/instances_*.json", "data.yaml"):
        assert word in str(caught.value)


def test_a_folder_in_two_layouts_is_refused_until_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/a.jpg", "annotations/instances_val.json")
    with pytest.raises(DatasetError, match="looks like voc and coco"):
        find_source(tmp_path)
    assert find_source("coco", tmp_path).val_split == "val"


def test_what_is_neither_a_layout_nor_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="kitti: neither voc nor coco nor .*, and no such folder"):
        find_source("kitti")
    with pytest.raises(DatasetError, match="'kitti' does not exist; choose voc, coco"):
        find_source("kitti", tmp_path).load(None, ("thing",))
    with pytest.raises(DatasetError, match="no data set is named"):
        find_source(None)
    with pytest.raises(DatasetError, match="is a folder, so the folder .* does not apply") as caught:
        find_source(str(tmp_path), tmp_path)
    assert caught.value.arguments == ("data", "data_root")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    for split in (None, "some", "2007_test", "x" * 400):
        with pytest.raises(DatasetError, match=r"nowhere: no such folder") as caught:
            find_source(name, tmp_path / "nowhere").load(split, ("thing",))
        assert caught.value.arguments == ("data", "data_root")


@pytest.mark.parametrize("split", ["x" * 400, "a\0b"])
@pytest.mark.parametrize("files", [["ImageSets/Main/val.txt"], ["annotations/instances_val.json"]])
def test_a_split_that_no_file_can_be_called_is_one_that_is_not_there(
    tmp_path: Path, files: list[str], split: str
) -> None:
    with pytest.raises(DatasetError, match="choose another split|not JSON"):
        find_source(touch(tmp_path, *files)).load(split, ("thing",))


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_and_classes_of_a_missing_folder_are_no_accident(tmp_path: Path, name: str) -> None:
    source = find_source(name, tmp_path / "nowhere")
    for ask in (lambda: source.train_split, lambda: source.val_split, source.class_names):
        try:
            assert ask()  # those of the published trainings
        except DatasetError as error:
            assert "nowhere" in str(error)


# --- Splits that nobody named ---


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
@pytest.mark.parametrize(
    ("lists", "train_split", "val_split"),
    [
        (["train", "val"], "train", "val"),
        (["train", "test"], "train", "test"),
        (["trainval", "test"], "trainval", "test"),
        (["train", "val", "trainval", "test"], "train", "val"),
        (["train", "trainval", "test"], "trainval", "test"),
        (["trainval", "val"], "trainval", "val"),
        (["train", "val", "extra_train"], "train", "val"),
        (["cat_train", "cat_val", "dog_train", "dog_val"], "train", "val"),
    ],
)
def test_a_voc_folder_of_one_s_own_is_split_by_the_lists_it_has(
    tmp_path: Path, inside: str, lists: list[str], train_split: str, val_split: str
) -> None:
    (tmp_path / inside / "ImageSets" / "Main").mkdir(parents=True)
    touch(tmp_path / inside, *(f"ImageSets/Main/{name}.txt" for name in lists))
    source = find_source(tmp_path)
    assert (source.layout.name, splits(source)) == ("voc", (train_split, val_split))
    assert splits(find_source(tmp_path, train_split="a", val_split="b")) == ("a", "b")


def test_lists_that_are_neither_for_training_nor_for_validation_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "ImageSets/Main/train.txt")
    with pytest.raises(DatasetError, match="has no list val or test, only train; .*val_share") as caught:
        find_source(tmp_path).val_split  # noqa: B018
    assert caught.value.arguments == ("val_split", "val_share")
    touch(tmp_path, "ImageSets/Main/extra.txt").joinpath("ImageSets/Main/train.txt").unlink()
    with pytest.raises(DatasetError, match="has no list trainval or train, only extra"):
        find_source(tmp_path).train_split  # noqa: B018


@pytest.mark.parametrize("files", [["Annotations/a.xml"], ["ImageSets/.keep"], ["VOC2007/Annotations/a.xml"]])
def test_a_voc_folder_without_lists_asks_for_a_share(tmp_path: Path, files: list[str]) -> None:
    source = find_source(touch(tmp_path, *files))
    for ask in (lambda: source.train_split, lambda: source.val_split):
        with pytest.raises(DatasetError, match="has no lists of images .* val_share 0.1") as caught:
            ask()
        assert caught.value.arguments == ("val_share",)
    assert find_source(tmp_path, val_share=0.1).val_split == "val"
    with pytest.raises(DatasetError, match=r"val_share 0.1 makes a validation part .* named too \(mine\)"):
        find_source(tmp_path, val_share=0.1, val_split="mine")


@pytest.mark.parametrize(
    ("files", "train_split", "val_split"),
    [
        (["train", "val"], "train", "val"),
        (["train2017", "val2017"], "train2017", "val2017"),
        (["train_blood", "val_blood", "test"], "train_blood", "val_blood"),
        (["train2014", "train2017", "val2017"], "train2017", "val2017"),
    ],
)
def test_a_coco_folder_of_one_s_own_is_split_by_the_files_it_has(
    tmp_path: Path, files: list[str], train_split: str, val_split: str
) -> None:
    touch(tmp_path, *(f"annotations/instances_{name}.json" for name in files))
    source = find_source(tmp_path)
    assert (source.layout.name, splits(source)) == ("coco", (train_split, val_split))


def test_a_coco_folder_without_files_for_training_names_those_it_has(tmp_path: Path) -> None:
    source = find_source(touch(tmp_path, "annotations/instances_test.json"))
    with pytest.raises(DatasetError, match="no split is called train, only test") as caught:
        source.train_split  # noqa: B018
    assert caught.value.arguments == ("train_split", "val_share")
    assert find_source(tmp_path, val_share=0.5).train_split == "test"


def test_a_choice_that_is_open_must_be_made_by_name(tmp_path: Path) -> None:
    touch(tmp_path, *(f"annotations/instances_{name}.json" for name in ("train_a", "train_b", "val")))
    with pytest.raises(DatasetError, match=r"several files could be meant \(train_a, train_b\)") as caught:
        find_source(tmp_path).train_split  # noqa: B018
    assert caught.value.arguments == ("train_split",)
    # Who only evaluates is not asked.
    assert find_source(tmp_path).val_split == "val"
    assert find_source(tmp_path, train_split="train_b").train_split == "train_b"


def test_an_evaluation_takes_a_coco_folder_s_own_validation_split(tmp_path: Path) -> None:
    content = {"images": [], "categories": [{"id": 1, "name": "thing"}], "annotations": []}
    touch(tmp_path, "annotations/instances_val_blood.json").joinpath("annotations/instances_val_blood.json").write_text(
        json.dumps(content)
    )
    with pytest.raises(DatasetError, match="coco val_blood: there are no images in it"):
        find_source(tmp_path).load(None, ("thing",))


# --- Classes of a data set of one's own ---


def test_coco_classes_come_by_category_id(tmp_path: Path) -> None:
    touch(tmp_path, "annotations/instances_train.json")
    content = {"categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    assert find_source(tmp_path).class_names() == ("cat", "dog")


def test_voc_classes_come_by_alphabet_each_once_in_any_case(tmp_path: Path) -> None:
    annotate(tmp_path, "zebra", "Ant")
    annotate(tmp_path)
    annotate(tmp_path, " zebra ")
    annotate(tmp_path, "Zebra")
    assert find_source(tmp_path, val_share=0.5).class_names() == ("Ant", "zebra")
    # Whoever writes both into one picture means two.
    annotate(tmp_path, "ant", "Ant")
    assert find_source(tmp_path, val_share=0.5).class_names() == ("Ant", "ant", "zebra")


def test_voc_classes_of_year_folders_are_found(tmp_path: Path) -> None:
    annotate(tmp_path / "VOCdevkit" / "VOC2007", "cat")
    annotate(tmp_path / "VOCdevkit" / "VOC2012", "bird")
    assert find_source(tmp_path, val_share=0.5).class_names() == ("bird", "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the annotation file cannot be read"),
        ("{", "not JSON"),
        ("[]", "holds a JSON list, expected an object"),
        ('{"images": []}', "has no list of categories"),
        ('{"categories": [{"id": 1}]}', r"categories\[0\] is .*, expected an id and a name"),
        ('{"categories": 3}', "has no list of categories"),
    ],
)
def test_a_coco_file_without_categories_is_refused_by_name(tmp_path: Path, content: str | None, message: str) -> None:
    (tmp_path / "annotations").mkdir()
    if content is not None:
        (tmp_path / "annotations" / "instances_train.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"instances_train\.json: {message}"):
        find_source("coco", tmp_path, train_split="train").class_names()


def test_voc_annotations_that_name_no_class_or_are_damaged_are_refused(tmp_path: Path) -> None:
    source = find_source(annotate(tmp_path), val_share=0.5)
    with pytest.raises(DatasetError, match="its annotations name no class"):
        source.class_names()
    # What is wrong with a file is said by whoever reads its objects.
    (tmp_path / "Annotations" / "0.xml").write_text("<annotation>")
    with pytest.raises(DatasetError, match="its annotations name no class"):
        source.class_names()
    with pytest.raises(DatasetError, match=r"0\.xml: not readable XML"):
        source.load(None, ("thing",))


# --- The table ---


def test_every_layout_is_scored_by_a_metric_that_exists() -> None:
    assert {layout.metric for layout in LAYOUTS.values()} <= set(METRICS)
    assert {name for name, layout in LAYOUTS.items() if layout.val_interval > 1} == {"coco"}
    # pycocotools takes boxes as they are.
    assert {name for name, layout in LAYOUTS.items() if not layout.clips} == {
        "coco", "cvat", "roboflow-coco", "label-studio",
    }  # fmt: skip


def test_the_tables_import_neither_numpy_nor_what_a_row_calls() -> None:
    command = (
        "import sys, ssd_train.datasets.layouts, ssd_train.metrics.table;"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'cv2', 'faster_coco_eval')))"
    )
    assert subprocess.run([sys.executable, "-c", command]).returncode == 0


def test_one_more_layout_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(root: Path, split: str, findings: Findings) -> Annotations:
        image = AnnotatedImage(image_id=1, path=root / "a.png", image_size=(3, 4), objects=(), place="toy.txt")
        return Annotations(images=(image,))

    with pytest.raises(TypeError, match="recognise"):
        Layout(name="toy", title="Toy", looks_like="toy.txt", metric="voc", val_interval=1)  # type: ignore[call-arg]
    is_toy: Callable[[Path], bool] = lambda folder: (folder / "toy.txt").is_file()  # noqa: E731
    row = dataclasses.replace(LAYOUTS["voc"], name="toy", looks_like="toy.txt", recognise=is_toy, read=read)
    monkeypatch.setitem(LAYOUTS._rows, "toy", row)
    assert find_source(touch(tmp_path, "toy.txt")).layout is row
    assert find_source(tmp_path).load("some", ("thing",)).name == "toy some"
    with pytest.raises(DatasetError, match=r"toy: toy\.txt"):
        find_source(touch(tmp_path / "other", "notes.txt"))
