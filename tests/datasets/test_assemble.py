"""Objects as files have them -> what is trained on and scored."""

from pathlib import Path
from typing import Any

import pytest

from ssd_train.datasets.annotations import AnnotatedImage, AnnotatedObject, Annotations
from ssd_train.datasets.assemble import class_names_of, make_dataset
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.findings import Findings
from ssd_train.errors import DatasetError

WHOLE = (2.0, 3.0, 12.0, 13.0)


def thing(class_name: str = "cat", box: tuple[float, float, float, float] = WHOLE, **others: Any) -> AnnotatedObject:
    return AnnotatedObject(class_name=class_name, box=box, **others)


def image(number: int, *objects: AnnotatedObject) -> AnnotatedImage:
    return AnnotatedImage(
        image_id=number, path=Path(f"{number}.png"), image_size=(30, 40), objects=objects, place=f"{number}.xml"
    )


def make(*images: AnnotatedImage, class_names: tuple[str, ...] = ("cat", "dog"), **others: Any) -> Dataset:
    categories, is_annotated = others.pop("categories", None), others.pop("is_annotated", True)
    annotations = Annotations(images=images, categories=categories, is_annotated=is_annotated)
    values = {"training": False, "clips": True, "needs_match": True, "findings": Findings(), **others}
    return make_dataset(annotations, class_names, name="toy val", **values)


def test_objects_get_their_labels_flags_and_areas() -> None:
    objects = thing("dog", is_difficult=True), thing(area=7.5, is_crowd=True)
    truth = make(image(1, *objects)).samples[0].ground_truth
    assert truth.labels.tolist() == [1, 0]
    assert truth.is_difficult.tolist() == [True, False]
    assert truth.is_crowd.tolist() == [False, True]
    assert truth.areas.tolist() == [100, 7.5]


@pytest.mark.parametrize(
    ("training", "clips", "expected"),
    [
        (False, True, [[0, 0, 40, 30]]),
        (True, False, [[0, 0, 40, 30]]),
        (False, False, [[-1, -2, 50, 60], [5, 5, 5, 9], [9, 5, 4, 9], [50, 5, 60, 9]]),
    ],
)
def test_boxes_are_clipped_in_every_training_and_where_the_layout_says_so(
    training: bool, clips: bool, expected: list[list[float]]
) -> None:
    boxes = (-1.0, -2.0, 50.0, 60.0), (5.0, 5.0, 5.0, 9.0), (9.0, 5.0, 4.0, 9.0), (50.0, 5.0, 60.0, 9.0)
    dataset = make(image(1, *(thing(box=box) for box in boxes)), training=training, clips=clips)
    assert dataset.samples[0].ground_truth.boxes.tolist() == expected
    assert len(dataset.notes) == (1 if len(expected) == 4 else 4)


def test_a_box_that_touches_the_image_from_outside_has_nothing_in_it() -> None:
    boxes = (-5.0, 5.0, 0.0, 9.0), (40.0, 5.0, 45.0, 9.0), (5.0, 30.0, 9.0, 31.0)
    dataset = make(image(1, thing(), *(thing(box=box) for box in boxes)))
    assert len(dataset.samples[0].ground_truth) == 1
    assert dataset.notes[0] == "left out 3 objects that lie wholly outside their image: 1.xml (3)"


def test_objects_to_be_ignored_are_left_out_of_a_training_alone() -> None:
    picture = image(1, thing(is_ignored=True), thing("dog"))
    assert [len(make(picture, training=training).samples[0].ground_truth) for training in (False, True)] == [2, 1]


def test_numbers_of_classes_are_the_data_set_s_own_or_count_from_1() -> None:
    pictures = (image(1, thing("Dog"), thing("cat")),)
    names = ("cat", "dog", "cow")
    assert make(*pictures, class_names=names).category_ids == (1, 2, 3)
    assert make(*pictures, class_names=names, categories={"Dog": 7, "cat": "c"}).category_ids == ("c", 7, None)


@pytest.mark.parametrize("categories", [None, {"horse": 1}])
def test_objects_of_other_classes_alone_are_refused_unless_it_is_a_validation(categories: Any) -> None:
    with pytest.raises(DatasetError, match="toy val: its objects are of horse, and the detector knows cat, dog"):
        make(image(1, thing("horse")), categories=categories)
    dataset = make(image(1, thing("horse")), categories=categories, needs_match=False)
    assert [len(sample.ground_truth) for sample in dataset.samples] == [0]
    assert dataset.notes[0] == "left out 1 objects of classes that the detector does not know: horse"


def test_classes_that_are_declared_match_though_no_object_is_of_them() -> None:
    dataset = make(image(1, thing("horse")), categories={"horse": 1, "cat": 2})
    assert "no objects of these classes: cat" in dataset.notes


def test_images_without_objects_stay_and_none_at_all_is_refused() -> None:
    assert len(make(image(1), image(2)).samples) == 2
    with pytest.raises(DatasetError, match="toy val: there are no images in it"):
        make()


def test_a_test_set_without_answers_has_no_notes_of_missing_classes() -> None:
    for categories in (None, {"cow": 1}):
        dataset = make(image(1), is_annotated=False, categories=categories)
        assert (dataset.notes, dataset.is_annotated) == ((), False)


@pytest.mark.parametrize("box", [(0.1, 0.2, 0.7, 0.9), (-0.9, -0.8, 0.7, 0.9)])
def test_coordinates_that_are_shares_in_all_images_are_refused(box: tuple[float, float, float, float]) -> None:
    share = thing(box=box, is_share=True)
    for training in (False, True):
        with pytest.raises(DatasetError, match=r"coordinates of all objects .*\(the first in 2\.xml\), so they are"):
            make(image(1), image(2, share), image(3, share, share), training=training)


def test_coordinates_that_are_shares_in_some_images_are_noted() -> None:
    share = thing(box=(0.1, 0.2, 0.7, 0.9), is_share=True)
    dataset = make(image(1, thing()), image(2, share), image(3, share, thing()))
    assert dataset.notes[0] == "kept 1 objects whose coordinates look like shares of the image: 2.xml"


def test_an_object_of_one_whole_pixel_is_no_share() -> None:
    dataset = make(image(1, thing(box=(0.0, 0.0, 1.0, 1.0), is_share=True)))
    assert dataset.notes == ("no objects of these classes: dog",)


def test_an_image_twice_is_refused_in_an_evaluation_and_kept_in_a_training() -> None:
    pictures = (image(1, thing()), image(2, thing()), image(1, thing()))
    with pytest.raises(DatasetError, match="toy val: image 1 is listed twice"):
        make(*pictures)
    assert [sample.image_id for sample in make(*pictures, training=True).samples] == [1, 2, 1]
    findings = Findings(is_complete=True)
    assert [sample.image_id for sample in make(*pictures, findings=findings).samples] == [1, 2]


def test_classes_are_those_declared_in_their_order_or_those_found_by_alphabet() -> None:
    pictures = (image(1, thing("dog"), thing("Cat")), image(2, thing("Cat")), image(3, thing("cat")))
    assert class_names_of(Annotations(images=pictures)) == ("Cat", "dog")
    assert class_names_of(Annotations(images=pictures, categories={"dog": 1, "cat": 2})) == ("dog", "cat")
