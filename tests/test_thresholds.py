"""Which detections are given out: thresholds at run time, and the sentence where there is nothing to give."""

import dataclasses

import numpy as np
import pytest

from ssd_train.detections import Detections
from ssd_train.errors import SpecError
from ssd_train.spec import DetectorSpec, PostprocessSettings, WorkingThresholds
from ssd_train.thresholds import Keeping, keeping, nothing_found

SPEC = DetectorSpec(
    network="tiny",
    class_names=("cat", "dog"),
    input_size=(64, 64),
    postprocess=PostprocessSettings(score_threshold=0.1, pre_nms_top_k=20, max_detections=10),
)
SAVED = dataclasses.replace(
    SPEC, working_thresholds=WorkingThresholds(overall=0.3, per_class={"dog": 0.6}, found_by="best F1 on pets")
)


def found(*rows: tuple[float, int]) -> Detections:
    return Detections(
        np.zeros((len(rows), 4), np.float32),
        np.array([score for score, _ in rows], np.float32),
        np.array([label for _, label in rows], np.int64),
    )


def least(kept: Keeping) -> list[float]:
    return kept.score_thresholds.tolist()


def test_without_anything_the_graph_decides() -> None:
    kept = keeping(SPEC)
    assert (least(kept), kept.max_detections) == ([0.1, 0.1], 10)


def test_the_usual_threshold_holds_where_none_is_given_or_saved() -> None:
    assert least(keeping(SPEC, default=0.5)) == [0.5, 0.5]
    assert least(keeping(SAVED, default=0.5)) == [0.3, 0.6]
    # Lower than the graph's it cannot be.
    assert least(keeping(SPEC, default=0.05)) == [0.1, 0.1]


def test_saved_thresholds_say_where_they_come_from() -> None:
    assert "best F1 on pets" in keeping(SAVED).origin


def test_a_given_threshold_goes_before_the_saved_ones_and_a_class_before_all() -> None:
    assert least(keeping(SAVED, score_threshold=0.2)) == [0.2, 0.2]
    assert least(keeping(SAVED, class_thresholds={"cat": 0.9})) == [0.9, 0.6]
    assert least(keeping(SAVED, score_threshold=0.2, class_thresholds={"cat": 0.9})) == [0.9, 0.2]


def test_a_saved_threshold_below_the_graph_s_is_raised_to_it() -> None:
    low = dataclasses.replace(SPEC, working_thresholds=WorkingThresholds(overall=0.05, per_class={"dog": 0.02}))
    assert least(keeping(low)) == [0.1, 0.1]


def test_a_score_of_exactly_the_threshold_counts() -> None:
    # 0.3 as float32 is above 0.3 as float64, and 0.7 below it.
    for value in (0.3, 0.7):
        assert len(keeping(SPEC, score_threshold=value).apply(found((value, 0)))) == 1


def test_each_class_has_its_threshold_and_the_best_are_kept() -> None:
    given = found((0.9, 0), (0.8, 1), (0.5, 1), (0.4, 0), (0.35, 0), (0.2, 0))
    assert keeping(SAVED).apply(given).scores.tolist() == pytest.approx([0.9, 0.8, 0.4, 0.35])
    assert keeping(SAVED, max_detections=3).apply(given).scores.tolist() == pytest.approx([0.9, 0.8, 0.4])


def test_nothing_stays_nothing() -> None:
    assert len(keeping(SAVED).apply(Detections.empty())) == 0


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        ({"score_threshold": 0.05}, "export it again with `ssd-deploy export --score-threshold 0.05`", "score_thr"),
        ({"class_thresholds": {"dog": 0.05}}, "use 0.1 or more", "class_thr"),
        ({"score_threshold": 1.5}, "expected 0 to 1", "score_thr"),
        ({"score_threshold": float("nan")}, "expected 0 to 1", "score_thr"),
        ({"class_thresholds": {"cow": 0.5}}, "'cow' is no class of tiny; it has cat, dog", "class_thr"),
        ({"max_detections": 11}, "gives 1 to 10 an image", "max_det"),
        ({"max_detections": 0}, "gives 1 to 10 an image", "max_det"),
    ],
)
def test_what_the_graph_cannot_give_is_refused_with_the_cure(arguments: dict, message: str, field: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        keeping(SPEC, **arguments)
    assert error.value.arguments[0].startswith(field)


@pytest.mark.parametrize(
    ("highest", "suggested"), [(0.41, "0.3"), (0.9, "0.6"), (0.5, "0.3"), (0.13, "0.1"), (0.25, "0.1")]
)
def test_a_picture_without_detections_says_what_to_try(highest: float, suggested: str) -> None:
    kept = keeping(SPEC, score_threshold=0.95)
    assert nothing_found(highest, kept) == f"highest score {highest:g}; try --score-threshold {suggested}"
    assert nothing_found(highest, kept, in_python=True).endswith(f"try score_threshold={suggested}")
    # What it says helps, and is not refused.
    assert len(keeping(SPEC, score_threshold=float(suggested)).apply(found((highest, 0)))) == 1


def test_where_there_is_nothing_at_all_there_is_nothing_to_try() -> None:
    assert nothing_found(None, keeping(SPEC)) == "no score is above 0.1, the least that this detector gives"
