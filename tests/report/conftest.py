"""Four small pictures with every kind of mistake, made by hand."""

import cv2
import numpy as np
import pytest

from ssd_train.datasets.dataset import Dataset, Sample, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.evaluation.evaluate import score
from ssd_train.metrics.matching import match_dataset
from ssd_train.metrics.operating_point import curves_of
from ssd_train.metrics.protocol import Protocol
from ssd_train.report.evaluation import Evaluation, collect
from ssd_train.spec import DetectorSpec, WorkingThresholds

# Markup, a formula, what matplotlib would hide, letters that its font lacks, and a long word.
CLASS_NAMES = ("<script>alert(1)</script>", "$\\alpha_{$", "_hidden 漢字", "w" * 80)
SIZE = (120, 160)

# Objects as (box, label, kind), detections as (box, score, label).
A, B = [10, 10, 50, 50], [60, 20, 155, 118]
TRUTH = (
    [(A, 0, ""), (B, 1, "")],
    [(A, 0, ""), (B, 2, "difficult")],
    [(A, 1, "")],
    [],
)
FOUND = (
    # Right, its duplicate, and a bad box of the other object.
    [(A, 0.9, 0), ([10, 10, 50, 48], 0.8, 0), ([60, 20, 100, 118], 0.7, 1)],
    # A wrong class; what only a difficult object matches is ignored.
    [(A, 0.6, 1), (B, 0.95, 2)],
    # Missed at the working threshold of 0.5.
    [(A, 0.4, 1)],
    # False, with an edge outside the picture.
    [([100, 60, 180, 118], 0.55, 0)],
)


def detections_of(rows: list[tuple[list[int], float, int]]) -> Detections:
    rows = sorted(rows, key=lambda row: -row[1])
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([value for _, value, _ in rows], np.float32),
        np.array([label for _, _, label in rows], np.int64),
    )


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    samples = []
    for number, rows in enumerate(TRUTH):
        path = folder / f"<b>{number}&.png"
        cv2.imwrite(str(path), random.integers(0, 255, (*SIZE, 3), np.uint8))
        truth = make_ground_truth(
            [
                {
                    "box": box, "label": label, "is_difficult": kind == "difficult", "is_crowd": False,
                    "area": (box[2] - box[0]) * (box[3] - box[1]),
                }
                for box, label, kind in rows
            ]
        )  # fmt: skip
        samples.append(Sample(image_id=path.stem, path=path, image_size=SIZE, ground_truth=truth))
    return Dataset(name='own <i>"data"</i>', class_names=CLASS_NAMES, samples=tuple(samples), category_ids=(1, 2, 3, 4))


@pytest.fixture(scope="session")
def detections() -> list[Detections]:
    return [detections_of(rows) for rows in FOUND]


@pytest.fixture(scope="session")
def spec() -> DetectorSpec:
    """A detector with a saved working threshold of 0.5."""
    return DetectorSpec(
        network="tiny",
        class_names=CLASS_NAMES,
        input_size=(300, 300),
        weights="by hand",
        weights_sha256="ab" * 32,
        working_thresholds=WorkingThresholds(overall=0.5, found_by="hand"),
    )


@pytest.fixture(scope="session")
def evaluation(dataset: Dataset, detections: list[Detections], spec: DetectorSpec) -> Evaluation:
    report = score(dataset, detections, spec, metric="voc", protocol=Protocol.STANDARD)
    ran = {"command": "by <hand>", "SHA-256 of the weights": "ab" * 32}
    matches = match_dataset(dataset, detections)
    curves = curves_of(dataset, detections, matches, lowest=spec.postprocess.score_threshold)
    return collect(dataset, detections, spec, report, ran, matches=matches, curves=curves)
