"""What counts as a change, and what decides in a precision that changes numbers. By hand, with fake backends."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from parity_data import ROWS, SPEC, SWAPPED, Row, annotated, detections, run_of, three_pictures
from tiny_data import FakeRunner

from ssd_deploy.parity.compare import BackendRun, Comparison, compare
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.pairs import Changes, count_changes
from ssd_deploy.parity.report import ParityOutcome
from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import DatasetError, NetworkError
from ssd_train.files import write_json
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import PostprocessSettings

CAT = (0, 0, 10, 10, 0.9, 0)


@pytest.mark.parametrize(
    ("reference", "candidate", "expected"),
    [
        pytest.param([], [], {}, id="nothing on either side"),
        pytest.param([CAT], [CAT], {"kept": 1}, id="the same"),
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [(0, 0, 10, 10, 0.4, 0)], {"kept": 1}, id="a score may fall"),
        pytest.param([(0, 0, 10, 10, 0.2, 0)], [(0, 0, 90, 90, 0.25, 1)], {}, id="what is below does not count"),
        pytest.param([CAT], [], {"vanished": 1}, id="vanished"),
        pytest.param([], [CAT], {"appeared": 1}, id="appeared"),
        pytest.param([CAT], [(0, 0, 10, 10, 0.9, 1)], {"relabelled": 1}, id="label changed"),
        # 80 of 100 pixels are shared, then 75, 50 and 49.
        pytest.param([CAT], [(0, 0, 10, 8, 0.9, 0)], {"kept": 1}, id="an IoU of 0.8"),
        pytest.param([CAT], [(0, 0, 10, 7.5, 0.9, 0)], {"moved": 1}, id="an IoU of 0.75"),
        pytest.param([CAT], [(0, 0, 10, 5, 0.9, 0)], {"moved": 1}, id="an IoU of 0.5"),
        pytest.param([CAT], [(0, 0, 10, 4.9, 0.9, 0)], {"vanished": 1, "appeared": 1}, id="an IoU of 0.49"),
        pytest.param(
            [(0, 0, 10, 10, 0.31, 0)], [(0, 0, 10, 10, 0.29, 0)], {"kept": 1, "crossed": 1}, id="down by a hair"
        ),
        pytest.param(
            [(0, 0, 10, 10, 0.29, 0)], [(0, 0, 10, 10, 0.31, 0)], {"kept": 1, "crossed": 1}, id="up by a hair"
        ),
        pytest.param(
            [(0, 0, 10, 10, 0.31, 0)], [(0, 0, 10, 7.5, 0.29, 0)], {"moved": 1, "crossed": 1}, id="a hair, but moved"
        ),
        pytest.param([(0, 0, 10, 10, 0.31, 0)], [(0, 0, 10, 10, 0.27, 0)], {"vanished": 1}, id="down by more"),
        pytest.param([(0, 0, 10, 10, 0.27, 0)], [(0, 0, 10, 10, 0.31, 0)], {"appeared": 1}, id="up by more"),
        # The partner ends just below the threshold, but came from far above.
        pytest.param([CAT], [(0, 0, 10, 10, 0.29, 0)], {"vanished": 1}, id="from 0.9 to 0.29"),
        pytest.param([(0, 0, 10, 10, 0.3, 0)], [], {"vanished": 1}, id="exactly at the threshold counts"),
        pytest.param(
            [CAT], [(0, 0, 10, 10, 0.6, 1), (0, 0, 10, 10, 0.2, 0)], {"relabelled": 1}, id="label changed, rest faint"
        ),
        pytest.param(
            [CAT, (0, 0, 10, 10, 0.5, 1)],
            [(0, 0, 10, 10, 0.8, 1), (0, 0, 10, 10, 0.7, 0)],
            {"kept": 2},
            id="two labels in one place",
        ),
        # The second of the candidate overlaps more with the first of the reference, and takes it.
        pytest.param(
            [(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 15, 0.8, 0)],
            [(0, 0, 10, 13, 0.9, 0), (0, 0, 10, 10, 0.8, 0)],
            {"kept": 2},
            id="best overlap first",
        ),
        pytest.param([CAT], [CAT, CAT], {"kept": 1, "appeared": 1}, id="each at most once"),
    ],
)
def test_changes_at_the_working_threshold(reference: list[Row], candidate: list[Row], expected: dict[str, int]) -> None:
    assert count_changes([detections(reference)], [detections(candidate)], 0.3) == Changes(**expected)


def test_changes_of_images_add_up_and_a_pair_counts_once() -> None:
    one = [detections([CAT, (50, 50, 60, 60, 0.8, 1)]), detections([CAT])]
    other = [detections([(0, 0, 10, 10, 0.9, 1)]), detections([CAT, (50, 50, 60, 60, 0.8, 1)])]
    found = count_changes(one, other, 0.3)
    assert found == Changes(kept=1, relabelled=1, vanished=1, appeared=1)
    assert (found.changed, found.total, found.share) == (3, 4, 0.75)
    assert found.text() == "3 of 4 changed (1 changed label, 1 vanished, 1 appeared)"
    with pytest.raises(ValueError):
        count_changes(one, other[:1], 0.3)


def test_a_hair_is_a_tenth_of_the_threshold_whatever_that_is() -> None:
    sides = [[detections([(0, 0, 10, 10, score, 0)])] for score in (0.051, 0.047, 0.045)]
    assert count_changes(sides[0], sides[1], 0.05) == Changes(kept=1, crossed=1)
    assert count_changes(sides[0], sides[2], 0.05) == Changes(vanished=1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return three_pictures(tmp_path)


def ran(
    rows: Sequence[Row], dataset: Dataset, precision: str, metric: str | None = None, **options: float
) -> BackendRun:
    runner = FakeRunner(dataclasses.replace(SPEC, precision=precision), rows, name=precision, **options)  # type: ignore[arg-type]
    return run_of(runner, dataset, metric)


def held(
    rows: Sequence[Row],
    dataset: Dataset,
    precision: str,
    criteria: Criteria = Criteria(),
    *,
    metric: str | None = None,
    reference: Sequence[Row] = ROWS,
    **options: float,
) -> tuple[Comparison, str]:
    """Compare with float32; returns the comparison and the last line of the text."""
    first = ran(reference, dataset, "fp32", metric)
    other = ran(rows, dataset, precision, metric, **options)
    comparison = compare(first, other, dataset, criteria)
    outcome = ParityOutcome(
        reference=first, comparisons=(comparison,), candidates=(other,), skipped=(), notes=(), dataset=dataset
    )
    assert outcome.passed == comparison.verdict.passed == (not comparison.failures)
    text = outcome.text()
    # Both numbers are always there.
    assert f"detections of at least 0.3: {comparison.changes.text()}" in text
    assert ("  metric: " in text) == (metric is not None)
    return comparison, text.splitlines()[-1]


@pytest.mark.parametrize(
    ("precision", "lost", "passed", "numbers"),
    [
        ("int8", 0, True, "0 of 180 of at least 0.3 changed, 0.0 %, 10 % may"),
        # Of three images with 60 detections each: 15 and 21 of 180.
        ("int8", 5, True, "15 of 180 of at least 0.3 changed, 8.3 %, 10 % may"),
        ("int8", 7, False, "21 of 180 of at least 0.3 changed, 11.7 %, 10 % may"),
        ("fp16", 1, True, "3 of 180 of at least 0.3 changed, 1.7 %, 2 % may"),
        ("fp16", 2, False, "6 of 180 of at least 0.3 changed, 3.3 %, 2 % may"),
        ("tf32", 2, False, "6 of 180 of at least 0.3 changed, 3.3 %, 2 % may"),
    ],
)
def test_without_ground_truth_the_detections_decide(
    dataset: Dataset, precision: str, lost: int, passed: bool, numbers: str
) -> None:
    comparison, last = held(ROWS[: 60 - lost], dataset, precision)
    assert last == f"{'PASS' if passed else 'FAIL'}: {precision}: the detections decided: {numbers}"
    verdict = comparison.verdict
    assert (verdict.decided_by, verdict.passed, verdict.limit) == (
        "detections", passed, PRECISIONS[precision].limits.changed,  # type: ignore[union-attr]
    )  # fmt: skip
    assert verdict.value == pytest.approx(3 * lost / 180)


def test_nothing_was_lost_is_said_of_float32_alone(dataset: Dataset) -> None:
    assert held(ROWS, dataset, "fp32")[1] == "PASS: nothing was lost"
    for precision in set(PRECISIONS) - {"fp32"}:
        assert "nothing was lost" not in held(ROWS, dataset, precision)[1]
    # What int8 passes with, float32 does not.
    assert held(ROWS[:55], dataset, "fp32")[1] == "FAIL: see above"


def test_with_ground_truth_the_metric_decides_however_few_detections_changed(dataset: Dataset) -> None:
    comparison, last = held(SWAPPED, annotated(dataset), "int8", metric="voc")
    assert comparison.changes == Changes(kept=180)
    assert last == "FAIL: int8: the metric decided: VOC07 mAP lost 37.50 points, 0.3 may be lost"
    assert (comparison.verdict.decided_by, comparison.verdict.limit) == ("metric", 0.3)
    assert comparison.verdict.value == pytest.approx(37.5)


def test_with_ground_truth_the_metric_decides_however_many_detections_changed(dataset: Dataset) -> None:
    # Only the two best are objects; what comes after them costs nothing.
    comparison, last = held(ROWS[:20], annotated(dataset), "int8", metric="voc")
    assert comparison.changes == Changes(kept=60, vanished=120)
    assert last == "PASS: int8: the metric decided: VOC07 mAP lost 0.00 points, 0.3 may be lost"


def test_a_metric_that_rises_is_no_loss(dataset: Dataset) -> None:
    _, last = held(ROWS, annotated(dataset), "fp16", metric="voc", reference=SWAPPED)
    assert last == "PASS: fp16: the metric decided: VOC07 mAP won 37.50 points, 0.05 may be lost"
    # Float32 is to be equal, whichever way it differs.
    assert held(ROWS, annotated(dataset), "fp32", metric="voc", reference=SWAPPED)[1].startswith("FAIL")


def test_each_precision_and_metric_has_its_limit_and_it_can_be_asked_for() -> None:
    limits = {name: PRECISIONS[name].limits for name in ("fp16", "int8")}
    assert limits["fp16"] is not None and limits["int8"] is not None
    usual = Criteria()
    assert [usual.metric_limit(limits["fp16"], metric) for metric in ("voc", "coco")] == [0.05, 0.05]
    assert [usual.metric_limit(limits["int8"], metric) for metric in ("voc", "coco")] == [0.3, 0.5]
    assert usual.metric_limit(limits["int8"], "a metric of somebody's own") is None
    assert Criteria(max_drop=2).metric_limit(limits["int8"], "voc") == 2
    # A fraction, as it always was.
    assert Criteria(tolerance=0.02).metric_limit(limits["int8"], "voc") == pytest.approx(2)
    assert Criteria(tolerance=0.02, min_agreement=0.5).tolerances_of(None).metric == 0.02


def test_what_is_asked_for_goes_before_the_row(dataset: Dataset) -> None:
    assert held(SWAPPED, annotated(dataset), "int8", Criteria(max_drop=38), metric="voc")[0].verdict.passed
    assert not held(ROWS[:55], dataset, "int8", Criteria(max_changed=0.05))[0].verdict.passed
    comparison, last = held(ROWS[:59], dataset, "int8", Criteria(min_agreement=1))
    assert comparison.verdict.decided_by == "agreement AP" and "is below 1" in last
    # The allowance of int8 does not loosen float32.
    assert not held(SWAPPED, annotated(dataset), "fp32", Criteria(max_drop=38), metric="voc")[0].verdict.passed


@pytest.mark.parametrize(
    ("options", "decided_by"),
    [({"logits_shift": math.nan}, "raw logits"), ({"offsets_shift": math.inf}, "raw offsets")],
)
def test_predictions_that_are_not_finite_fail_in_any_precision(
    dataset: Dataset, options: dict[str, float], decided_by: str
) -> None:
    comparison, last = held(ROWS, dataset, "int8", Criteria(max_changed=1), **options)
    assert comparison.first_failing_stage == comparison.verdict.decided_by == decided_by
    assert last.startswith(f"FAIL: int8: {decided_by}")


def test_another_input_fails_in_any_precision(dataset: Dataset) -> None:
    spec = dataclasses.replace(SPEC, precision="int8", mean=(0.5, 0.456, 0.406))
    other = run_of(FakeRunner(spec, ROWS), dataset)
    assert compare(ran(ROWS, dataset, "fp32"), other, dataset).verdict.decided_by == "input tensor"


def test_raw_differences_of_int8_have_no_limit_and_are_said(dataset: Dataset) -> None:
    comparison, _ = held(ROWS, dataset, "int8", logits_shift=0.5)
    stage = next(stage for stage in comparison.stages if stage.name == "raw logits")
    assert stage.passed and stage.difference > 0.3 and "allowed" not in stage.text
    assert comparison.tolerances.raw == math.inf


def test_a_reference_that_finds_nothing_at_the_threshold_decides_nothing(dataset: Dataset) -> None:
    faint = [(*row[:4], row[4] / 4, row[5]) for row in ROWS]
    for truth, metric in ((dataset, None), (annotated(dataset), "voc")):
        with pytest.raises(DatasetError, match="nothing with a score of at least 0.3") as caught:
            held(faint, truth, "int8", reference=faint, metric=metric)
        assert caught.value.arguments == ("score_threshold",)
    runs = [ran(faint, dataset, precision) for precision in ("fp32", "int8")]
    assert compare(*runs, dataset, Criteria(score_threshold=0.1)).changes.total == 3 * 51
    # Float32 is compared whatever the scores are.
    assert compare(runs[0], runs[0], dataset).verdict.passed


def test_below_the_detectors_own_threshold_nothing_is_counted(dataset: Dataset) -> None:
    spec = dataclasses.replace(SPEC, postprocess=PostprocessSettings(score_threshold=0.6))
    specs = (spec, dataclasses.replace(spec, precision="int8"))
    runs = [run_of(FakeRunner(each, ROWS[:31]), dataset) for each in specs]
    assert compare(*runs, dataset).score_threshold == 0.6


def test_of_several_precisions_each_says_what_decided_and_of_several_backends_the_worst(dataset: Dataset) -> None:
    first = ran(ROWS, dataset, "fp32")
    good, worse = (
        dataclasses.replace(compare(first, ran(ROWS[:count], dataset, "int8"), dataset), backend=name)
        for name, count in (("one", 58), ("other", 57))
    )
    same = compare(first, first, dataset)
    outcome = ParityOutcome(
        reference=first, comparisons=(same, good, worse), candidates=(first,) * 3, skipped=("x: why",), notes=(),
        dataset=dataset,
    )  # fmt: skip
    assert outcome.verdict() == (
        "PASS: fp32: nothing was lost; int8: the detections decided: 9 of 180 of at least 0.3 changed, 5.0 %, "
        "10 % may (other)"
    )
    failed = compare(first, ran(ROWS[:40], dataset, "fp16"), dataset)
    outcome = dataclasses.replace(outcome, comparisons=(same, good, failed))
    # Only what failed.
    assert outcome.verdict().startswith("FAIL: fp16: the detections decided: 60 of 180")


def test_the_json_says_what_decided_and_the_counts(dataset: Dataset, tmp_path: Path) -> None:
    comparison, _ = held(SWAPPED[:57], annotated(dataset), "int8", metric="coco")
    write_json(tmp_path / "out.json", comparison.to_dict())
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["verdict"]["decided_by"] == "metric" and written["verdict"]["limit"] == 0.5
    assert written["verdict"]["value"] == pytest.approx(-100 * written["metric_difference"])
    assert written["changes"]["changed"] == written["changes"]["vanished"] == 9
    assert (written["changes"]["total"], written["score_threshold"]) == (180, 0.3)
    assert written["passed"] is comparison.verdict.passed
    assert written["tolerances"]["raw"] is None and written["tolerances"]["input_tensor"] == 1e-5


@pytest.mark.parametrize(
    "values",
    [
        {"score_threshold": 1.0},
        {"score_threshold": math.nan},
        {"max_drop": -1.0},
        {"max_changed": 1.5},
        {"tolerance": -0.5},
        {"min_agreement": math.nan},
    ],
)
def test_criteria_out_of_their_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(DatasetError, match=next(iter(values))):
        Criteria(**values)


def test_a_precision_that_does_not_exist_is_refused(dataset: Dataset) -> None:
    with pytest.raises(NetworkError, match="precision 'fp7' does not exist"):
        held(ROWS, dataset, "fp7")
