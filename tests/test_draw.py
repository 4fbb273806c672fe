import numpy as np
import pytest

from ssd_train.detections import Detections
from ssd_train.draw import draw

CLASSES = ("cat", "dog")
GREY = 100


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def detections(*rows: tuple[float, ...]) -> Detections:
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def test_without_detections_the_picture_is_copied() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    drawn = draw(image, Detections.empty(), CLASSES)
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_a_box_is_outlined_where_it_is_and_the_input_is_left_alone() -> None:
    image = grey(200, 300)
    drawn = draw(image, detections((50, 80, 250, 160, 0.9, 0)), CLASSES)
    assert (image == GREY).all()
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)
    color = drawn[120, 50]
    assert (color != GREY).any()
    # The middle of each side, but neither inside nor outside of it.
    for y, x in ((80, 200), (160, 200), (120, 50), (120, 250)):
        np.testing.assert_array_equal(drawn[y, x], color)
    for y, x in ((120, 150), (120, 20), (120, 280), (180, 150)):
        np.testing.assert_array_equal(drawn[y, x], [GREY] * 3)


def test_the_class_name_stands_above_its_box_or_inside_where_there_is_no_room() -> None:
    above = draw(grey(200, 300), detections((50, 80, 250, 160, 0.9, 0)), CLASSES)
    inside = draw(grey(200, 300), detections((50, 0, 250, 160, 0.9, 0)), CLASSES)
    assert (above[60:78, 50:250] != GREY).any() and (above[90:150, 60:240] == GREY).all()
    assert (inside[4:30, 60:240] != GREY).any()


def test_name_and_score_are_written() -> None:
    boxes = (50, 80, 250, 160)
    cat, dog, other_score = (
        draw(grey(200, 300), detections((*boxes, score, 0)), names)
        for score, names in ((0.9, CLASSES), (0.9, ("dog", "cat")), (0.4, CLASSES))
    )
    assert (cat != dog).any() and (cat != other_score).any()
    # Only the text differs.
    np.testing.assert_array_equal(cat[85:], dog[85:])


def test_without_scores_the_name_stands_alone() -> None:
    boxes = (50, 80, 250, 160)
    shown, hidden, other_score, dog = (
        draw(grey(200, 300), detections((*boxes, score, 0)), names, with_scores=with_scores)
        for score, names, with_scores in (
            (0.9, CLASSES, True),
            (0.9, CLASSES, False),
            (0.4, CLASSES, False),
            (0.9, ("dog", "cat"), False),
        )
    )
    np.testing.assert_array_equal(hidden, other_score)
    assert (hidden != dog).any()
    # The plate of the name is shorter; the box is the same.
    width, full_width = ((each[60:79] != GREY).any(axis=(0, 2)).sum() for each in (hidden, shown))
    assert 0 < width < full_width
    np.testing.assert_array_equal(hidden[85:], shown[85:])


def test_classes_have_different_colors() -> None:
    names = tuple(f"class {label}" for label in range(80))
    colors = {
        tuple(draw(grey(100, 100), detections((20, 40, 80, 90, 0.5, label)), names)[65, 20].tolist())
        for label in range(80)
    }
    assert len(colors) == 80


def test_the_best_detection_lies_on_top() -> None:
    box = (20, 40, 80, 90)
    both = draw(grey(100, 100), detections((*box, 0.9, 1), (*box, 0.5, 0)), CLASSES)
    best = draw(grey(100, 100), detections((*box, 0.9, 1)), CLASSES)
    np.testing.assert_array_equal(both[65, 20], best[65, 20])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 10000), (3000, 2), (2000, 3000)])
def test_pictures_of_any_size_are_drawn_into(height: int, width: int) -> None:
    drawn = draw(grey(height, width), detections((0, 0, width, height, 0.9, 0)), CLASSES)
    assert drawn.shape == (height, width, 3)
    assert (drawn != GREY).any()


def test_lines_grow_with_the_picture() -> None:
    def line_width(side: int) -> int:
        box = (side / 4, side / 2, side * 3 / 4, side * 0.9)
        drawn = draw(grey(side, side), detections((*box, 0.9, 0)), CLASSES)
        return int((drawn[round(side * 0.7), : side // 2] != GREY).any(axis=1).sum())

    assert line_width(200) <= 3 < line_width(3000)


@pytest.mark.parametrize(
    "box",
    [(-50, -50, 400, 400), (250, 150, 900, 900), (1000, 1000, 1100, 1100), (10, 10, 10, 10), (-1e9, -1e9, 1e9, 1e9)],
)
def test_boxes_that_reach_outside_or_have_no_area_are_drawn_as_far_as_they_go(box: tuple[float, ...]) -> None:
    drawn = draw(grey(200, 300), detections((*box, 0.9, 0)), CLASSES)
    assert drawn.shape == (200, 300, 3)
    assert (drawn != GREY).any()
