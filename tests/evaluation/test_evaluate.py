import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import DatasetError
from ssd_train.evaluation.evaluate import has_objects, score
from ssd_train.evaluation.loop import Predict, run_detector
from ssd_train.files import write_json
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.scored import Scored
from ssd_train.metrics.table import METRICS, Metric
from ssd_train.networks.postprocess import SUPPRESSION_ROUNDS, Postprocess
from ssd_train.networks.zoo import COCO_CLASSES
from ssd_train.spec import DetectorSpec, PostprocessSettings

SPEC = DetectorSpec(
    network="tiny",
    class_names=("a", "b", "c"),
    input_size=(30, 60),
    postprocess=PostprocessSettings(max_detections=2),
)


def scored_dataset(notes: tuple[str, ...] = ()) -> tuple[Dataset, list[Detections]]:
    """Two images of 60x30; one object is found, one repeated, a difficult one and one of class c missed."""
    rows = [
        {"box": (10, 10, 20, 20), "label": 0, "is_difficult": False, "is_crowd": False, "area": 100.0},
        {"box": (30, 10, 40, 20), "label": 0, "is_difficult": True, "is_crowd": False, "area": 100.0},
    ]
    other = [{"box": (0, 0, 1, 20), "label": 2, "is_difficult": False, "is_crowd": False, "area": 20.0}]
    samples = tuple(
        Sample(image_id=name, path=Path(f"{name}.png"), image_size=(30, 60), ground_truth=make_ground_truth(truth))
        for name, truth in (("x", rows), ("y", other))
    )
    dataset = Dataset(
        name="voc test", class_names=("a", "b", "c"), samples=samples, category_ids=(1, 2, 3), notes=notes
    )
    box = np.array([[10, 10, 20, 20]] * 2, np.float32)
    found = Detections(box, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64))
    return dataset, [found, Detections.empty()]


def test_a_voc_report_holds_the_score_and_what_it_means() -> None:
    dataset, found = scored_dataset(("left out 1 objects",))
    report = score(dataset, found, SPEC, metric="voc", protocol=Protocol.STANDARD)
    # Class a: found first, repeated after: 1. Class c: missed: 0. Class b: nothing to find.
    assert report.headline_name == "VOC07 mAP"
    assert report.headline == pytest.approx(0.5)
    assert report.numbers["VOC12 mAP"] == pytest.approx(0.5)
    assert report.per_class["a"] == {"AP07": pytest.approx(1), "AP12": pytest.approx(1), "objects": 1}
    assert np.isnan(report.per_class["b"]["AP07"])
    assert (report.images, report.objects, report.difficult_objects, report.crowd_objects) == (2, 3, 1, 0)
    assert (report.detections, report.capped_images) == (2, 1)
    assert report.notes == ("left out 1 objects",)
    assert report.postprocess["nms_iou_threshold"] == 0.45


def chain_found(count: int) -> Detections:
    """What post-processing keeps of a chain of boxes, each above the threshold with the next one alone."""
    anchors = torch.tensor([[5.0, 2.5 * row + 5, 10, 10] for row in range(count)])
    logits = torch.tensor([[0.0, 9 - 0.1 * row] for row in range(count)])
    settings = PostprocessSettings(pre_nms_top_k=count, max_detections=count)
    kept = Postprocess(settings)(logits[None], torch.zeros(1, count, 4), anchors)
    padded = PaddedDetections(*(value.numpy() for value in kept))
    return Detections.from_padded(padded, 0, (300, 300), (211, 633))


def test_images_whose_chains_are_longer_than_the_rounds_of_suppression_are_counted() -> None:
    dataset, _ = scored_dataset()
    exact, too_long = chain_found(SUPPRESSION_ROUNDS + 1), chain_found(SUPPRESSION_ROUNDS + 9)
    assert len(exact) == (SUPPRESSION_ROUNDS + 2) // 2 and len(too_long) > (SUPPRESSION_ROUNDS + 10) // 2
    report = score(dataset, [exact, too_long], SPEC, metric="voc", protocol=Protocol.STANDARD)
    assert report.unsettled_images == 1
    assert any("in 1 images suppression came to the end of its rounds" in line for line in report.lines(1000))
    report = score(dataset, [exact, exact], SPEC, metric="voc", protocol=Protocol.STANDARD)
    assert report.unsettled_images == 0 and "suppression" not in "".join(report.lines())


def without_objects(**changes: Any) -> Dataset:
    dataset, _ = scored_dataset(("took the size from the file",))
    empty = make_ground_truth([])
    samples = tuple(dataclasses.replace(sample, ground_truth=empty) for sample in dataset.samples)
    return dataclasses.replace(dataset, samples=samples, **changes)


def nothing_but_difficult_and_crowd() -> Dataset:
    dataset, _ = scored_dataset()
    samples = [
        dataclasses.replace(
            sample, ground_truth=dataclasses.replace(sample.ground_truth, **{flag: sample.ground_truth.labels >= 0})
        )
        for sample, flag in zip(dataset.samples, ("is_difficult", "is_crowd"), strict=True)
    ]
    return dataclasses.replace(dataset, samples=tuple(samples))


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("metric", ["voc", "coco"])
@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (without_objects(), "no image has an object that counts"),
        (nothing_but_difficult_and_crowd(), "no image has an object that counts"),
        (without_objects(is_annotated=False), "there are no annotations"),
    ],
)
def test_where_there_is_nothing_to_find_there_is_no_score_and_the_reason(
    dataset: Dataset, reason: str, metric: str, protocol: Protocol, tmp_path: Path
) -> None:
    assert not has_objects(dataset.samples) and has_objects(scored_dataset()[0].samples)
    report = score(dataset, scored_dataset()[1], SPEC, metric=metric, protocol=protocol)
    assert (report.numbers, report.per_class, report.images, report.detections) == ({}, {}, 2, 2)
    assert np.isnan(report.headline)
    assert report.notes == (*dataset.notes, f"no score, since {reason}")
    assert report.lines()[0] == f"{report.headline_name} n/a  tiny on voc test"
    write_json(tmp_path / "report.json", report.to_dict())
    assert json.loads((tmp_path / "report.json").read_text())["headline"] is None


def test_a_gluoncv_report_notes_the_objects_its_rule_leaves_out() -> None:
    dataset, found = scored_dataset()
    report = score(dataset, found, SPEC, metric="voc", protocol=Protocol.GLUONCV)
    # The object of class c is one pixel wide.
    assert report.headline == pytest.approx(1)
    assert report.notes == ("left out 1 objects that break GluonCV's bounds rule",)
    assert "gluoncv" in report.protocol_text


def test_the_protocol_decides_which_of_two_equal_scores_ranks_first() -> None:
    dataset, _ = scored_dataset()
    # Class a is found in the first image, and seen in the second where it is not, with the same score.
    box, scores, labels = np.array([[10, 10, 20, 20]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int64)
    found = [Detections(box, scores, labels)] * 2
    for protocol, expected in ((Protocol.STANDARD, 1), (Protocol.GLUONCV, 0.5)):
        report = score(dataset, found, SPEC, metric="voc", protocol=protocol)
        assert report.per_class["a"]["AP12"] == pytest.approx(expected)


def test_a_report_is_json_with_unrounded_fractions_and_null_for_undefined(tmp_path: Path) -> None:
    dataset, found = scored_dataset()
    report = score(dataset, found, SPEC, metric="coco", protocol=Protocol.STANDARD)
    write_json(tmp_path / "report.json", report.to_dict())
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["headline"] == content["numbers"]["AP"] == report.headline
    assert content["per_class"]["b"]["AP"] is None
    assert content["protocol"] == "standard"
    assert content["capped_images"] == 1


@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_report_lines_state_score_rules_thresholds_and_notes(metric: str) -> None:
    dataset, found = scored_dataset(("took the size from the file",))
    report = score(dataset, found, SPEC, metric=metric, protocol=Protocol.STANDARD)
    text = "\n".join(report.lines(200))
    assert report.lines()[0].startswith(f"{report.headline_name} {100 * report.headline:.2f} %")
    for part in (
        "tiny on voc test",
        "protocol standard",
        "score_threshold 0.01",
        "2 images, 3 objects (1 difficult, 0 crowd), 2 detections",
        "1 images at the limit of 2 detections",
        "note: took the size from the file",
        "n/a",
    ):
        assert part in text


@pytest.mark.parametrize("protocol", list(Protocol))
@pytest.mark.parametrize("metric", ["voc", "coco"])
def test_report_lines_fit_80_columns_and_lose_no_word(metric: str, protocol: Protocol) -> None:
    dataset, found = scored_dataset(tuple(f"left out {number} objects of class long name" * 3 for number in range(2)))
    names = ("a", "b", "a class with a name of thirty-two")
    dataset = dataclasses.replace(dataset, class_names=names)
    spec = dataclasses.replace(SPEC, class_names=names, network="ssd_512_mobilenet1.0_custom_and_more")
    report = score(dataset, found, spec, metric=metric, protocol=protocol)
    lines = report.lines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split() == " ".join(report.lines(10_000)).split()
    # Short ones stay as they are, columns and all.
    assert set(line for line in report.lines(10_000) if len(line) <= 80) <= set(lines)


def test_one_more_metric_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(dataset: Dataset, detections: Sequence[Detections], spec: DetectorSpec, protocol: Protocol) -> Scored:
        return Scored(numbers={"share": sum(map(len, detections)) / len(dataset.samples)}, per_class={})

    with pytest.raises(TypeError, match="describe"):
        Metric(name="toy", headline="share", score=count)  # type: ignore[call-arg]
    row = Metric(name="toy", headline="share", score=count, describe=lambda protocol, spec: f"{protocol} toy rules")
    monkeypatch.setitem(METRICS._rows, "toy", row)
    dataset, found = scored_dataset()
    report = score(dataset, found, SPEC, metric="toy", protocol=Protocol.STANDARD)
    assert (report.headline_name, report.headline, report.protocol_text) == ("share", 1.0, "standard toy rules")
    assert report.lines()[0] == "share 100.00 %  tiny on voc test"


def test_a_metric_that_does_not_exist_or_another_class_list_is_refused() -> None:
    dataset, found = scored_dataset()
    with pytest.raises(DatasetError, match="'map' does not exist; choose voc, coco"):
        score(dataset, found, SPEC, metric="map", protocol=Protocol.STANDARD)
    other = DetectorSpec(network="tiny", class_names=("a", "c", "b"), input_size=(30, 60))
    with pytest.raises(DatasetError, match="load the data set with the detector's class list"):
        score(dataset, found, other, metric="voc", protocol=Protocol.STANDARD)
    with pytest.raises(ValueError, match="1 images were detected, but voc test has 2"):
        score(dataset, found[:1], SPEC, metric="voc", protocol=Protocol.STANDARD)


def answers_of(dataset: Dataset, spec: DetectorSpec) -> Predict:
    """A detector that knows the answers: every object that counts, in network-input pixels."""
    order = iter(dataset.samples)

    def predict(images: NDArray[np.float32]) -> PaddedDetections:
        boxes = np.full((len(images), 100, 4), -1, np.float32)
        scores = np.full((len(images), 100), -1, np.float32)
        labels = np.full((len(images), 100), -1, np.int64)
        for row in range(len(images)):
            sample = next(order)
            truth = sample.ground_truth
            counts = ~truth.is_crowd
            found = int(counts.sum())
            scale = np.tile(np.array(spec.input_size[::-1]) / sample.image_size[::-1], 2)
            boxes[row, :found] = truth.boxes[counts] * scale
            scores[row, :found] = 0.9
            labels[row, :found] = truth.labels[counts]
        return PaddedDetections(boxes, scores, labels)

    return predict


def test_a_detector_that_knows_the_answers_scores_one_on_real_coco_images(real_data: Path) -> None:
    spec = DetectorSpec(network="oracle", class_names=COCO_CLASSES, input_size=(300, 300))
    dataset = find_source("coco", real_data / "coco_tiny").load(None, COCO_CLASSES)
    found = run_detector(dataset.samples, answers_of(dataset, spec), spec)
    report = score(dataset, found, spec, metric="coco", protocol=Protocol.STANDARD)
    assert report.headline == pytest.approx(1, abs=1e-9)
    assert score(dataset, found, spec, metric="voc", protocol=Protocol.STANDARD).headline == pytest.approx(1)
    # One pixel more costs small boxes their high thresholds.
    assert 0.5 < score(dataset, found, spec, metric="coco", protocol=Protocol.GLUONCV).headline < 1


@pytest.mark.parametrize("protocol", list(Protocol))
def test_a_detector_that_knows_the_answers_scores_one_on_real_voc_images(real_data: Path, protocol: Protocol) -> None:
    spec = DetectorSpec(network="oracle", class_names=("RBC", "WBC", "Platelets"), input_size=(300, 300))
    dataset = find_source("voc", real_data / "bccd").load("test", spec.class_names).limited(20)
    found = run_detector(dataset.samples, answers_of(dataset, spec), spec)
    report = score(dataset, found, spec, metric="voc", protocol=protocol)
    assert report.headline == pytest.approx(1, abs=1e-9)
    assert report.objects > 100
