"""Counts and sizes of objects, by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ssd_train.data_check.objects import (
    Objects,
    count_objects,
    find_lacking_classes,
    objects_of,
    size_quantiles,
)
from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.datasets.findings import Findings
from ssd_train.evaluation.evaluate import has_objects

NAMES = ("cat", "dog", "bird")


def sample(boxes: list[tuple[float, ...]], labels: list[int], image_size: tuple[int, int] = (100, 200)) -> Sample:
    rows = [
        {"box": box, "label": label, "is_difficult": False, "is_crowd": False, "area": 1.0}
        for box, label in zip(boxes, labels, strict=True)
    ]
    return Sample(image_id=0, path=Path("a.png"), image_size=image_size, ground_truth=make_ground_truth(rows))


def test_objects_are_as_large_as_the_network_sees_them() -> None:
    objects = objects_of([sample([(20, 10, 60, 30)], [1]), sample([], []), sample([(0, 0, 8, 8)], [0], (8, 8))])
    np.testing.assert_allclose(objects.boxes, [[0.1, 0.1, 0.3, 0.3], [0, 0, 1, 1]])
    np.testing.assert_allclose(objects.sides(None), [[40, 20], [8, 8]])
    # 300 wide and 400 high.
    np.testing.assert_allclose(objects.sides((400, 300)), [[60, 80], [300, 400]])
    assert objects.labels.tolist() == [1, 0] and len(objects_of([]).labels) == 0


def test_sizes_are_roots_of_areas_by_quantile() -> None:
    sides = np.array([[1, 1], [2, 8], [9, 9], [3, 27], [20, 5]], float)  # 1, 4, 9, 9, 10
    objects = Objects(labels=np.array([0, 0, 0, 0, 0]), boxes=np.zeros((5, 4)), sizes=sides)
    quantiles = size_quantiles(objects, None, 2)
    # Between the first two of five at a tenth: 1 + 0.4 x 3; between the last two at nine tenths: 9 + 0.6 x 1.
    assert quantiles[0].tolist() == pytest.approx([1, 2.2, 9, 9.6, 10])
    assert np.isnan(quantiles[1]).all()


@pytest.mark.parametrize(
    ("train", "val", "expected"),
    [
        ([5, 5, 5], [1, 1, 1], {}),
        ([5, 0, 5], [1, 2, 0], {"class-untrained": "dog", "class-unscored": "bird"}),
        ([5, 0, 5], [1, 0, 1], {"class-without-objects": "dog"}),
        (None, [1, 0, 1], {"class-without-objects": "dog"}),
    ],
)
def test_classes_that_a_split_lacks(train: list[int] | None, val: list[int], expected: dict[str, str]) -> None:
    counts = {"train": np.array(train)} if train else {}
    findings = Findings(is_complete=True)
    find_lacking_classes({**counts, "val": np.array(val)}, NAMES, findings)
    assert {found.rule: found.place for found in findings.found()} == expected


def test_objects_are_counted_by_class() -> None:
    assert count_objects([sample([(0, 0, 1, 1)] * 3, [2, 0, 2])], 3).tolist() == [1, 0, 2]
    assert count_objects([], 3).tolist() == [0, 0, 0]


def test_difficult_and_crowd_objects_are_not_scored() -> None:
    one = sample([(0, 0, 9, 9)], [0])
    assert has_objects([sample([], []), one])
    for flag in ("is_difficult", "is_crowd"):
        truth = dataclasses.replace(one.ground_truth, **{flag: np.array([True])})
        assert not has_objects([dataclasses.replace(one, ground_truth=truth)])
