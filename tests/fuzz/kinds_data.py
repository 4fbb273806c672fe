"""Annotations in every layout, lists of images and of classes."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import mutations
import numpy as np
from cases import Kind, Seed
from telling import tell

from ssd_deploy.check_text import check_lines
from ssd_train.class_list import read_class_list
from ssd_train.data_check.check import check_data
from ssd_train.datasets.coco_results import write_results
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.source import DataSource, find_source
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import score
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.zoo import network_config
from ssd_train.spec import DetectorSpec
from ssd_train.training.prepare import load_training_samples

NETWORK = "ssd_300_mobilenet0.25_custom"
SIZE = (30, 40)
PICTURE = cv2.imencode(".png", np.full((*SIZE, 3), 90, np.uint8))[1].tobytes()


def coco(names: Sequence[str]) -> bytes:
    """Two images with an object each, and a crowd with a polygon."""
    images = [{"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for n, name in enumerate(names)]
    boxes = ([5, 5, 20, 10], [1.5, 2.5, 30, 20])
    annotations = [
        {"id": n + 1, "image_id": n, "category_id": 1 + n % 2, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, box in zip(range(len(names)), boxes, strict=False)
    ]
    crowd = {"iscrowd": 1, "id": 9, "segmentation": {"counts": [5, 100, 5], "size": SIZE}}
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": "animal"}]
    content = {"images": images, "annotations": [*annotations, annotations[0] | crowd], "categories": categories}
    return json.dumps(content).encode()


XML = b"""<annotation><filename>a.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult><truncated>0</truncated>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>25.5</ymax></bndbox></object>
<object><name>dog</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"""
YAML = b"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
YOLO_LINES = b"0 0.5 0.5 0.2 0.3\n1 0.25 0.25 0.5 0.5\n1 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4\n"


def pictures(*paths: str) -> dict[str, bytes]:
    return dict.fromkeys(paths, PICTURE)


VOC = {
    **pictures("JPEGImages/a.png", "JPEGImages/b.png"),
    "Annotations/a.xml": XML,
    "Annotations/b.xml": XML,
    "ImageSets/Main/train.txt": b"a\nb\n",
    "ImageSets/Main/val.txt": b"b -1\na 1\n",
}
YOLO = {
    **pictures("images/train/a.png", "images/val/b.png"),
    "labels/train/a.txt": YOLO_LINES,
    "labels/val/b.txt": YOLO_LINES,
    "data.yaml": YAML,
}
YOLO_LISTED = {
    **pictures("images/a.png", "images/b.png"),
    "labels/a.txt": YOLO_LINES,
    "labels/b.txt": YOLO_LINES,
    "train.txt": b"images/a.png\nimages/b.png\n",
    "data.yml": b"train: train.txt\nval: train.txt\nnames: [cat, dog]\nkpt_shape: [17, 3]\n",
}
YOLO_BARE = {
    **pictures("images/a.png", "images/b.png"),
    "labels/a.txt": YOLO_LINES,
    "labels/b.txt": YOLO_LINES,
    "classes.txt": b"cat\ndog\n",
}
COCO = {
    **pictures("train2017/a.png", "train2017/b.png", "val2017/a.png", "val2017/b.png"),
    "annotations/instances_train2017.json": coco(["a.png", "b.png"]),
    "annotations/instances_val2017.json": coco(["a.png", "b.png"]),
}
CVAT = {
    **pictures("images/train/a.png", "images/train/x/b.png", "images/val/a.png"),
    "annotations/instances_train.json": coco(["a.png", "x/b.png"]),
    "annotations/instances_val.json": coco(["a.png"]),
}
ROBOFLOW_COCO = {
    **pictures("train/a.png", "train/b.png", "valid/a.png"),
    "train/_annotations.coco.json": coco(["a.png", "b.png"]),
    "valid/_annotations.coco.json": coco(["a.png"]),
}
ROBOFLOW_VOC = {
    **pictures("train/a.png", "valid/a.png"), "train/a.xml": XML, "valid/a.xml": XML
}  # fmt: skip
LABEL_STUDIO = {**pictures("images/a.png", "images/b.png"), "result.json": coco(["images/a.png", "images/b.png"])}
LABELIMG = {**pictures("a.png", "b.png"), "a.xml": XML, "b.xml": XML}


def seed(files: Mapping[str, bytes], target: str) -> Seed:
    return Seed(files=files, target=target)


def read_data(folder: Path, path: Path, out: Path) -> None:
    """Check a data set, read it for a training and for an evaluation, and score detections in it."""
    source = find_source(folder)
    try:
        source.val_split  # noqa: B018
    except DatasetError:  # as a user does who is told so
        source = dataclasses.replace(source, val_share=0.5)
    check = check_data(source, network=NETWORK, workers=1)
    tell("\n".join(check_lines(check, [], width=80)), check.to_dict(), out)
    names = source.class_names()
    network_config(NETWORK, names)
    dataset = source.load(None, names)
    score_it(source, dataset, out)
    load_training_samples(source, names, negatives=True)


def score_it(source: DataSource, dataset: Dataset, out: Path) -> None:
    spec = DetectorSpec(network="fake", class_names=dataset.class_names, input_size=SIZE)
    found = Detections(
        boxes=np.array([[4, 5, 20, 25], [0, 0, 40, 30]], np.float32),
        scores=np.array([0.9, 0.4], np.float32),
        labels=np.array([0, len(dataset.class_names) - 1], np.int64),
    )
    several = [found for _ in dataset.samples]
    report = score(dataset, several, spec, metric=source.layout.metric, protocol=Protocol("standard"))
    tell("\n".join(report.lines()), report.to_dict(), out)
    write_results(out / "results.json", dataset, several)


def read_coco_file(folder: Path, path: Path, out: Path) -> None:
    """As `--annotations`, `--images` and `--val-annotations` name it."""
    source = find_source(None, None, annotations=path, images=folder / "val2017", val_annotations=path)
    dataset = source.load(None, source.class_names())
    score_it(source, dataset, out)


def read_classes(folder: Path, path: Path, out: Path) -> None:
    network_config(NETWORK, read_class_list(path))


def data_kind(name: str, change: mutations.Change, *seeds: Seed, weight: float = 1.0) -> Kind:
    return Kind(name=name, seeds=lambda _: seeds, read=read_data, change=change, weight=weight)


ONLY_VAL = {name: content for name, content in COCO.items() if "train" not in name}
CLASSES = (b"cat\ndog\n\n bird \n", "\ufeffKatze\r\n犬\r\n".encode(), b"\n".join(b"class %d" % n for n in range(300)))
KINDS = (
    data_kind("coco", mutations.change_json, seed(COCO, "annotations/instances_train2017.json"), weight=1.5),
    Kind(
        name="coco-file",
        seeds=lambda _: [seed(ONLY_VAL, "annotations/instances_val2017.json")],
        read=read_coco_file,
        change=mutations.change_json,
    ),
    data_kind("cvat", mutations.change_json, seed(CVAT, "annotations/instances_train.json")),
    data_kind("roboflow-coco", mutations.change_json, seed(ROBOFLOW_COCO, "train/_annotations.coco.json"), weight=0.5),
    data_kind("label-studio", mutations.change_json, seed(LABEL_STUDIO, "result.json"), weight=0.5),
    data_kind(
        "voc-xml",
        mutations.change_xml,
        seed(VOC, "Annotations/a.xml"),
        seed(ROBOFLOW_VOC, "train/a.xml"),
        seed(LABELIMG, "a.xml"),
        weight=1.5,
    ),
    data_kind(
        "voc-lists",
        mutations.change_lines,
        seed(VOC, "ImageSets/Main/train.txt"),
        seed(VOC, "ImageSets/Main/val.txt"),
    ),
    data_kind(
        "yolo-labels",
        mutations.change_lines,
        seed(YOLO, "labels/train/a.txt"),
        seed(YOLO_LISTED, "labels/a.txt"),
        seed(YOLO_BARE, "labels/b.txt"),
    ),
    data_kind("yolo-yaml", mutations.change_yaml, seed(YOLO, "data.yaml"), seed(YOLO_LISTED, "data.yml"), weight=1.5),
    data_kind("yolo-lists", mutations.change_lines, seed(YOLO_LISTED, "train.txt"), seed(YOLO_BARE, "classes.txt")),
    Kind(
        name="class-list",
        seeds=lambda _: [seed({"classes.txt": content}, "classes.txt") for content in CLASSES],
        read=read_classes,
        change=mutations.change_lines,
    ),
)
