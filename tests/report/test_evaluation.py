"""What a report says of four pictures, counted by hand."""

import dataclasses
import math

import numpy as np
import pytest

from ssd_train.datasets.dataset import Dataset, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.metrics.matching import match_dataset, match_image
from ssd_train.metrics.operating_point import Curve, Goal, curves_of
from ssd_train.metrics.protocol import Protocol
from ssd_train.report.evaluation import Evaluation, collect
from ssd_train.report.histograms import BINS, histograms
from ssd_train.report.sizes import by_size
from ssd_train.report.tables import class_table, confusion_table, size_table
from ssd_train.report.thinned import thinned, thinned_points
from ssd_train.report.working_point import working_point
from ssd_train.spec import DetectorSpec


def test_classes_at_the_saved_threshold(evaluation: Evaluation) -> None:
    first, second, third, last = evaluation.points.values()
    assert (first.true, first.false, first.missed) == (1, 2, 1)
    assert (second.true, second.false, second.missed) == (0, 2, 2)
    assert (third.true, third.false, third.missed) == (0, 0, 0)
    assert math.isnan(third.precision) and math.isnan(third.recall) and math.isnan(last.f1)
    overall = evaluation.overall
    assert (overall.precision, overall.recall, overall.f1) == (1 / 5, 1 / 4, pytest.approx(2 / 9))
    assert evaluation.keep.origin == "saved with the detector: hand"


def test_every_mistake_is_named(evaluation: Evaluation) -> None:
    found = [[(each.kind, each.label) for each in of_image] for of_image in evaluation.mistakes]
    assert found == [[("duplicate", 0), ("bad box", 1)], [("wrong class", 1)], [("missed", 1)], [("false", 0)]]


def test_the_matrix_has_the_same_objects_and_detections(evaluation: Evaluation) -> None:
    matrix = evaluation.confusion
    assert matrix.tolist() == [
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 2],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [2, 1, 0, 0, 0],
    ]
    for label, point in enumerate(evaluation.points.values()):
        assert matrix[label].sum() == point.true + point.missed
        assert matrix[:, label].sum() == point.true + point.false


def test_both_metrics_are_there(evaluation: Evaluation) -> None:
    (other,) = evaluation.other_reports
    assert other.metric == "coco" and len(other.numbers) == 12 and not evaluation.unscored
    assert evaluation.report.numbers.keys() == {"VOC07 mAP", "VOC12 mAP"}


def test_a_metric_that_cannot_be_computed_says_why(dataset: Dataset, spec: DetectorSpec) -> None:
    empty = dataclasses.replace(
        dataset,
        samples=tuple(dataclasses.replace(each, ground_truth=make_ground_truth([])) for each in dataset.samples),
    )
    nothing = [Detections.empty()] * len(dataset.samples)
    report = score(empty, nothing, spec, metric="coco", protocol=Protocol.STANDARD)
    matches = match_dataset(empty, nothing)
    curves = curves_of(empty, nothing, matches, lowest=spec.postprocess.score_threshold)
    found = collect(empty, nothing, spec, report, {}, matches=matches, curves=curves)
    assert found.other_reports[0].numbers == {}
    assert found.other_reports[0].notes == ("no score, since no image has an object that counts",)
    assert found.confusion.sum() == 0 and math.isnan(found.overall.recall)


def test_sizes_are_cocos(evaluation: Evaluation) -> None:
    small, medium, large = evaluation.sizes
    # 40 x 40 pixels thrice, and 95 x 98; the difficult one does not count.
    assert (small.objects, medium.objects, large.objects) == (0, 3, 1)
    assert (medium.found, large.found) == (1, 0)
    assert math.isnan(small.recall) and medium.recall == 1 / 3 and large.recall == 0
    numbers = evaluation.other_reports[0].numbers
    assert (medium.ap, large.ar) == (numbers["APm"], numbers["ARl"]) and math.isnan(small.ap)
    assert [row[0] for row in size_table(evaluation).rows] == ["small", "medium", "large"]


def test_the_borders_of_sizes() -> None:
    areas = [1, 32**2 - 0.5, 32**2, 96**2 - 0.5, 96**2]
    rows = [{"box": (0, 0, 1, 1), "label": 0, "is_difficult": False, "is_crowd": False, "area": area} for area in areas]
    truth = make_ground_truth(rows)
    matches = match_image(truth, Detections.empty())
    assert [size.objects for size in by_size([truth], [matches], {})] == [2, 2, 1]


def test_histograms_count_what_is_right_and_wrong_and_leave_out_what_is_ignored(
    dataset: Dataset, detections: list[Detections]
) -> None:
    counted = histograms(detections, match_dataset(dataset, detections), dataset.class_names)
    everything = counted[""]
    assert everything.true.sum() == 2 and everything.false.sum() == 4
    assert everything.true[int(0.9 * BINS)] == 1 and everything.true[int(0.4 * BINS)] == 1
    assert counted[dataset.class_names[0]].false.sum() == 2 and counted[dataset.class_names[2]].false.sum() == 0
    one = Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    of_one = histograms([one], match_dataset(dataclasses.replace(dataset, samples=dataset.samples[3:]), [one]), ("a",))
    assert of_one[""].false[-1] == 1, "a score of 1 is in the last bin"


def test_tables_hold_what_was_counted(evaluation: Evaluation) -> None:
    table = class_table(evaluation)
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, row, strict=True)) for row in table.rows]
    assert [row["objects"] for row in rows] == [2, 2, 0, 0] and [row["detections"] for row in rows] == [3, 2, 0, 0]
    assert rows[0]["duplicate"] == rows[0]["false"] == 1 and rows[1]["missed"] == rows[1]["bad box"] == 1
    assert rows[0]["AP07"] == evaluation.report.per_class[rows[0]["class"]]["AP07"]
    assert confusion_table(evaluation).rows[0][2] == 2
    assert sum(row[2] for row in confusion_table(evaluation).rows) == 6


# --- Working thresholds ---


def test_without_saved_thresholds_the_best_f1_of_each_class_is_used(
    dataset: Dataset, detections: list[Detections], spec: DetectorSpec
) -> None:
    bare = dataclasses.replace(spec, working_thresholds=None)
    curves = curves_of(dataset, detections, match_dataset(dataset, detections), lowest=0.01)
    keep = working_point(bare, curves)
    assert "best F1" in keep.origin and "none are saved" in keep.origin
    # The first class is best with its one right detection, above the duplicate at 0.8.
    assert 0.8 < keep.score_thresholds[0] <= 0.9
    # The second is right at 0.4 alone; the others take the threshold of all together.
    assert 0.01 < keep.score_thresholds[1] <= 0.4
    assert keep.score_thresholds[2] == keep.score_thresholds[3] == curves.overall.find().threshold


def test_what_was_asked_for_goes_before_what_is_saved(
    dataset: Dataset, detections: list[Detections], spec: DetectorSpec
) -> None:
    curves = curves_of(dataset, detections, match_dataset(dataset, detections), lowest=0.01)
    keep = working_point(spec, curves, Goal(kind="recall", least=1.0))
    assert keep.origin == "those of recall=1 for each class on these images, as asked"
    assert keep.score_thresholds[1] <= 0.4


def test_where_nothing_is_right_the_usual_threshold_is_used(dataset: Dataset, spec: DetectorSpec) -> None:
    bare = dataclasses.replace(spec, working_thresholds=None)
    nothing = [Detections.empty()] * len(dataset.samples)
    curves = curves_of(dataset, nothing, match_dataset(dataset, nothing))
    for goal in (None, Goal(kind="precision", least=0.9)):
        keep = working_point(bare, curves, goal)
        assert keep.score_thresholds.tolist() == [0.5] * 4 and "nothing that is right" in keep.origin


# --- Curves of few points ---


def curve_of(count: int) -> Curve:
    random = np.random.default_rng(1)
    thresholds = np.sort(random.random(count).astype(np.float32))[::-1]
    true = np.cumsum(random.random(count) < 0.3)
    found = np.arange(1, count + 1)
    return Curve(
        thresholds=thresholds,
        true=true,
        false=found - true,
        precision=true / found,
        recall=true / count,
        f1=2 * true / (found + count),
        positives=count,
        lowest=0.01,
    )


def test_a_short_curve_is_whole() -> None:
    assert thinned_points(curve_of(150)).tolist() == list(range(150))
    assert thinned_points(curve_of(0)).tolist() == []


def test_a_long_curve_keeps_its_ends_and_its_shape() -> None:
    curve = curve_of(20_000)
    chosen = thinned_points(curve)
    assert chosen[0] == 0 and chosen[-1] == 19_999 and len(chosen) <= 600 and (np.diff(chosen) > 0).all()
    # Interpolated it is the same to within what a chart shows.
    again = np.interp(np.arange(20_000), chosen, curve.precision[chosen])
    assert np.abs(again - curve.precision)[100:].max() < 0.02
    as_lists = thinned(curve)
    assert as_lists["threshold"][0] == float(str(curve.thresholds[0])) and as_lists["objects"] == 20_000
