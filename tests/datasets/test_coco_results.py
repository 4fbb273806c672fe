import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_train.datasets.coco_results import write_results
from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.zoo import COCO_CLASSES
from ssd_train.spec import DetectorSpec


def two_images() -> Dataset:
    samples = tuple(
        Sample(image_id=image_id, path=Path("a.jpg"), image_size=(30, 40), ground_truth=make_ground_truth([]))
        for image_id in (12, 7)
    )
    return Dataset(name="coco any", class_names=("cat", "dog"), samples=samples, category_ids=(2, 9))


def test_rows_hold_the_data_sets_ids_and_clipped_corner_and_size(tmp_path: Path) -> None:
    found = Detections(
        np.array([[1, 2, 11, 22], [-5, 10, 99, 99]], np.float32),
        np.array([0.75, 0.5], np.float32),
        np.array([1, 0], np.int64),
    )
    path = tmp_path / "out" / "results.json"
    write_results(path, two_images(), [Detections.empty(), found])
    assert json.loads(path.read_text()) == [
        {"image_id": 7, "category_id": 9, "bbox": [1, 2, 10, 20], "score": 0.75},
        {"image_id": 7, "category_id": 2, "bbox": [0, 10, 40, 20], "score": 0.5},
    ]
    assert list(path.parent.iterdir()) == [path]


def test_no_detections_make_an_empty_list_and_another_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, two_images(), [Detections.empty()] * 2)
    assert json.loads(path.read_text()) == []
    with pytest.raises(ValueError):
        write_results(path, two_images(), [Detections.empty()])


def test_pycocotools_reads_the_file_and_finds_the_same_score(real_data: Path, tmp_path: Path) -> None:
    dataset = find_source("coco", real_data / "coco_tiny").load(None, COCO_CLASSES)
    rng = np.random.default_rng(0)
    found = []
    for sample in dataset.samples:
        truth = sample.ground_truth
        # Four pixels move many boxes over the border and lose many small ones.
        boxes = truth.boxes + rng.normal(0, 4, truth.boxes.shape)
        scores = np.sort(rng.random(len(truth)).astype(np.float32))[::-1].copy()
        found.append(Detections(boxes.astype(np.float32), scores, truth.labels))
    spec = DetectorSpec(network="noise", class_names=COCO_CLASSES, input_size=(300, 300))
    report = score(dataset, found, spec, metric="coco", protocol=Protocol.STANDARD)
    write_results(tmp_path / "results.json", dataset, found)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(real_data / "coco_tiny" / "annotations" / "instances_val2017.json"))
        evaluated = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    assert 0.2 < report.headline < 0.95
    np.testing.assert_allclose(list(report.numbers.values()), evaluated.stats, atol=1e-9)
