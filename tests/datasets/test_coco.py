import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError
from ssd_train.networks.zoo import COCO_CLASSES, VOC_CLASSES

CLASSES = ("cat", "dog")


def small_coco() -> dict[str, Any]:
    """Three images out of order, one without objects; categories out of order and with a gap."""
    return {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.jpg", "width": 40, "height": 30} for image_id in (7, 3, 5)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1.5, 2, 10, 20], "area": 99.5, "iscrowd": 0},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [0, 0, 40, 30], "area": 600, "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 2, "bbox": [3, 4, 5, 6]},
        ],
    }


def write_coco(root: Path, content: Any, split: str = "val2017") -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    for image_id in (3, 5, 7):
        cv2.imwrite(str(root / split / f"{image_id}.jpg"), np.zeros((30, 40, 3), np.uint8))
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def test_samples_come_by_image_id_and_labels_by_rank_of_category_id(tmp_path: Path) -> None:
    dataset = find_source("coco", write_coco(tmp_path, small_coco())).load(None, CLASSES)
    assert dataset.name == "coco val2017"
    assert [sample.image_id for sample in dataset.samples] == [3, 5, 7]
    assert [len(sample.ground_truth) for sample in dataset.samples] == [1, 0, 2]
    assert dataset.category_ids == (2, 9)
    truth = dataset.samples[2].ground_truth
    assert truth.labels.tolist() == [1, 0]
    assert truth.boxes.tolist() == [[1.5, 2, 11.5, 22], [3, 4, 8, 10]]
    assert truth.areas.tolist() == [99.5, 30]  # the file's own, and the box's where it has none
    assert dataset.samples[0].ground_truth.is_crowd.tolist() == [True]
    assert dataset.samples[0].image_size == (30, 40)
    assert not truth.is_difficult.any()


def test_boxes_without_width_or_inside_out_count_in_an_evaluation_and_are_not_trained_on(tmp_path: Path) -> None:
    content = small_coco()
    content["annotations"][0]["bbox"] = [1, 2, 0, 20]
    content["annotations"][2]["bbox"] = [9, 9, -5, 6]
    source = find_source("coco", write_coco(tmp_path, content))
    truth = source.load(None, CLASSES).samples[2].ground_truth
    assert truth.boxes.tolist() == [[1, 2, 1, 22], [9, 9, 4, 15]]
    assert truth.areas.tolist() == [99.5, 0]
    training = source.load(None, CLASSES, training=True)
    assert [len(sample.ground_truth) for sample in training.samples] == [1, 0, 0]
    assert "left out 2 objects without width or height: 7.jpg (2)" in training.notes


def test_boxes_that_reach_outside_are_clipped_in_a_training_only(tmp_path: Path) -> None:
    content = small_coco()
    content["annotations"][0]["bbox"] = [-3, 2, 60, 20]
    content["annotations"][2]["bbox"] = [50, 2, 6, 20]
    source = find_source("coco", write_coco(tmp_path, content))
    dataset = source.load(None, CLASSES)
    assert dataset.samples[2].ground_truth.boxes.tolist() == [[-3, 2, 57, 22], [50, 2, 56, 22]]
    assert dataset.notes == ()
    training = source.load(None, CLASSES, training=True)
    assert training.samples[2].ground_truth.boxes.tolist() == [[0, 2, 40, 22]]
    assert training.notes == (
        "left out 1 objects that lie wholly outside their image: 7.jpg",
        "clipped 1 objects that reach outside their image: 7.jpg",
    )


def test_objects_marked_ignore_are_left_out_on_request_only(tmp_path: Path) -> None:
    content = small_coco()
    content["annotations"][0]["ignore"] = 1
    content["annotations"][1]["ignore"] = 0
    root = write_coco(tmp_path, content)
    counts = {
        skip: [
            len(sample.ground_truth) for sample in find_source("coco", root).load(None, CLASSES, training=skip).samples
        ]
        for skip in (False, True)
    }
    assert counts == {False: [1, 0, 2], True: [1, 0, 1]}
    kept = find_source("coco", root).load(None, CLASSES, training=True).samples[2].ground_truth
    assert kept.boxes.tolist() == [[3, 4, 8, 10]]
    # Evaluation scores them, as pycocotools does.
    assert [len(sample.ground_truth) for sample in find_source("coco", root).load(None, CLASSES).samples] == [1, 0, 2]


def test_a_class_that_is_no_category_has_no_objects_and_a_note(tmp_path: Path) -> None:
    dataset = find_source("coco", write_coco(tmp_path, small_coco())).load(None, ("cat", "cow"))
    assert [sample.ground_truth.labels.tolist() for sample in dataset.samples] == [[0], [], [0]]
    assert dataset.category_ids == (2, None)
    assert dataset.notes == (
        "left out 1 objects of classes that the detector does not know: dog",
        "the data lack these classes of the detector: cow",
    )


def test_a_detector_of_other_things_is_refused_with_both_lists(tmp_path: Path) -> None:
    source = find_source("coco", write_coco(tmp_path, small_coco()))
    with pytest.raises(DatasetError, match="its objects are of cat, dog, and the detector knows car; ") as caught:
        source.load(None, ("car",))
    assert caught.value.arguments == ("classes",)
    # A validation goes without a score.
    dataset = source.load(None, ("car",), needs_match=False)
    assert [len(sample.ground_truth) for sample in dataset.samples] == [0, 0, 0]


def test_categories_are_matched_by_name_and_not_by_rank(tmp_path: Path) -> None:
    root = write_coco(tmp_path, small_coco())
    straight, swapped = (
        find_source("coco", root).load(None, ("cat", "dog")),
        find_source("coco", root).load(None, ("dog", "cat")),
    )
    assert straight.category_ids == swapped.category_ids[::-1]
    for one, other in zip(straight.samples, swapped.samples, strict=True):
        np.testing.assert_array_equal(one.ground_truth.labels, 1 - other.ground_truth.labels)


def test_a_detector_that_knows_fewer_classes_is_scored_on_those_with_a_note(tmp_path: Path) -> None:
    root = write_coco(tmp_path, small_coco())
    full, cats = find_source("coco", root).load(None, ("cat", "dog")), find_source("coco", root).load(None, ("cat",))
    is_cat = [sample.ground_truth.labels == 0 for sample in full.samples]
    assert [len(sample.ground_truth) for sample in cats.samples] == [int(each.sum()) for each in is_cat]
    dogs = sum(int((~each).sum()) for each in is_cat)
    assert f"left out {dogs} objects of classes that the detector does not know: dog" in cats.notes


def test_a_category_belongs_to_the_class_of_its_own_name_alone(tmp_path: Path) -> None:
    content = small_coco()
    content["categories"].append({"id": 72, "name": "tv"})
    dataset = find_source("coco", write_coco(tmp_path, content)).load(None, ("tvmonitor", "cat", "tv"))
    assert dataset.category_ids == (None, 2, 72)


def test_a_voc_detector_finds_its_classes_under_cocos_names(real_data: Path) -> None:
    dataset = find_source("coco", real_data / "coco_tiny").load(None, VOC_CLASSES)
    coco_ids = {"aeroplane": 5, "bicycle": 2, "diningtable": 67, "motorbike": 4, "pottedplant": 64, "sofa": 63}
    for name, category_id in {**coco_ids, "tvmonitor": 72, "person": 1}.items():
        assert dataset.category_ids[VOC_CLASSES.index(name)] == category_id
    assert len(dataset.samples) == 48


def no_images(content: dict[str, Any]) -> None:
    content["images"], content["annotations"] = [], []


def repeated_image(content: dict[str, Any]) -> None:
    content["images"].append(content["images"][0])


def no_categories_key(content: dict[str, Any]) -> None:
    del content["categories"]


def no_name(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = None


def one_id_for_two(content: dict[str, Any]) -> None:
    content["categories"][0]["id"] = "2"


def one_name_for_two(content: dict[str, Any]) -> None:
    content["categories"][0]["name"] = "cat"


def no_file_name(content: dict[str, Any]) -> None:
    del content["images"][1]["file_name"]


def truth_for_an_id(content: dict[str, Any]) -> None:
    content["images"][1]["id"] = True


def list_of_lists(content: dict[str, Any]) -> None:
    content["annotations"][1] = [1, 2]


def polygon_alone(content: dict[str, Any]) -> None:
    content["annotations"][1].update(bbox=None, segmentation=[[1, 1, 5, 1, 5, 5]])


def box_in_words(content: dict[str, Any]) -> None:
    content["annotations"][1]["bbox"] = [1, 2, "wide", 4]


def box_beyond_all_floats(content: dict[str, Any]) -> None:
    content["annotations"][1]["bbox"] = [1, 2, 10**400, 4]


def box_without_id(content: dict[str, Any]) -> None:
    del content["annotations"][2]["id"]
    content["annotations"][2]["bbox"] = []


def short_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"] = [1, 2, 3]


def nan_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"][0] = float("nan")


def image_not_there(content: dict[str, Any]) -> None:
    content["images"][1]["file_name"] = "elsewhere.jpg"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_images, r"coco val2017: there are no images"),
        (repeated_image, r"instances_val2017\.json: two images have the same id"),
        (no_categories_key, r"instances_val2017\.json: has no 'categories'; a COCO instances file has"),
        (no_name, r"categories\[0\] is .*null.*, expected an id and a name"),
        (one_id_for_two, r"categories 'dog' and 'cat' have the same id 2"),
        (one_name_for_two, r"categories 2 and 9 are both called 'cat' and have objects"),
        (no_file_name, r"images\[1\] has id 3 and file_name null"),
        (truth_for_an_id, r"images\[1\] has id true and file_name \"3.jpg\""),
        (list_of_lists, r"does not have a list of objects as 'annotations'"),
        (short_box, r"instances_val2017\.json: annotation 1 of image 7\.jpg: bbox has 3 numbers"),
        (nan_box, r"instances_val2017\.json: annotation 1 of image 7\.jpg: bbox is \[NaN"),
        (polygon_alone, r"annotation 2 of image 3\.jpg: it has no bbox, only a polygon, expected x, y"),
        (box_in_words, r"annotation 2 of image 3\.jpg: bbox is \[1, 2, \"wide\", 4\]"),
        (box_beyond_all_floats, r"annotation 2 of image 3\.jpg: bbox is \[1, 2, 1000"),
        (box_without_id, r"annotations\[2\] of image 7\.jpg: bbox has 0 numbers"),
        (image_not_there, r"elsewhere\.jpg: there is no such file, but .*instances_val2017\.json lists this image"),
    ],
)
def test_damage_is_an_error_that_names_the_file(
    tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    content = small_coco()
    damage(content)
    with pytest.raises(DatasetError, match=message):
        find_source("coco", write_coco(tmp_path, content)).load(None, CLASSES)


def test_a_missing_or_broken_annotation_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"instances_test2017\.json: the annotation file cannot be read"):
        find_source("coco", tmp_path).load("test2017", CLASSES)
    write_coco(tmp_path, [])
    with pytest.raises(DatasetError, match="JSON list, expected an object"):
        find_source("coco", tmp_path).load(None, CLASSES)
    path = tmp_path / "annotations" / "instances_val2017.json"
    for text in (b"{", b"\xff\xfe\xfa"):
        path.write_bytes(text)
        with pytest.raises(DatasetError, match=r"instances_val2017\.json: not JSON"):
            find_source("coco", tmp_path).load(None, CLASSES)


def test_real_annotations_load_with_the_80_classes_of_the_networks(real_data: Path) -> None:
    dataset = find_source("coco", real_data / "coco_tiny").load(None, COCO_CLASSES)
    # Counted in the JSON file: 48 images, 592 annotations, 11 of them crowd.
    assert len(dataset.samples) == 48
    assert sum(len(sample.ground_truth) for sample in dataset.samples) == 592
    assert sum(int(sample.ground_truth.is_crowd.sum()) for sample in dataset.samples) == 11
    assert (dataset.category_ids[0], dataset.category_ids[11], dataset.category_ids[79]) == (1, 13, 90)
    sample = dataset.samples[0]
    assert sample.load_image().shape == (*sample.image_size, 3)
