"""Training boxes by GluonCV's rules (spec 7.4)."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ssd_train.datasets.source import DataSource, find_source
from ssd_train.errors import DatasetError, SSDDeployError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import network_config
from ssd_train.training.config import TrainingConfig
from ssd_train.training.prepare import (
    fitted_batch_size,
    least_batch_size,
    load_training_samples,
    prepare,
    schedule_warnings,
)
from ssd_train.training.processes import Processes

CLASSES = ("cat", "dog")
HEIGHT, WIDTH = 30, 40

# A class name and xmin, ymin, xmax, ymax as the XML has them, and whether it is difficult.
XMLObject = tuple[str, Sequence[float], bool]


def write_voc(root: Path, objects: Sequence[Sequence[XMLObject]], split: str = "trainval") -> DataSource:
    """A VOC folder with a picture for each list of objects."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(objects):
        cv2.imwrite(str(root / "JPEGImages" / f"{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        text = f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        for name, box, is_difficult in rows:
            corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
            bndbox = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
            flag = f"<difficult>{int(is_difficult)}</difficult>"
            text += f"<object><name>{name}</name>{flag}<bndbox>{bndbox}</bndbox></object>"
        (root / "Annotations" / f"{number}.xml").write_text(text + "</annotation>")
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in range(len(objects))))
    return find_source("voc", root, train_split=split, val_split=split)


def write_coco(root: Path, annotations: Sequence[dict[str, Any]], split: str = "train2017") -> DataSource:
    """A COCO folder with images 1 to 3; categories out of order and with a gap."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    images = []
    for number in (1, 2, 3):
        cv2.imwrite(str(root / split / f"{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        images.append({"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT})
    content = {
        "images": images,
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": number, "iscrowd": 0, **row} for number, row in enumerate(annotations)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return find_source("coco", root, train_split=split, val_split=split)


# --- VOC ---


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((5, 6, 20, 25), [4, 5, 19, 24]),
        # Fractions are kept.
        ((5.5, 6, 20.25, 25), [4.5, 5, 19.25, 24]),
        # The whole picture as VOC counts it, and what reaches over its edges.
        ((1, 1, 40, 30), [0, 0, 39, 29]),
        ((1, 1, 41, 31), [0, 0, 39, 29]),
        ((0, 1, 40, 30), [0, 0, 39, 29]),
        ((0, 0, 43.4, 90), [0, 0, 39, 29]),
        ((39, 29, 40, 30), [38, 28, 39, 29]),
        ((-5, 4, 8, 9.5), [0, 3, 7, 8.5]),
        # Outside, or less than a pixel of it inside.
        ((41, 1, 42, 30), None),
        ((1, -8, 40, 0), None),
        ((-8, 1, 1, 30), None),
        ((40.5, 1, 60, 30), None),
        # Without an area.
        ((5, 6, 5, 25), None),
        ((5, 6, 20, 6), None),
    ],
)
def test_voc_boxes_are_the_written_numbers_less_one_clipped_to_the_last_pixel(
    tmp_path: Path, written: tuple[float, ...], expected: list[float] | None
) -> None:
    other: XMLObject = ("dog", (2, 2, 9, 9), False)
    source = write_voc(tmp_path, [[("cat", written, False), other]])
    samples, notes = load_training_samples(source, CLASSES)
    truth = samples[0].ground_truth
    assert truth.boxes.tolist() == ([expected] if expected else []) + [[1, 1, 8, 8]]
    assert truth.labels.tolist() == ([0] if expected else []) + [1]
    assert any("left out 1 objects" in note for note in notes) == (expected is None)


def test_difficult_objects_are_objects_like_others(tmp_path: Path) -> None:
    source = write_voc(tmp_path, [[("Dog ", (2, 2, 9, 9), True), ("cat", (3, 3, 9, 9), False)]])
    truth = load_training_samples(source, CLASSES)[0][0].ground_truth
    assert truth.labels.tolist() == [1, 0]
    assert truth.is_difficult.tolist() == [True, False]


def test_voc_images_without_an_object_are_left_out_and_counted(tmp_path: Path) -> None:
    outside: XMLObject = ("cat", (41, 1, 49, 9), False)
    source = write_voc(tmp_path, [[], [("cat", (2, 2, 9, 9), False)], [outside], [("dog", (2, 2, 9, 9), True)]])
    samples, notes = load_training_samples(source, CLASSES)
    assert [sample.image_id for sample in samples] == ["1", "3"]
    assert "left out 1 images without objects, which negatives would let train as background" in notes
    assert "left out 1 images of which every object is left out" in notes
    assert "left out 1 objects that lie wholly outside their image: 2.xml" in notes


def test_as_negatives_images_without_an_object_are_kept_but_not_those_whose_objects_are_left_out(
    tmp_path: Path,
) -> None:
    outside: XMLObject = ("cat", (41, 1, 49, 9), False)
    source = write_voc(tmp_path, [[], [("cat", (2, 2, 9, 9), False)], [outside], [("dog", (2, 2, 9, 9), True)], []])
    samples, notes = load_training_samples(source, CLASSES, negatives=True)
    assert [(sample.image_id, len(sample.ground_truth)) for sample in samples] == [
        ("0", 0), ("1", 1), ("3", 1), ("4", 0),
    ]  # fmt: skip
    assert "2 of 4 images have no objects and train as negatives" in notes
    assert "left out 1 images of which every object is left out" in notes
    assert not any("without objects" in note for note in notes)


def test_images_of_other_classes_alone_are_negatives(tmp_path: Path) -> None:
    source = write_voc(tmp_path, [[("cat", (2, 2, 9, 9), False)], [("dog", (2, 2, 9, 9), False)]])
    samples, _ = load_training_samples(source, ("cat",), negatives=True)
    assert [(sample.image_id, len(sample.ground_truth)) for sample in samples] == [("0", 1), ("1", 0)]


@pytest.mark.parametrize("negatives", [False, True])
@pytest.mark.parametrize("rows", [[], [("cat", (41, 1, 49, 9), False)]])
def test_a_split_without_any_object_is_refused(tmp_path: Path, rows: list[XMLObject], negatives: bool) -> None:
    with pytest.raises(DatasetError, match="none of its 1 images has an object to learn"):
        load_training_samples(write_voc(tmp_path, [rows]), CLASSES, negatives=negatives)


def test_validation_keeps_the_boxes_of_every_evaluation_and_empty_images(tmp_path: Path) -> None:
    source = write_voc(tmp_path, [[], [("cat", (5, 6, 20, 25), False)]])
    dataset = source.load(source.val_split, CLASSES)
    assert [len(sample.ground_truth) for sample in dataset.samples] == [0, 1]
    assert dataset.samples[1].ground_truth.boxes.tolist() == [[4, 5, 20, 25]]


def test_a_validation_without_the_classes_of_the_training_is_noted_and_no_fault(tmp_path: Path) -> None:
    write_voc(tmp_path, [[("horse", (2, 2, 9, 9), False)]], split="val")
    for name in ("Annotations", "JPEGImages"):
        for path in (tmp_path / name).iterdir():
            path.rename(path.with_stem("v"))
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("v")
    write_voc(tmp_path, [[("cat", (2, 2, 9, 9), False)]] * 2, split="train")
    (tmp_path / "classes.txt").write_text("cat\n")
    config = TrainingConfig(
        network="ssd_300_mobilenet0.25_custom",
        dataset=str(tmp_path),
        out=tmp_path / "run",
        classes=tmp_path / "classes.txt",
        batch_size=2,
        workers=0,
    )
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    prepared = prepare(config, processes, with_weights=False, with_check=False)
    assert not prepared.is_scored
    assert [len(sample.ground_truth) for sample in prepared.validation.samples] == [0]
    assert "validation: left out 1 objects of classes that the detector does not know: horse" in prepared.notes


# --- COCO ---


def coco_object(box: Sequence[float], **others: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 2, "bbox": list(box), "area": 50.0, **others}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        # x, y, w, h: the far edge is one pixel nearer.
        ((5, 6, 10, 12), [5, 6, 14, 17]),
        ((5.5, 6.25, 10.5, 12), [5.5, 6.25, 15, 17.25]),
        ((0, 0, 40, 30), [0, 0, 39, 29]),
        # Clipped to the last pixel.
        ((-5, -6, 100, 100), [0, 0, 39, 29]),
        ((30, 20, 20, 20), [30, 20, 39, 29]),
        # Up to a pixel of width or height nothing is left, and nothing outside of the picture.
        ((5, 6, 1, 12), None),
        ((5, 6, 0.5, 12), None),
        ((5, 6, 10, 1), None),
        ((39, 6, 10, 12), None),
        ((50, 6, 10, 12), None),
        ((-10, 6, 10.5, 12), None),
    ],
)
def test_coco_boxes_end_a_pixel_earlier_and_in_the_last_pixel(
    tmp_path: Path, written: tuple[float, ...], expected: list[float] | None
) -> None:
    source = write_coco(tmp_path, [coco_object(written), coco_object((1, 1, 9, 9), category_id=9)])
    samples, notes = load_training_samples(source, CLASSES)
    truth = samples[0].ground_truth
    assert truth.boxes.tolist() == ([expected] if expected else []) + [[1, 1, 9, 9]]
    assert truth.labels.tolist() == ([0] if expected else []) + [1]
    assert any("left out 1 objects" in note for note in notes) == (expected is None)


@pytest.mark.parametrize(
    ("others", "is_kept"),
    [({}, True), ({"iscrowd": 1}, True), ({"ignore": 0}, True), ({"ignore": 1}, False), ({"area": 0}, True)],
)
def test_crowds_and_areas_of_zero_are_learnt_and_ignored_objects_are_not(
    tmp_path: Path, others: dict[str, Any], is_kept: bool
) -> None:
    source = write_coco(tmp_path, [coco_object((5, 6, 10, 12), **others), coco_object((1, 1, 9, 9))])
    samples, _ = load_training_samples(source, CLASSES)
    assert len(samples[0].ground_truth) == 1 + is_kept
    assert samples[0].ground_truth.is_crowd.tolist() == ([bool(others.get("iscrowd"))] if is_kept else []) + [False]


def test_coco_images_without_an_object_are_left_out_and_the_rest_comes_by_id(tmp_path: Path) -> None:
    rows = [coco_object((5, 6, 10, 12), image_id=number, **others) for number, others in ((3, {}), (2, {"ignore": 1}))]
    samples, notes = load_training_samples(write_coco(tmp_path, [*rows, coco_object((1, 1, 9, 9))]), CLASSES)
    assert [sample.image_id for sample in samples] == [1, 3]
    assert "left out 1 images of which every object is left out" in notes


# --- Batches and schedules ---


def config_of(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"network": "a_network", "dataset": "voc", "out": Path("run"), **values})


def fitted(images: int, asked: int, processes: int, least: int, *, shrink: bool = False) -> int:
    these = Processes(rank=0, count=processes, device=torch.device("cpu"))
    return fitted_batch_size(config_of(batch_size=asked, shrink_batch=shrink), images, these, least=least)


@pytest.mark.parametrize(
    ("images", "asked", "processes", "least", "message"),
    [
        (5, 6, 1, 2, "5 training images do not fill a batch of 6; use a batch_size of 2 to 5"),
        (5, 3, 2, 2, "5 training images do not fill a batch of 6; use a batch_size of 2"),
        (5, 1, 1, 2, "a_network has batch norms, which need 2 images a step; use a batch_size of 2 to 5"),
        (2, 1, 1, 2, "a_network has batch norms, which need 2 images a step; use a batch_size of 2"),
        (1, 2, 1, 1, "1 training images do not fill a batch of 2; use a batch_size of 1"),
        (1, 1, 1, 2, "1 training images are too few for a_network, which needs 2 in a step; add images, or choose"),
        (1, 32, 1, 2, "1 training images are too few for a_network, which needs 2 in a step; add images, or choose"),
        (
            3,
            32,
            2,
            2,
            "3 training images are too few for a_network, which needs 2 in a step on each of 2 processes; add",
        ),
    ],
)
@pytest.mark.parametrize("least_is_tried", [True, False])
def test_a_refused_batch_size_leads_to_one_that_is_taken(
    images: int, asked: int, processes: int, least: int, message: str, least_is_tried: bool
) -> None:
    with pytest.raises(SSDDeployError) as caught:
        fitted(images, asked, processes, least)
    assert str(caught.value).startswith(message)
    sizes = re.findall(r"\d+", str(caught.value).partition("use a batch_size of ")[2])
    if sizes:
        size = int(sizes[0 if least_is_tried else -1])
        assert fitted(images, size, processes, least) == size
    else:
        # No size would do, and none is named.
        for size in range(1, 40):
            with pytest.raises(SSDDeployError, match="too few"):
                fitted(images, size, processes, least, shrink=True)


def test_a_batch_that_may_shrink_is_what_the_images_fill() -> None:
    assert [fitted(images, 4, 1, 2, shrink=True) for images in (2, 3, 4, 9)] == [2, 3, 4, 4]
    assert fitted(7, 4, 2, 2, shrink=True) == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"epochs": 160},
            "lr_decay_epoch 160,200 lies beyond the last of 160 epochs, so the learning rate never falls",
        ),
        ({"epochs": 200}, "lr_decay_epoch 200 lies beyond the last of 200 epochs, so it never falls there"),
        ({"epochs": 201}, None),
        ({"epochs": 20, "lr_mode": "cos"}, None),
        ({"epochs": 20, "lr_decay_epoch": ()}, None),
        ({"epochs": 20, "lr_decay_epoch": (12, 19)}, None),
    ],
)
def test_decays_that_never_come_are_a_warning(values: dict[str, Any], words: str | None) -> None:
    warnings = schedule_warnings(config_of(**values))
    assert len(warnings) == (words is not None) and all(warning.startswith(words or "") for warning in warnings)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("ssd_300_vgg16_atrous_custom", 1), ("mb1-ssd", 1), ("vgg16-ssd", 1), ("ssd_300_mobilenet0.25_custom", 2),
        ("mb2-ssd-lite", 2), ("ssdlite320_mobilenet_v3_large", 2),
    ],
)  # fmt: skip
def test_added_levels_with_batch_norms_need_two_images(name: str, least: int) -> None:
    with torch.device("meta"):
        network = build_ssd(network_config(name, ["a"])).train()
        assert least_batch_size(network) == least
        images = torch.empty(least, 3, *network.config.input_size)
        # As many are enough, and with batch norms one image less is not: PyTorch itself says so.
        network(images)
        if least == 2:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                network(images[:1])
