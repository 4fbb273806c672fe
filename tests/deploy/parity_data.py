"""What the tests of parity share: a fake detector's answers in three pictures, and ground truth for two of them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.compare import BackendRun, images_as_dataset, run_backend
from ssd_train.datasets.dataset import Dataset, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.metrics.protocol import Protocol
from ssd_train.spec import DetectorSpec

Row = tuple[float, ...]
CLASSES = ("cat", "dog")
SPEC = DetectorSpec(network="tiny", class_names=CLASSES, input_size=(100, 100))

# Sixty small boxes on a grid, so that a pixel more or less is seen, with scores of 0.31 or more: x1, y1, x2, y2,
# score, label.
ROWS: list[Row] = [
    (10 * (i % 10), 12 * (i // 10), 10 * (i % 10) + 8, 12 * (i // 10) + 8, round(0.9 - i / 100, 2), i % 2)
    for i in range(60)
]

# Scores of rows 0 (cat) and 2 (cat) exchanged: cat's only object in `annotated` has rank 4 instead of 1, after row 2 of
# all three pictures, and its AP is 1/4.
SWAPPED: list[Row] = sorted(
    [(*ROWS[0][:4], ROWS[2][4], 0), ROWS[1], (*ROWS[2][:4], ROWS[0][4], 0), *ROWS[3:]], key=lambda row: -row[4]
)


def detections(rows: Sequence[Row]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def three_pictures(folder: Path) -> Dataset:
    """Pictures of 100x100 pixels, the size of the network's input, without ground truth."""
    return images_as_dataset(
        [write_image(folder / f"{seed}.png", blocks(100, 100, 20, seed)) for seed in range(3)], CLASSES
    )


def annotated(dataset: Dataset) -> Dataset:
    """The first picture's objects are where rows 0 (cat) and 1 (dog) are."""
    rows = [
        {"box": ROWS[index][:4], "label": index, "is_difficult": False, "is_crowd": False, "area": 64.0}
        for index in (0, 1)
    ]
    first = dataclasses.replace(dataset.samples[0], ground_truth=make_ground_truth(rows))
    return dataclasses.replace(dataset, samples=(first, *dataset.samples[1:]))


def run_of(runner: Runner | Sequence[Row], dataset: Dataset, metric: str | None = None) -> BackendRun:
    """Run a fake backend, or one that answers with such rows."""
    if isinstance(runner, Sequence):
        runner = FakeRunner(SPEC, runner)
    return run_backend(runner, dataset, metric=metric, protocol=Protocol.STANDARD, batch_size=2, workers=1)
