"""COCO files as tools leave them: our numbers are those of pycocotools on the file and on the detections we write."""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_train.datasets.coco_results import write_results
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.metrics.coco_ap import NUMBER_NAMES, coco_average_precision

NAMES = ("cat", "dog", "cow")
SIZE = (240, 320)
Content = dict[str, Any]
# Of all objects, whatever their area.
WITHOUT_SIZES = tuple(name for name in NUMBER_NAMES if name[-1] not in "sml")


def random_content(seed: int = 0) -> Content:
    """Ten images with 0 to 8 objects of all three of COCO's sizes; ids in no order."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(number), "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]}
        for number in rng.permutation(range(3, 103, 10))
    ]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(0, 9)):
            width, height = rng.uniform(8, 150, 2).round(2).tolist()
            x, y = (rng.uniform(0, 1, 2) * (SIZE[1] - width, SIZE[0] - height)).round(2).tolist()
            annotations.append({
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": int(rng.choice([2, 9, 44])),
                "bbox": [x, y, width, height],
                "area": round(width * height * rng.uniform(0.4, 1), 2),
                "iscrowd": 0,
            })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in zip((9, 2, 44), NAMES, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def plain(content: Content) -> None:
    pass


def area_of_masks_missing(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]


def width_zero(content: Content) -> None:
    for annotation in content["annotations"][::5]:
        annotation["bbox"][2], annotation["area"] = 0, 0


def width_zero_but_area(content: Content) -> None:
    for annotation in content["annotations"][::4]:
        annotation["bbox"][2] = 0


def width_negative(content: Content) -> None:
    for annotation in content["annotations"][::5]:
        annotation["bbox"][2] *= -1


def orphans(content: Content) -> None:
    del content["images"][::2]


def unknown_category(content: Content) -> None:
    for annotation in content["annotations"][::6]:
        annotation["category_id"] = 5


def text_for_ids(content: Content) -> None:
    for entry in content["images"]:
        entry["id"] = f"frame_{entry['id']}"
    for entry in content["annotations"]:
        entry["image_id"] = f"frame_{entry['image_id']}"


def sticking_out(content: Content) -> None:
    for annotation in content["annotations"][::3]:
        annotation["bbox"][0] -= 60
        annotation["bbox"][3] += 90


def wholly_outside(content: Content) -> None:
    for annotation in content["annotations"][::7]:
        annotation["bbox"][0] = SIZE[1] + 5


def crowds(content: Content) -> None:
    for annotation in content["annotations"][::4]:
        annotation["iscrowd"] = 1


def ignored(content: Content) -> None:
    for annotation in content["annotations"][::4]:
        annotation["ignore"] = 1


def class_without_objects(content: Content) -> None:
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] != 44]


def class_not_listed(content: Content) -> None:
    class_without_objects(content)
    del content["categories"][2]


def class_not_listed_but_annotated(content: Content) -> None:
    del content["categories"][2]


def one_class_alone(content: Content) -> None:
    content["categories"] = content["categories"][:1]
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] == 9]


def class_of_the_project(content: Content) -> None:
    content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})


def one_image_alone(content: Content) -> None:
    counts = Counter(annotation["image_id"] for annotation in content["annotations"])
    content["images"] = [image for image in content["images"] if image["id"] == counts.most_common(1)[0][0]]


def polygons_and_no_sizes_of_images(content: Content) -> None:
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + width, y, x + width, y + height]]
    for image in content["images"]:
        del image["width"], image["height"]


KINDS = (
    plain, area_of_masks_missing, width_zero, width_zero_but_area, width_negative, orphans, unknown_category,
    text_for_ids, sticking_out, wholly_outside, crowds, ignored, class_without_objects, class_not_listed,
    class_not_listed_but_annotated, one_class_alone, class_of_the_project, one_image_alone,
    polygons_and_no_sizes_of_images,
)  # fmt: skip


def write(root: Path, content: Content) -> Path:
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    for image in content["images"]:
        cv2.imwrite(str(root / "val" / image["file_name"]), np.zeros((*SIZE, 3), np.uint8))
    path = root / "annotations" / "instances_val.json"
    path.write_text(json.dumps(content))
    return path


def load(path: Path) -> Dataset:
    return find_source(path.parents[1]).load("val", NAMES)


def random_detections(dataset: Dataset, seed: int = 1) -> list[Detections]:
    """Moved, relabelled, repeated and made-up objects with random scores, some of which are equal."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in dataset.samples:
        corners = np.sort(rng.uniform(0, 1, (12, 2, 2)) * SIZE[::-1], axis=1).reshape(-1, 4)
        boxes = np.concatenate([np.repeat(sample.ground_truth.boxes, 2, axis=0), corners])
        labels = np.concatenate([np.repeat(sample.ground_truth.labels, 2), rng.integers(0, len(NAMES), 12)])
        boxes = (boxes + rng.normal(0, 5, boxes.shape)).astype(np.float32)
        scores = np.sort(rng.integers(1, 60, len(boxes)).astype(np.float32) / 64)[::-1]
        order = rng.permutation(len(boxes))
        found.append(Detections(boxes[order], np.ascontiguousarray(scores), labels[order]))
    return found


def official(path: Path, results: Path) -> tuple[np.ndarray, dict[str, float]]:
    """pycocotools the usual way: its twelve numbers, and the AP of each category of the file."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluated = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    by_class = {}
    for index, category_id in enumerate(evaluated.params.catIds):
        precision = evaluated.eval["precision"][:, :, index, 0, -1]
        name = truth.cats[category_id]["name"]
        by_class[name] = float(precision[precision > -1].mean()) if (precision > -1).any() else float("nan")
    return np.where(evaluated.stats > -1, evaluated.stats, np.nan), by_class


def ours(dataset: Dataset, detections: list[Detections]) -> tuple[dict[str, float], dict[str, float]]:
    clipped = [found.clipped(sample.image_size) for sample, found in zip(dataset.samples, detections, strict=True)]
    scored = coco_average_precision([sample.ground_truth for sample in dataset.samples], clipped, NAMES)
    return scored.numbers, {name: values["AP"] for name, values in scored.per_class.items()}


@pytest.mark.parametrize("change", KINDS, ids=lambda change: change.__name__)
def test_every_number_is_that_of_pycocotools_on_the_file(tmp_path: Path, change: Callable[[Content], None]) -> None:
    content = random_content()
    change(content)
    path = write(tmp_path / "data", content)
    dataset = load(path)
    detections = random_detections(dataset)
    write_results(tmp_path / "found.json", dataset, detections)
    expected, expected_by_class = official(path, tmp_path / "found.json")
    numbers, by_class = ours(dataset, detections)
    assert tuple(numbers) == NUMBER_NAMES and numbers["AP"] > 0.02
    np.testing.assert_allclose(list(numbers.values()), expected, rtol=0, atol=1e-9)
    for name in NAMES:
        np.testing.assert_allclose(by_class[name], expected_by_class.get(name, np.nan), rtol=0, atol=1e-9)


def area_zero(annotation: dict[str, Any]) -> None:
    annotation["area"] = 0


def area_null(annotation: dict[str, Any]) -> None:
    annotation["area"] = None


def area_nan(annotation: dict[str, Any]) -> None:
    annotation["area"] = float("nan")


def area_in_words(annotation: dict[str, Any]) -> None:
    annotation["area"] = "unknown"


def no_area_no_crowd_flag(annotation: dict[str, Any]) -> None:
    del annotation["area"], annotation["iscrowd"]


def numbers_as_text(annotation: dict[str, Any]) -> None:
    annotation["bbox"] = [str(number) for number in annotation["bbox"]]
    annotation["area"], annotation["iscrowd"] = "0", "0"


def flag_null(annotation: dict[str, Any]) -> None:
    annotation["area"], annotation["iscrowd"] = False, None


def ids_as_numbers_with_a_point(annotation: dict[str, Any]) -> None:
    annotation["image_id"], annotation["area"] = float(annotation["image_id"]), []
    annotation["category_id"] = str(annotation["category_id"])


@pytest.mark.parametrize(
    "change",
    [
        area_zero, area_null, area_nan, area_in_words, no_area_no_crowd_flag, numbers_as_text, flag_null,
        ids_as_numbers_with_a_point,
    ],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_what_is_missing_or_odd_counts_like_the_file_in_which_it_is_written_out(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    content = random_content()
    area_of_masks_missing(content)
    whole = write(tmp_path / "whole", content)
    for annotation in content["annotations"]:
        change(annotation)
    dataset = load(write(tmp_path / "odd", content))
    detections = random_detections(dataset)
    write_results(tmp_path / "found.json", dataset, detections)
    expected, _ = official(whole, tmp_path / "found.json")
    np.testing.assert_allclose(list(ours(dataset, detections)[0].values()), expected, rtol=0, atol=1e-9)


def test_an_area_of_zero_changes_the_numbers_by_size_alone(tmp_path: Path) -> None:
    """pycocotools takes such objects for small; we take width times height, as the file has them otherwise."""
    content = random_content()
    for annotation in content["annotations"]:
        annotation["area"] = 0
    for annotation in content["annotations"][::5]:
        annotation["bbox"][2] *= -1
    path = write(tmp_path / "data", content)
    dataset = load(path)
    detections = random_detections(dataset)
    write_results(tmp_path / "found.json", dataset, detections)
    expected = dict(zip(NUMBER_NAMES, official(path, tmp_path / "found.json")[0], strict=True))
    numbers, _ = ours(dataset, detections)
    for name in WITHOUT_SIZES:
        assert numbers[name] == pytest.approx(expected[name], abs=1e-9)
    assert np.isnan(expected["APl"]) and numbers["APl"] > 0


def test_ids_in_the_results_are_those_of_the_file(tmp_path: Path) -> None:
    content = random_content()
    text_for_ids(content)
    dataset = load(write(tmp_path / "data", content))
    write_results(tmp_path / "found.json", dataset, random_detections(dataset))
    results = json.loads((tmp_path / "found.json").read_text())
    assert {row["image_id"] for row in results} == {image["id"] for image in content["images"]}
    assert {row["category_id"] for row in results} == {2, 9, 44}


def test_detections_of_a_class_that_the_file_lacks_are_not_written(tmp_path: Path) -> None:
    content = random_content()
    class_not_listed(content)
    dataset = load(write(tmp_path / "data", content))
    detections = random_detections(dataset)
    write_results(tmp_path / "found.json", dataset, detections)
    results = json.loads((tmp_path / "found.json").read_text())
    assert {row["category_id"] for row in results} == {2, 9}
    assert len(results) == sum(int((found.labels != 2).sum()) for found in detections)
    assert "the data lack these classes of the detector: cow" in dataset.notes
