"""Detections read, chosen from and given to other programs; expected numbers are worked by hand."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.datasets.source import find_source
from ssd_train.detections import Detection, Detections
from ssd_train.draw import draw
from ssd_train.errors import ImageError, SpecError, SSDDeployError

CLASSES = ("cat", "dog", "wäscheklammer")


def three(**changes: object) -> Detections:
    """In an image of 200x100: a dog, a cat, and a cat that reaches outside to the left and below."""
    found = Detections(
        np.array([[10, 20, 60, 40], [0, 0, 8, 8], [-40, 50, 100, 130]], np.float32),
        np.array([0.75, 0.5, 0.25], np.float32),
        np.array([1, 0, 0], np.int64),
        CLASSES,
        (100, 200),
    )
    return dataclasses.replace(found, **changes)  # type: ignore[arg-type]


def test_one_detection_is_plain_values() -> None:
    assert three()[0] == Detection((10.0, 20.0, 60.0, 40.0), 0.75, 1, "dog", None)
    assert three()[-1].box == (-40, 50, 100, 130)
    assert three()[np.int64(1)].class_name == "cat"
    tracked = three(track_ids=np.array([4, -1, 9]))
    assert [each.track_id for each in tracked] == [4, -1, 9]
    box, score, label, name, _ = three()[0]
    assert {type(value) for value in (*box, score)} == {float} and type(label) is int and name == "dog"


def test_there_is_nothing_behind_the_last_one() -> None:
    with pytest.raises(IndexError):
        three()[3]
    assert len(list(three())) == 3
    assert list(Detections.empty()) == []


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        (slice(1, None), [0, 0]),
        (slice(None, None, -1), [0, 0, 1]),
        ([2, 0], [0, 1]),
        ([], []),
        (np.array([False, True, True]), [0, 0]),
        ([True, False, False], [1]),
        (np.array([1]), [0]),
    ],
)
def test_slices_masks_and_indices_give_detections(key: object, labels: list[int]) -> None:
    chosen = three(track_ids=np.array([4, 5, 6]))[key]  # type: ignore[call-overload]
    assert isinstance(chosen, Detections)
    assert (chosen.labels.tolist(), chosen.class_names, chosen.image_size) == (labels, CLASSES, (100, 200))
    assert len(chosen.track_ids) == len(labels)


def test_a_repr_is_short() -> None:
    assert repr(three()) == "Detections(3: dog 0.75, cat 0.50, cat 0.25)"
    assert repr(Detections.empty()) == "Detections(0)"
    many = three()[[0] * 100]
    assert repr(many) == "Detections(100: dog 0.75, dog 0.75, dog 0.75, dog 0.75, dog 0.75, 95 more)"
    assert repr(three(class_names=())) == "Detections(3: class 1 0.75, class 0 0.50, class 0 0.25)"


def test_names_are_those_of_each_detection() -> None:
    assert three().names == ["dog", "cat", "cat"]


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({}, [0, 1, 2]),
        ({"score_threshold": 0.5}, [0, 1]),
        ({"score_threshold": 0.500001}, [0]),
        ({"classes": "cat"}, [1, 2]),
        ({"classes": 1}, [0]),
        ({"classes": ["dog", 0]}, [0, 1, 2]),
        ({"classes": []}, []),
        ({"min_area": 1000}, [0, 2]),
        ({"classes": "cat", "min_area": 64, "score_threshold": 0.3}, [1]),
    ],
)
def test_filter_keeps_what_fulfils_everything(asked: dict[str, object], rows: list[int]) -> None:
    expected = [three()[row] for row in rows]
    assert list(three().filter(**asked)) == expected  # type: ignore[arg-type]


def test_a_score_is_compared_as_the_float32_that_it_is() -> None:
    found = three(scores=np.array([0.9, 0.3, 0.1], np.float32))
    assert len(found.filter(score_threshold=0.3)) == 2


def test_a_name_that_is_no_class_is_refused() -> None:
    with pytest.raises(SpecError, match="'dgo' is no class; there are cat, dog, wäscheklammer"):
        three().filter(classes=["dgo"])
    with pytest.raises(SpecError, match="'dog' is no class; there are labels alone"):
        three(class_names=()).filter(classes="dog")


def test_a_dict_has_what_a_json_file_takes_and_boxes_inside_the_image() -> None:
    content = three(track_ids=np.array([4, -1, 9])).to_dict()
    assert json.loads(json.dumps(content)) == {
        "height": 100,
        "width": 200,
        "detections": [
            {"box": [10, 20, 60, 40], "score": 0.75, "label": 1, "class_name": "dog", "track_id": 4},
            {"box": [0, 0, 8, 8], "score": 0.5, "label": 0, "class_name": "cat", "track_id": -1},
            {"box": [0, 50, 100, 100], "score": 0.25, "label": 0, "class_name": "cat", "track_id": 9},
        ],
    }
    unknown = three(image_size=None).to_dict()
    assert unknown["height"] is None and "track_id" not in unknown["detections"][0]
    assert unknown["detections"][2]["box"] == [-40, 50, 100, 130]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (None, [2, 1, 1]),
        ({"cat": 17, "dog": 18}, [18, 17, 17]),
        ({"dog": 18}, [18]),
        ((17, None, 3), [17, 17]),
    ],
)
def test_cocos_entries_have_corner_and_size(ids: object, expected: list[int]) -> None:
    entries = three().to_coco(42, ids)  # type: ignore[arg-type]
    assert [entry["category_id"] for entry in entries] == expected
    assert {entry["image_id"] for entry in entries} == {42}
    if ids is None:
        assert [entry["bbox"] for entry in entries] == [[10, 20, 50, 20], [0, 0, 8, 8], [0, 50, 100, 50]]
        assert json.loads(json.dumps(entries))[0]["score"] == 0.75


def test_yolos_lines_are_shares_of_the_image() -> None:
    assert three().to_yolo() == (
        "1 0.175000 0.300000 0.250000 0.200000 0.750000\n"
        "0 0.020000 0.040000 0.040000 0.080000 0.500000\n"
        "0 0.250000 0.750000 0.500000 0.500000 0.250000\n"
    )
    assert three()[:1].to_yolo(with_scores=False) == "1 0.175000 0.300000 0.250000 0.200000\n"
    assert three()[:0].to_yolo() == ""


def test_what_needs_the_images_size_says_so() -> None:
    unknown = three(image_size=None)
    for write in (unknown.to_yolo, lambda: unknown.to_voc("a.jpg")):
        with pytest.raises(SSDDeployError, match="image's size is not known"):
            write()


def test_yolos_labels_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "images" / "val" / "a.png"), np.zeros((100, 200, 3), np.uint8))
    (tmp_path / "labels" / "val" / "a.txt").write_text(three().to_yolo(with_scores=False))
    names = ", ".join(CLASSES)
    (tmp_path / "data.yaml").write_text(f"train: images/val\nval: images/val\nnames: [{names}]\n", encoding="utf-8")
    (sample,) = find_source(str(tmp_path), None).load("val", CLASSES).samples
    np.testing.assert_allclose(sample.ground_truth.boxes, three().clipped((100, 200)).boxes, atol=1e-3)
    assert sample.ground_truth.labels.tolist() == [1, 0, 0]


def test_a_voc_annotation_is_read_back(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "JPEGImages" / "a.jpg"), np.zeros((100, 200, 3), np.uint8))
    found = three(labels=np.array([1, 0, 2]))
    (tmp_path / "Annotations" / "a.xml").write_text(found.to_voc("a.jpg"), encoding="utf-8")
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    (sample,) = find_source("voc", tmp_path).load("val", CLASSES).samples
    assert sample.image_size == (100, 200)
    assert sample.ground_truth.boxes.tolist() == [[10, 20, 60, 40], [0, 0, 8, 8], [0, 50, 100, 100]]
    assert sample.ground_truth.labels.tolist() == [1, 0, 2]


def test_a_voc_annotation_counts_from_one_and_stays_inside() -> None:
    boxes = np.array([[0, 0, 200, 100], [2.4, 2.6, 4.5, 5], [500, 500, 501, 501]], np.float32)
    lines = three(boxes=boxes).to_voc("a&b")
    numbers = [line.strip() for line in lines.splitlines() if "<x" in line or "<y" in line]
    assert numbers == [
        *("<xmin>1</xmin>", "<ymin>1</ymin>", "<xmax>200</xmax>", "<ymax>100</ymax>"),
        *("<xmin>3</xmin>", "<ymin>4</ymin>", "<xmax>4</xmax>", "<ymax>5</ymax>"),
        *("<xmin>200</xmin>", "<ymin>100</ymin>", "<xmax>200</xmax>", "<ymax>100</ymax>"),
    ]
    assert "<filename>a&amp;b</filename>" in lines


def test_supervision_gets_the_same_numbers() -> None:
    pytest.importorskip("supervision", reason="the extra supervision is not installed")
    given = three(track_ids=np.array([4, 5, 6])).to_supervision()
    np.testing.assert_array_equal(given.xyxy, three().boxes)
    np.testing.assert_array_equal(given.confidence, three().scores)
    np.testing.assert_array_equal(given.class_id, three().labels)
    assert given.tracker_id.tolist() == [4, 5, 6]
    assert given.data["class_name"].tolist() == ["dog", "cat", "cat"]
    # Its own filtering works on them, and an empty one is one.
    assert given[given.confidence > 0.3].class_id.tolist() == [1, 0]
    assert len(Detections.empty().to_supervision()) == 0


def test_without_supervision_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SSDDeployError, match=r"pip install 'ssd-deploy\[supervision\]'"):
        three().to_supervision()


def test_draw_gives_a_picture_in_the_order_of_its_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), dtype=np.uint8)
    before = image.copy()
    drawn = three().draw(image)
    np.testing.assert_array_equal(drawn, draw(image, three(), CLASSES))
    np.testing.assert_array_equal(three().draw(image[:, :, ::-1], color="bgr"), drawn[:, :, ::-1])
    np.testing.assert_array_equal(image, before)
    assert (three().draw(image, with_scores=False) != drawn).any()


def test_draw_takes_what_detect_takes_and_needs_no_names() -> None:
    grey = np.full((100, 200), 90, np.uint8)
    assert three(class_names=()).draw(grey).shape == (100, 200, 3)


def test_a_track_is_written_before_the_name() -> None:
    image = np.full((100, 200, 3), 90, np.uint8)
    tracked, others, none = (three(track_ids=np.array([number] * 3)).draw(image) for number in (7, 8, -1))
    assert (tracked != others).any() and (tracked != none).any()
    np.testing.assert_array_equal(none, three().draw(image))


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ImageError, match="has 50x100 pixels, but these detections are of one of 200x100"):
        three().draw(np.zeros((100, 50, 3), np.uint8))
