import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity_data import CLASSES, ROWS, SPEC, SWAPPED, annotated, detections, run_of, three_pictures
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.parity.compare import Comparison, compare, images_as_dataset
from ssd_deploy.parity.criteria import Criteria, Tolerances
from ssd_deploy.parity.pairs import match_detections
from ssd_deploy.parity.report import ParityOutcome
from ssd_train.datasets.dataset import Dataset
from ssd_train.errors import DatasetError, ImageError
from ssd_train.files import write_json

USUAL = Tolerances()


@pytest.mark.parametrize(
    ("reference", "candidate", "pairs"),
    [
        pytest.param([], [], [], id="nothing on either side"),
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [], [], id="nothing on one side"),
        pytest.param([], [(0, 0, 10, 10, 0.9, 0)], [], id="nothing on the other side"),
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [(0, 0, 10, 10, 0.2, 0)], [(0, 0)], id="scores may differ"),
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [(0, 0, 10, 10, 0.9, 1)], [], id="labels may not"),
        # 100 of 110 pixels are shared by the first pair, 100 of 120 by the second.
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [(0, 0, 10, 11, 0.9, 0)], [(0, 0)], id="overlap of 0.909"),
        pytest.param([(0, 0, 10, 10, 0.9, 0)], [(0, 0, 10, 12, 0.9, 0)], [], id="overlap of 0.833"),
        # Order differs on the sides; the better overlap wins though its partner comes second.
        pytest.param(
            [(0, 0, 100, 100, 0.9, 0), (0, 0, 100, 98, 0.8, 0)],
            [(0, 0, 100, 97, 0.9, 0), (0, 0, 100, 100, 0.8, 0)],
            [(0, 1), (1, 0)],
            id="best overlap first",
        ),
        pytest.param(
            [(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.4, 0)],
            [(0, 0, 10, 10, 0.41, 0), (0, 0, 10, 10, 0.91, 0)],
            [(0, 1), (1, 0)],
            id="equal overlaps pair by score",
        ),
        pytest.param(
            [(0, 0, 10, 10, 0.9, 0)],
            [(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 0)],
            [(0, 0)],
            id="each at most once",
        ),
        pytest.param(
            [(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.9, 0)],
            [(0, 0, 10, 10, 0.9, 0)],
            [(0, 0)],
            id="each at most once on the other side",
        ),
        pytest.param([(5, 5, 5, 5, 0.9, 0)], [(5, 5, 5, 5, 0.9, 0)], [(0, 0)], id="equal boxes without area"),
        pytest.param([(5, 5, 5, 5, 0.9, 0)], [(6, 5, 6, 5, 0.9, 0)], [], id="other boxes without area"),
    ],
)
def test_detections_are_paired(
    reference: list[tuple[float, ...]], candidate: list[tuple[float, ...]], pairs: list[tuple[int, int]]
) -> None:
    found = match_detections(detections(reference), detections(candidate), 0.9)
    assert found.dtype == np.int64 and found.shape == (len(pairs), 2)
    assert sorted(map(tuple, found.tolist())) == pairs


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return three_pictures(tmp_path)


def compared(
    reference: FakeRunner,
    candidate: FakeRunner,
    dataset: Dataset,
    *,
    metric: str | None = None,
    tolerances: Tolerances = USUAL,
    criteria: Criteria | None = None,
) -> Comparison:
    runs = [run_of(runner, dataset, metric) for runner in (reference, candidate)]
    return compare(*runs, dataset, criteria or Criteria(tolerances=tolerances))


def moved(rows: list[tuple[float, ...]], *, pixels: float = 0, score: float = 0) -> list[tuple[float, ...]]:
    return [(x1 + pixels, y1, x2 + pixels, y2, s + score, label) for x1, y1, x2, y2, s, label in rows]


def test_identical_runs_pass_with_an_agreement_of_1(dataset: Dataset) -> None:
    found = compared(FakeRunner(SPEC, ROWS, name="one"), FakeRunner(SPEC, ROWS, name="two"), dataset)
    assert (found.reference, found.backend) == ("one", "two")
    assert found.failures == () and found.first_failing_stage is None
    assert found.agreement == 1
    assert (found.matched, found.unmatched) == (180, 0)
    assert (found.score_difference, found.box_difference) == (0, 0)
    assert [stage.name for stage in found.stages] == [
        "input tensor",
        "raw logits",
        "raw offsets",
        "detection scores",
        "detections",
    ]
    assert all(stage.passed for stage in found.stages)
    assert math.isnan(found.metric) and math.isnan(found.metric_difference)
    assert found.latency_ms > 0


BROKEN = {
    "boxes 1 px to the right": (FakeRunner(SPEC, moved(ROWS, pixels=1)), "detections"),
    "scores 0.01 higher": (FakeRunner(SPEC, moved(ROWS, score=0.01)), "detection scores"),
    "boxes of the right size 0.2 px off": (FakeRunner(SPEC, moved(ROWS, pixels=0.2)), "detections"),
    "a tenth of the detections lost": (FakeRunner(SPEC, ROWS[:54]), "detections"),
    "detections added": (FakeRunner(SPEC, [*ROWS, *[(20, 80, 90, 99, 0.02, 0)] * 3]), "detections"),
    "nothing found": (FakeRunner(SPEC, []), "detections"),
    "labels exchanged": (FakeRunner(SPEC, [(*row[:5], 1 - row[5]) for row in ROWS]), "detections"),
    "another mean": (FakeRunner(dataclasses.replace(SPEC, mean=(0.5, 0.456, 0.406)), ROWS), "input tensor"),
    "another std": (FakeRunner(dataclasses.replace(SPEC, std=(0.229, 0.224, 0.226)), ROWS), "input tensor"),
    "another input size": (FakeRunner(dataclasses.replace(SPEC, input_size=(90, 100)), ROWS), "input tensor"),
    "one logit off": (FakeRunner(SPEC, ROWS, logits_shift=0.01), "raw logits"),
    "one offset off": (FakeRunner(SPEC, ROWS, offsets_shift=-0.01), "raw offsets"),
    "logits and boxes off": (FakeRunner(SPEC, moved(ROWS, pixels=1), logits_shift=0.01), "raw logits"),
    "one logit is NaN": (FakeRunner(SPEC, ROWS, logits_shift=math.nan), "raw logits"),
    "one offset is NaN": (FakeRunner(SPEC, ROWS, offsets_shift=math.nan), "raw offsets"),
    "one offset is infinite": (FakeRunner(SPEC, ROWS, offsets_shift=math.inf), "raw offsets"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_backend_fails_and_the_first_broken_stage_is_named(
    dataset: Dataset, tmp_path: Path, name: str
) -> None:
    broken, first_stage = BROKEN[name]
    found = compared(FakeRunner(SPEC, ROWS), broken, dataset)
    assert found.first_failing_stage == first_stage
    assert any(failure.startswith(first_stage) for failure in found.failures)
    # Infinite and undefined differences can be written too.
    write_json(tmp_path / "out.json", found.to_dict())
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["passed"], written["first_failing_stage"]) == (False, first_stage)


def test_a_broken_reference_fails_just_the_same(dataset: Dataset) -> None:
    found = compared(FakeRunner(SPEC, ROWS, logits_shift=math.nan), FakeRunner(SPEC, ROWS), dataset)
    assert found.first_failing_stage == "raw logits"


def test_other_shapes_of_raw_predictions_fail(dataset: Dataset) -> None:
    class Shorter(FakeRunner):
        def run_raw(self, images: Any) -> Any:
            raw = super().run_raw(images)
            return raw._replace(cls_logits=raw.cls_logits[:, :4])

    assert compared(FakeRunner(SPEC, ROWS), Shorter(SPEC, ROWS), dataset).first_failing_stage == "raw logits"


def test_differences_are_measured_in_image_pixels_and_scores(tmp_path: Path) -> None:
    # Twice as wide as the input, so 0.05 px there are 0.1 px in the picture.
    path = write_image(tmp_path / "wide.png", blocks(100, 200, 20, 0))
    data = images_as_dataset([path], CLASSES)
    candidate = FakeRunner(SPEC, [(*row[:2], row[2] + 0.05, row[3], row[4] - 2e-5, row[5]) for row in ROWS])
    found = compared(FakeRunner(SPEC, ROWS), candidate, data)
    assert found.box_difference == pytest.approx(0.1, abs=1e-4)
    assert found.score_difference == pytest.approx(2e-5, abs=1e-7)
    assert found.matched == 60
    assert compared(FakeRunner(SPEC, ROWS), candidate, data, tolerances=Tolerances(box=0.09)).failures
    assert not compared(FakeRunner(SPEC, ROWS), candidate, data, tolerances=Tolerances(box=0.11)).failures


def test_a_few_ties_of_many_detections_are_excused_and_more_are_not(dataset: Dataset) -> None:
    reference = FakeRunner(SPEC, ROWS)
    # 3 images of 60 and 59 detections: 3 of 357 have no partner. With two left out it is 6.
    lenient = Tolerances(agreement=0.9)
    assert compared(reference, FakeRunner(SPEC, ROWS[:-1]), dataset, tolerances=lenient).failures == ()
    found = compared(reference, FakeRunner(SPEC, ROWS[:-2]), dataset, tolerances=lenient)
    assert found.first_failing_stage == "detections" and "6 of 354" in found.failures[0]


def test_a_tie_excuses_no_score(dataset: Dataset) -> None:
    one_score_off = [*ROWS[:-1], (*ROWS[-1][:4], ROWS[-1][4] - 0.01, ROWS[-1][5])]
    found = compared(FakeRunner(SPEC, ROWS), FakeRunner(SPEC, one_score_off), dataset)
    assert found.first_failing_stage == "detection scores"


def test_of_a_handful_of_detections_none_is_excused(tmp_path: Path) -> None:
    data = images_as_dataset([write_image(tmp_path / "one.png", blocks(100, 100, 20, 0))], CLASSES)
    row = (10, 10, 90, 90, 0.9, 0)
    broken_at = {"detections": moved([row], pixels=1), "detection scores": moved([row], score=0.01)}
    for stage, broken in broken_at.items():
        # Too little for the agreement, which looks at overlaps of 0.95 and less and at the order of scores.
        found = compared(FakeRunner(SPEC, [row]), FakeRunner(SPEC, broken), data)
        assert found.agreement == pytest.approx(1)
        assert found.first_failing_stage == stage


def test_nothing_detected_on_either_side_is_an_error_and_no_pass(dataset: Dataset) -> None:
    with pytest.raises(DatasetError, match="neither one nor two detected anything"):
        compared(FakeRunner(SPEC, [], name="one"), FakeRunner(SPEC, [], name="two"), dataset)


def test_something_detected_on_one_side_only_fails_with_an_agreement_of_0(dataset: Dataset) -> None:
    for sides in ((ROWS, []), ([], ROWS)):
        found = compared(*(FakeRunner(SPEC, rows) for rows in sides), dataset)
        assert found.agreement == 0 and found.failures
        assert (found.matched, found.unmatched) == (0, 180)


def test_no_images_are_an_error(dataset: Dataset) -> None:
    run = run_of(ROWS, dataset)
    empty = dataclasses.replace(dataset, samples=())
    with pytest.raises(DatasetError, match="no images"):
        compare(run, run, empty)
    with pytest.raises(DatasetError, match="no images"):
        compared(FakeRunner(SPEC, ROWS), FakeRunner(SPEC, ROWS), empty)


def test_runs_over_different_numbers_of_images_are_not_cut_to_the_shorter(dataset: Dataset) -> None:
    run = run_of(ROWS, dataset)
    with pytest.raises(ValueError):
        compare(run, dataclasses.replace(run, detections=run.detections[:2]), dataset)


def test_unmatched_detections_are_listed_by_image_with_class_score_and_box(dataset: Dataset) -> None:
    class OnlyOnTheSecond(FakeRunner):
        calls = 0

        def run(self, images: Any) -> Any:
            answer = super().run(images)
            self.calls += 1
            if self.calls == 1:  # a batch of two, then one of one
                answer.labels[1, 0] = 1
            return answer

    found = compared(FakeRunner(SPEC, ROWS), OnlyOnTheSecond(SPEC, ROWS), dataset)
    assert [image.image_id for image in found.images] == ["0.png", "1.png", "2.png"]
    assert [image.matched for image in found.images] == [60, 59, 60]
    box = [0.0, 0.0, 8.0, 8.0]
    assert found.images[1].only_reference == ({"class_name": "cat", "score": pytest.approx(0.9), "box": box},)
    assert found.images[1].only_candidate == ({"class_name": "dog", "score": pytest.approx(0.9), "box": box},)
    assert found.images[0].only_reference == found.images[2].only_candidate == ()


def test_the_metric_and_each_class_are_held_against_the_reference(dataset: Dataset) -> None:
    truth = annotated(dataset)
    found = compared(FakeRunner(SPEC, ROWS), FakeRunner(SPEC, SWAPPED), truth, metric="voc")
    # Both sides have false positives of the same score in the other pictures; among equals the earlier image is first.
    assert found.per_class_difference == {"cat": pytest.approx(-3 / 4), "dog": pytest.approx(0)}
    assert found.metric == pytest.approx((1 / 4 + 1) / 2)
    assert found.metric_difference == pytest.approx(-3 / 8)
    assert any("the metric differs by -3.75e-01" in failure for failure in found.failures)


def test_only_the_metric_leaving_its_tolerance_is_a_failure_too(dataset: Dataset) -> None:
    truth = annotated(dataset)
    lenient = Tolerances(score=1, box=1, agreement=0)
    # Row 1 (dog) falls behind row 3 (dog) by a hair, which no other stage notices with these tolerances.
    rows = [ROWS[0], (*ROWS[1][:4], ROWS[3][4] - 0.001, 1), *ROWS[2:]]
    rows.sort(key=lambda row: -row[4])
    found = compared(FakeRunner(SPEC, ROWS), FakeRunner(SPEC, rows), truth, metric="voc", tolerances=lenient)
    assert found.first_failing_stage is None
    assert len(found.failures) == 1 and found.failures[0].startswith("the metric differs")
    allowed = dataclasses.replace(lenient, metric=1.0)
    assert not compared(
        FakeRunner(SPEC, ROWS), FakeRunner(SPEC, rows), truth, metric="voc", tolerances=allowed
    ).failures


def test_a_low_agreement_is_a_failure(dataset: Dataset) -> None:
    lenient = Tolerances(score=1, box=100, pair_iou=0, agreement=0.999)
    found = compared(FakeRunner(SPEC, ROWS), FakeRunner(SPEC, moved(ROWS, pixels=3)), dataset, tolerances=lenient)
    assert found.agreement < 0.999
    assert any("agreement AP" in failure for failure in found.failures)


def test_the_report_holds_versions_machine_tolerances_and_every_image(dataset: Dataset, tmp_path: Path) -> None:
    truth = annotated(dataset)
    spec = dataclasses.replace(SPEC, versions={"torch": "2.11"}, weights="some.params")
    runs = [
        run_of(runner, truth, "coco")
        for runner in (FakeRunner(spec, ROWS, name="one"), FakeRunner(spec, ROWS[:-1], name="two"))
    ]
    comparison = compare(*runs, truth, Criteria(tolerances=Tolerances(agreement=0.5)))
    path = tmp_path / "parity.json"
    outcome = ParityOutcome(
        reference=runs[0], comparisons=(comparison,), candidates=(runs[1],), skipped=(), notes=(), dataset=truth
    )
    write_json(path, outcome.to_dict())
    report = json.loads(path.read_text())
    assert (report["images"], report["passed"]) == (3, True)
    assert report["detector"]["versions"] == {"torch": "2.11"} and report["detector"]["weights"] == "some.params"
    assert set(report["machine"]) == {"platform", "python"}
    tolerances = report["comparisons"][0]["tolerances"]
    assert tolerances["agreement"] == 0.5 and tolerances["box"] == 0.1
    assert report["reference"]["backend"] == "one" and report["reference"]["latency_ms"] > 0
    assert report["reference"]["report"]["numbers"].keys() >= {"AP", "AP50", "ARl"}
    # There are no large objects, so their AP is undefined; JSON has no NaN.
    assert report["reference"]["report"]["numbers"]["APl"] is None
    (written,) = report["comparisons"]
    assert written["backend"] == "two"
    assert written["unmatched"] == 3 and written["matched"] == 177
    assert written["per_class_difference"] == {"cat": pytest.approx(0), "dog": pytest.approx(0)}
    assert [image["image_id"] for image in written["images"]] == ["0.png", "1.png", "2.png"]
    assert written["images"][2]["only_reference"][0]["score"] == pytest.approx(ROWS[-1][4])
    assert [stage["passed"] for stage in written["stages"]] == [True] * 5


def test_comparing_changes_neither_run(dataset: Dataset) -> None:
    runs = [run_of(rows, dataset) for rows in (ROWS, moved(ROWS, pixels=1))]
    before = copy.deepcopy([run.detections for run in runs])
    compare(*runs, dataset)
    for run, kept in zip(runs, before, strict=True):
        for found, expected in zip(run.detections, kept, strict=True):
            np.testing.assert_array_equal(found.boxes, expected.boxes)


@pytest.mark.parametrize("value", [-1e-9, math.nan])
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Tolerances)])
def test_tolerances_below_0_or_undefined_are_refused(name: str, value: float) -> None:
    with pytest.raises(DatasetError, match=name):
        Tolerances(**{name: value})


def test_every_image_of_a_set_without_ground_truth_is_opened_first(tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png", blocks(30, 40, 10, 0))
    (tmp_path / "bad.png").write_bytes(b"")
    made = images_as_dataset([good], CLASSES)
    assert made.samples[0].image_size == (30, 40)
    assert made.samples[0].image_id == "good.png"
    with pytest.raises(ImageError, match="bad.png"):
        images_as_dataset([good, tmp_path / "bad.png"], CLASSES)
