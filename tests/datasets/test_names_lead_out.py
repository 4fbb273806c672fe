"""No layout takes an image from outside of its folder, however an annotation writes the way there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_voc import object_xml, write_list, write_pixels, write_xml

from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import inside
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.datasets.source import DataSource, find_source
from ssd_train.errors import DatasetError

CAT = object_xml("cat", 5, 6, 20, 25)
YAML = "names: [cat]\ntrain: images\n"

# `{secret}` is a picture beside the data set's folder, which is there.
WAYS_OUT = (
    "{secret}",
    "../{name}",
    "../../{name}",
    "x/../../{name}",
    "./../{name}",
    "..//..//{name}",
    "..\\{name}",
    "..\\..\\{name}",
    "images\\..\\..\\{name}",
    "~/{name}",
    "file://{secret}",
    "file:{secret}",
    "//{secret}",
    "C:\\{name}",
    "C:{name}",
    "\\\\?\\C:\\{name}",
    "\\\\host\\{name}",
    "{secret}\0.png",
    "a.png\0",
    "%2e%2e/{name}",
    "$HOME/{name}",
)


def coco(name: str) -> str:
    """A COCO file of two images, of which the second is called so."""
    images = [
        {"id": number, "file_name": each, "width": 40, "height": 30} for number, each in enumerate(["a.png", name])
    ]
    boxes = [{"id": image, "image_id": image, "category_id": 1, "bbox": [1, 1, 9, 9]} for image in (0, 1)]
    return json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})


def files(**contents: str) -> Callable[[Path, str], None]:
    """Write files, with slashes for `__`, in which `NAME` stands for the name."""

    def write(root: Path, name: str) -> None:
        for path, content in contents.items():
            target = root / path.replace("__", "/").replace("_dot_", ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(coco(name) if content == "coco" else content.replace("NAME", name), encoding="utf-8")

    return write


def voc(root: Path, name: str) -> None:
    write_xml(root / "Annotations" / "a.xml", CAT)
    write_list(root, "val", f"a\n{name}\n")


def by_yaml(key: str, *, is_list: bool = False) -> Callable[[Path, str], None]:
    def write(root: Path, name: str) -> None:
        # The folder of the picture, in the place of the picture.
        named = name if is_list else name.replace("secret.png", "")
        quoted = json.dumps("list.txt" if is_list else named)
        (root / "data.yaml").write_text(f"names: [cat]\n{key}: {quoted}\n" + ("val: images\n" if key == "path" else ""))
        (root / "list.txt").write_text(f"images/a.png\n{name}\n")

    return write


# Layout -> what writes an annotation with that name. Their pictures are `a.png` in every usual folder.
WRITERS: dict[str, Callable[[Path, str], None]] = {
    "voc": voc,
    "coco": files(annotations__instances_val_dot_json="coco"),
    "cvat": files(annotations__instances_default_dot_json="coco"),
    "roboflow-coco": files(valid___annotations_dot_coco_dot_json="coco"),
    "label-studio": files(result_dot_json="coco"),
    "coco-file": files(other__a_dot_json="coco"),
    "yolo": by_yaml("val"),
    "yolo, a list": by_yaml("val", is_list=True),
}
FOLDERS = {
    "voc": ("JPEGImages",),
    "coco": ("val",),
    "cvat": ("images/default",),
    "roboflow-coco": ("valid",),
    "yolo": ("images",),
    "yolo, a list": ("images",),
}


def source_of(layout: str, root: Path) -> DataSource:
    if layout == "coco-file":
        return find_source(None, annotations=root / "other" / "a.json", images=root / "images")
    source = find_source(root)
    assert source.layout.name == layout.split(",")[0]
    return source


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture that is no business of the data set; it is in every place that a name could mean."""
    for folder in (tmp_path, tmp_path / "home", tmp_path / "data"):
        write_pixels(folder / "secret.png")
    return tmp_path / "data" / "secret.png"


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("layout", WRITERS)
def test_a_name_that_leads_out_is_refused(
    tmp_path: Path, secret: Path, monkeypatch: pytest.MonkeyPatch, layout: str, way: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "data" / "set"
    for folder in FOLDERS.get(layout, ("images",)):
        write_pixels(root / folder / "a.png")
    WRITERS[layout](root, way.format(secret=secret, name="secret.png"))
    source = source_of(layout, root)
    with pytest.raises(DatasetError) as raised:
        source.load(None, ("cat",))
    assert str(raised.value).count("\n") == 0
    findings = Findings(is_complete=True)
    found = [sample.path for sample in source.load(None, ("cat",), findings=findings, needs_match=False).samples]
    assert all(path.resolve().is_relative_to(root) for path in found)
    assert "stop" in [each.rule for each in findings.found()]


@pytest.mark.parametrize("layout", ["labelimg", "roboflow-voc", "voc"])
def test_what_xml_says_of_its_picture_s_place_is_not_followed(tmp_path: Path, secret: Path, layout: str) -> None:
    root = tmp_path / "data" / "set"
    folder = {"labelimg": root, "roboflow-voc": root / "train", "voc": root / "JPEGImages"}[layout]
    write_pixels(folder / "a.png")
    xml = root / "Annotations" / "a.xml" if layout == "voc" else folder / "a.xml"
    write_xml(xml, f"<folder>..</folder><filename>../secret.png</filename><path>{secret}</path>", CAT)
    source = find_source(root)
    assert source.layout.name == layout
    split = "train" if layout == "roboflow-voc" else None
    assert [sample.path for sample in source.load(split, ("cat",)).samples] == [folder / "a.png"]


def test_every_layout_is_tried() -> None:
    tried = {name.split(",")[0] for name in WRITERS} | {"labelimg", "roboflow-voc"}
    assert tried == {*LAYOUTS, "coco-file"}


def test_a_yaml_file_s_path_leads_nowhere_else(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "data" / "set"
    write_pixels(root / "images" / "a.png")
    for way in (str(tmp_path), "..", "../..", "~", "C:\\", "..\\"):
        by_yaml("path")(root, way)
        assert [sample.path for sample in find_source(root).load(None, ("cat",)).samples] == [root / "images" / "a.png"]


def test_a_path_on_another_drive_is_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def on_another_drive(path: object, start: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", on_another_drive)
    assert inside("D:\\x", tmp_path) is None
