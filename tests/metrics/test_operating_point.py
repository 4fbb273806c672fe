"""The threshold to use a detector at: worked out on paper, against a plain count, and as `Keeping` uses it."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.errors import DatasetError
from ssd_train.metrics.matching import match_dataset
from ssd_train.metrics.operating_point import (
    BEST_F1,
    Curves,
    Goal,
    OperatingPoint,
    OperatingPoints,
    curves_of,
    find_points,
    shortest_between,
)
from ssd_train.spec import DetectorSpec, PostprocessSettings
from ssd_train.thresholds import keeping

CLASSES = ("cat", "dog")
# Places that do not touch: an object and a detection at the same one match, others do not.
PLACES = [[20.0 * place, 0.0, 20.0 * place + 10, 10.0] for place in range(12)]

# (place, label, kind) and (place, score, label)
Object = tuple[int, int, str]
Found = tuple[int, float, int]


def data_of(*images: list[Object]) -> Dataset:
    samples = [
        Sample(
            image_id=index,
            path=Path(f"{index}.png"),
            image_size=(10, 250),
            ground_truth=make_ground_truth(
                [
                    {
                        "box": PLACES[place],
                        "label": label,
                        "is_difficult": kind == "difficult",
                        "is_crowd": kind == "crowd",
                        "area": 100.0,
                    }
                    for place, label, kind in objects
                ]
            ),
        )
        for index, objects in enumerate(images)
    ]
    return Dataset(name="pets", class_names=CLASSES, samples=tuple(samples), category_ids=(1, 2))


def found_of(*rows: Found) -> Detections:
    rows = tuple(sorted(rows, key=lambda row: -row[1]))
    return Detections(
        np.array([PLACES[place] for place, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for _, _, label in rows], np.int64),
    )


def curves(dataset: Dataset, *found: Detections, lowest: float = 0.0) -> Curves:
    return curves_of(dataset, found, match_dataset(dataset, found), lowest=lowest)


def counts(point: OperatingPoint) -> tuple[int, int, int]:
    return point.true, point.false, point.missed


# Three cats. Best first: right, wrong, right, wrong, wrong.
THREE_CATS = data_of([(0, 0, ""), (1, 0, ""), (2, 0, "")])
FIVE_FOUND = found_of((0, 0.9, 0), (5, 0.8, 0), (1, 0.6, 0), (6, 0.5, 0), (7, 0.2, 0))


def test_precision_recall_and_f1_on_paper() -> None:
    cat = curves(THREE_CATS, FIVE_FOUND).per_class["cat"]
    np.testing.assert_array_equal(cat.thresholds, np.array([0.9, 0.8, 0.6, 0.5, 0.2], np.float32))
    np.testing.assert_allclose(cat.precision, [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5])
    np.testing.assert_allclose(cat.recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3])
    # 2 TP / (found + objects)
    np.testing.assert_allclose(cat.f1, [2 / 4, 2 / 5, 4 / 6, 4 / 7, 4 / 8])
    assert cat.positives == 3


def test_the_best_f1_on_paper() -> None:
    point = curves(THREE_CATS, FIVE_FOUND).per_class["cat"].find()
    assert counts(point) == (2, 1, 1) and point.is_reached
    assert (point.precision, point.recall, point.f1) == (
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
    )
    # Between 0.5 and 0.6, which are the scores: 0.6 alone has one decimal, and float32's 0.6 is above it.
    assert point.threshold == 0.6


def test_of_equal_f1_the_highest_threshold_wins() -> None:
    # Right at 0.9: F1 2/3. With the wrong one and the second right one at 0.5: 4/6, the same.
    dataset = data_of([(0, 0, ""), (1, 0, "")])
    cat = curves(dataset, found_of((0, 0.9, 0), (5, 0.8, 0), (6, 0.7, 0), (1, 0.5, 0))).per_class["cat"]
    assert cat.f1[0] == cat.f1[3] == 2 / 3
    assert counts(cat.find()) == (1, 0, 1)


def test_a_wished_precision_takes_the_lowest_threshold_that_has_it() -> None:
    cat = curves(THREE_CATS, FIVE_FOUND).per_class["cat"]
    # At 0.8 precision falls to 1/2, and at 0.6 it is 2/3 again, with more found.
    assert counts(cat.find(Goal.parse("precision=0.66"))) == (2, 1, 1)
    assert counts(cat.find(Goal.parse("precision=0.4"))) == (2, 3, 1)
    assert counts(cat.find(Goal.parse("precision=1"))) == (1, 0, 2)


def test_a_wished_recall_takes_the_highest_threshold_that_has_it() -> None:
    cat = curves(THREE_CATS, FIVE_FOUND).per_class["cat"]
    assert counts(cat.find(Goal.parse("recall=0.5"))) == (2, 1, 1)
    assert counts(cat.find(Goal.parse("recall=0.3"))) == (1, 0, 2)


def test_what_is_not_reached_is_said_and_comes_nearest() -> None:
    cat = curves(THREE_CATS, FIVE_FOUND).per_class["cat"]
    recall = cat.find(Goal.parse("recall=0.9"))
    assert not recall.is_reached and counts(recall) == (2, 1, 1)
    wrong_first = found_of((5, 0.9, 0), (0, 0.8, 0), (6, 0.6, 0), (1, 0.5, 0))
    precision = curves(THREE_CATS, wrong_first).per_class["cat"].find(Goal.parse("precision=0.9"))
    # 1/2 at 0.8 and at 0.5: where more is found.
    assert not precision.is_reached and counts(precision) == (2, 2, 1)


def test_equal_scores_stay_together() -> None:
    dataset = data_of([(0, 0, "")], [(0, 0, "")])
    cat = curves(dataset, found_of((0, 0.5, 0), (5, 0.5, 0)), found_of((0, 0.5, 0))).per_class["cat"]
    assert cat.thresholds.tolist() == [0.5] and cat.true.tolist() == [2] and cat.false.tolist() == [1]


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_ignored_objects_are_neither_found_nor_missed(kind: str) -> None:
    dataset = data_of([(0, 0, ""), (1, 0, kind), (2, 0, kind)])
    cat = curves(dataset, found_of((1, 0.9, 0), (0, 0.7, 0))).per_class["cat"]
    # The detection of the ignored one is no point either.
    assert cat.thresholds.tolist() == [np.float32(0.7)] and counts(cat.find()) == (1, 0, 0)


def test_detections_are_clipped_to_their_image() -> None:
    dataset = data_of([(0, 0, "")])
    # Beyond the image on three sides: whole it overlaps the object by less than half.
    found = Detections(np.array([[-15, -5, 10, 15]], np.float32), np.array([0.8], np.float32), np.array([0], np.int64))
    assert counts(curves(dataset, found).overall.find()) == (1, 0, 0)


def test_all_classes_together_share_a_threshold() -> None:
    dataset = data_of([(0, 0, ""), (1, 1, "")])
    points = find_points(curves(dataset, found_of((0, 0.9, 0), (5, 0.8, 0), (1, 0.3, 1), (6, 0.25, 1))))
    # Together: 1/1 right of 2 is 2/3; down to 0.3, two right and one wrong, is 4/5.
    assert counts(points.overall) == (2, 1, 0) and points.overall.f1 == 4 / 5
    assert counts(points.per_class["cat"]) == (1, 0, 0) and counts(points.per_class["dog"]) == (1, 0, 0)
    # Each at its own, nothing wrong is left.
    assert counts(points.combined) == (2, 0, 0) and points.combined.f1 == 1


def test_a_class_without_objects_has_no_point_and_goes_by_the_overall_one() -> None:
    points = find_points(curves(data_of([(0, 0, "")]), found_of((0, 0.9, 0), (5, 0.95, 1), (6, 0.4, 1))))
    dog = points.per_class["dog"]
    assert math.isnan(dog.threshold) and math.isnan(dog.f1) and not dog.is_reached
    # The overall point takes the wrong dog at 0.95 in to find the cat; the one at 0.4 stays out.
    assert counts(points.combined) == counts(points.overall) == (1, 1, 0)
    saved = points.working_thresholds("pets, 1 image")
    assert saved is not None and set(saved.per_class) == {"cat"}
    assert saved.found_by == "best F1 on pets, 1 image, IoU 0.5"


def test_a_class_whose_detections_are_all_wrong_has_no_point() -> None:
    dataset = data_of([(0, 0, ""), (1, 1, "")])
    points = find_points(curves(dataset, found_of((0, 0.9, 0), (5, 0.8, 1))))
    assert math.isnan(points.per_class["dog"].threshold) and counts(points.per_class["dog"]) == (0, 0, 1)


@pytest.mark.parametrize("goal", ["best", "precision=0.5", "recall=0.5"])
def test_nothing_found_has_nothing_to_save(goal: str) -> None:
    asked = BEST_F1 if goal == "best" else Goal.parse(goal)
    points = find_points(curves(THREE_CATS, Detections.empty()), asked)
    assert counts(points.overall) == (0, 0, 3) and points.overall.recall == 0
    assert math.isnan(points.overall.threshold) and math.isnan(points.overall.precision)
    assert points.working_thresholds("pets") is None


def test_a_threshold_between_scores_and_one_above_them_all() -> None:
    cat = curves(THREE_CATS, FIVE_FOUND).per_class["cat"]
    assert counts(cat.at(0.55)) == (2, 1, 1) and counts(cat.at(0.6)) == (2, 1, 1) and counts(cat.at(0.61)) == (1, 1, 2)
    above = cat.at(0.95)
    assert counts(above) == (0, 0, 3) and math.isnan(above.precision) and above.f1 == 0


def test_the_lowest_threshold_is_not_below_the_detector_s_own() -> None:
    found = found_of((0, 0.38, 0), (1, 0.37, 0), (2, 0.36, 0))
    point = curves(THREE_CATS, found, lowest=0.35).overall.find()
    assert counts(point) == (3, 0, 0) and point.threshold == 0.36


@pytest.mark.parametrize(
    ("text", "kind", "least"),
    [("precision=0.9", "precision", 0.9), (" recall = 1 ", "recall", 1), ("recall=.5", "recall", 0.5)],
)
def test_what_is_wished_is_read(text: str, kind: str, least: float) -> None:
    goal = Goal.parse(text)
    assert (goal.kind, goal.least) == (kind, least)


@pytest.mark.parametrize(
    "text", ["", "precision", "0.9", "f1=0.9", "precision=", "precision=a", "recall=0", "recall=1.01", "recall=nan",
             "precision=-1", "precision=0.9=1"],
)  # fmt: skip
def test_what_cannot_be_wished_is_refused(text: str) -> None:
    with pytest.raises(DatasetError, match="expected precision=P or recall=R") as error:
        Goal.parse(text)
    assert error.value.arguments == ("at",)


# --- The number that is printed ---


@pytest.mark.parametrize(
    ("below", "score", "expected"),
    [
        (0.2, 0.37, 0.3),
        (0.0, 0.0123, 0.01),
        (0.12, 0.88, 0.5),
        (0.41, 0.4101, 0.4101),
        (0.99, 1.0, 1.0),
        (0.0, 1e-6, 5e-7),
    ],
)
def test_the_shortest_number_between_two_scores(below: float, score: float, expected: float) -> None:
    assert shortest_between(float(np.float32(below)), float(np.float32(score))) == expected


@given(st.floats(0, 1, width=32, exclude_max=True))
def test_there_is_a_number_even_between_neighbours(below: float) -> None:
    score = np.nextafter(np.float32(below), np.float32(2))
    assert np.float32(shortest_between(below, float(score))) == score


# --- Any data, against a plain count ---

FEW_SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.3000001, 0.30000004, 0.5, 0.7, 0.9, 1.0])
SCORES = st.one_of(FEW_SCORES, st.floats(0.0625, 1, width=32))
OBJECTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), st.sampled_from(["", "", "difficult", "crowd"])),
    max_size=6,
    unique_by=lambda row: row[0],
)
FOUND = st.lists(
    st.tuples(st.integers(0, 8), SCORES, st.integers(0, 1)), max_size=8, unique_by=lambda row: (row[0], row[2])
)


def plain_counts(images: list[tuple[list[Object], list[Found]]], least: dict[int, float]) -> tuple[int, int, int]:
    """Count right, wrong and missed at a threshold for each class; places make the matching a look-up."""
    true = false = positives = 0
    for objects, rows in images:
        at = {(place, label): kind for place, label, kind in objects}
        positives += sum(kind == "" and label in least for (_, label), kind in at.items())
        for place, score, label in rows:
            if label in least and np.float32(score) >= np.float32(least[label]):
                kind = at.get((place, label))
                true += kind == ""
                false += kind is None
    return true, false, positives - true


def plain_best(
    images: list[tuple[list[Object], list[Found]]], labels: list[int], goal: Goal
) -> tuple[float, int, int] | None:
    """Try every score as the threshold, O(n^2); returns the value that is reached, and right and wrong there."""
    scores = {float(np.float32(score)) for _, rows in images for _, score, label in rows if label in labels}
    rows = []
    for threshold in sorted(scores, reverse=True):
        true, false, missed = plain_counts(images, dict.fromkeys(labels, threshold))
        if true + false and true + missed:
            f1, precision, recall = (
                2 * true / (2 * true + false + missed),
                true / (true + false),
                true / (true + missed),
            )
            rows.append(({"f1": f1, "precision": precision, "recall": recall}[goal.kind], true, false))
    if not any(true for _, true, _ in rows):
        return None
    best = max(value for value, _, _ in rows)
    wanted = goal.least if goal.least is not None and goal.least <= best else best
    fitting = [row for row in rows if row[0] >= wanted]
    return fitting[-1] if goal.kind == "precision" else fitting[0]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(OBJECTS, FOUND), min_size=1, max_size=3),
    st.sampled_from([BEST_F1, Goal.parse("precision=0.6"), Goal.parse("recall=0.5"), Goal.parse("recall=1")]),
)
def test_any_data_against_a_plain_count_and_the_thresholds_in_use(
    images: list[tuple[list[Object], list[Found]]], goal: Goal
) -> None:
    dataset = data_of(*(objects for objects, _ in images))
    found = [found_of(*rows) for _, rows in images]
    points = find_points(curves(dataset, *found, lowest=0.01), goal)
    for labels, point in (([0, 1], points.overall), ([0], points.per_class["cat"]), ([1], points.per_class["dog"])):
        expected = plain_best(images, labels, goal)
        if expected is None:
            assert math.isnan(point.threshold)
            continue
        assert (getattr(point, goal.kind), point.true, point.false) == expected
        assert counts(point) == plain_counts(images, dict.fromkeys(labels, point.threshold))
        assert point.is_reached == (goal.least is None or expected[0] >= goal.least)
    check_in_use(points, dataset, found)


def check_in_use(points: OperatingPoints, dataset: Dataset, found: list[Detections]) -> None:
    """What is promised of the saved thresholds, and of the overall one typed by hand, is what `Keeping` gives."""
    saved = points.working_thresholds("pets")
    if saved is None:
        return
    spec = DetectorSpec(
        network="tiny", class_names=CLASSES, input_size=(8, 8), postprocess=PostprocessSettings(score_threshold=0.01)
    )
    typed = float(f"{points.overall.threshold:.15g}")
    for kept, promised in (
        (keeping(dataclasses.replace(spec, working_thresholds=saved)), points.combined),
        (keeping(spec, score_threshold=typed), points.overall),
    ):
        matches = match_dataset(dataset, [kept.apply(each) for each in found])
        true, false = sum(int(m.is_true.sum()) for m in matches), sum(int(m.is_false.sum()) for m in matches)
        assert (true, false) == (promised.true, promised.false)
