"""The VOC metric under the `gluoncv` protocol against GluonCV's, from XML files to average precisions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.datasets.source import find_source
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.evaluation.evaluate import score
from ssd_train.metrics.protocol import Protocol
from ssd_train.metrics.voc_ap import in_protocol
from ssd_train.networks.zoo import VOC_CLASSES
from ssd_train.spec import DetectorSpec

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def reference(oracle_dir: Path) -> dict[str, NDArray[Any]]:
    with np.load(oracle_dir / "voc_metric.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def spec(reference: dict[str, NDArray[Any]]) -> DetectorSpec:
    side = int(reference["input_size"])
    return DetectorSpec(network="oracle", class_names=VOC_CLASSES, input_size=(side, side))


def test_objects_are_those_that_gluoncv_reads(
    oracle_dir: Path, reference: dict[str, NDArray[Any]], spec: DetectorSpec
) -> None:
    dataset = find_source("voc", oracle_dir / "voc").load("2007_test", VOC_CLASSES)
    assert [sample.image_id for sample in dataset.samples] == list(reference["image_ids"])
    for sample, rows in zip(dataset.samples, reference["truth"], strict=True):
        rows = rows[rows[:, 4] >= 0]
        truth, _ = in_protocol(
            Protocol.GLUONCV,
            sample.ground_truth,
            Detections.empty(),
            image_size=sample.image_size,
            input_size=spec.input_size,
        )
        # GluonCV adds the 1 to x2 and y2 later, inside its metric; its labels are float32.
        np.testing.assert_allclose(truth.boxes - [0, 0, 1, 1], rows[:, :4], atol=1e-4, err_msg=str(sample.image_id))
        np.testing.assert_array_equal(truth.labels, rows[:, 4])
        np.testing.assert_array_equal(truth.is_difficult, rows[:, 5] == 1)


def test_average_precisions_are_gluoncv_s(
    oracle_dir: Path, reference: dict[str, NDArray[Any]], spec: DetectorSpec
) -> None:
    dataset = find_source("voc", oracle_dir / "voc").load("2007_test", VOC_CLASSES)
    padded = PaddedDetections(reference["bboxes"], reference["scores"], reference["ids"].astype(np.int64))
    detections = [
        Detections.from_padded(padded, row, spec.input_size, sample.image_size)
        for row, sample in enumerate(dataset.samples)
    ]
    report = score(dataset, detections, spec, metric="voc", protocol=Protocol.GLUONCV)
    for ours, theirs in (("07", "voc07"), ("12", "area")):
        per_class = [report.per_class[name][f"AP{ours}"] for name in VOC_CLASSES]
        np.testing.assert_allclose(per_class, reference[f"{theirs}_per_class"], atol=1e-6)
        np.testing.assert_allclose(report.numbers[f"VOC{ours} mAP"], reference[f"{theirs}_mean"], atol=1e-6)


def test_the_material_meets_every_rule(reference: dict[str, NDArray[Any]]) -> None:
    """Without this the two tests above could agree on easy data."""
    objects, found = reference["truth"][..., 4] >= 0, reference["ids"] >= 0
    per_class = reference["voc07_per_class"]
    boxes, side = reference["bboxes"][found], int(reference["input_size"])
    assert (reference["truth"][objects][:, 5] == 1).sum() > 20, "no difficult objects"
    assert (~objects.any(axis=1)).any() and (~found.any(axis=1)).any(), "no image without objects or detections"
    assert (boxes < 0).any() and (boxes > side).any(), "no detection reaches outside"
    assert np.isnan(per_class[[16, 18, 19]]).all(), "no class without objects that count"
    assert per_class[17] == 0, "no class without detections"
    assert (per_class[:16] > 0.05).all() and (per_class[:16] < 0.95).all()
    assert len(np.unique(reference["scores"][found])) == found.sum(), "equal scores, whose order GluonCV leaves open"
