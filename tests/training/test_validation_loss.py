"""The loss on validation images: the training's formula on images that are prepared as for detection."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import CLASSES, NETWORK

from ssd_train.datasets.dataset import Dataset, make_ground_truth
from ssd_train.datasets.source import DataSource, find_source
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.preprocess import preprocess
from ssd_train.training.epoch import validate
from ssd_train.training.initialise import initialise
from ssd_train.training.loss import multibox_loss
from ssd_train.training.processes import Processes
from ssd_train.training.targets import assign_targets
from ssd_train.training.validation_loss import ValidationLoss

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def network() -> SSD:
    network = build_ssd(network_config(NETWORK, CLASSES))
    initialise(network, 1)
    return network


@pytest.fixture(scope="module")
def source(shapes: Path) -> DataSource:
    return find_source("voc", shapes)


def losses_of(network: SSD, dataset: Dataset, source: DataSource, batch_size: int) -> dict[str, float]:
    loss = ValidationLoss(network, dataset.samples, source.layout.training_boxes)
    validate(network, dataset, ALONE, metric="voc", batch_size=batch_size, workers=1, on_predictions=loss.add)
    return loss.mean(ALONE)


def test_it_is_the_loss_of_all_images_in_one_batch(network: SSD, source: DataSource) -> None:
    dataset = source.load("val", CLASSES)
    # One without objects, which adds nothing, amid the others.
    empty = dataclasses.replace(dataset.samples[1], ground_truth=make_ground_truth([]))
    dataset = dataclasses.replace(dataset, samples=(*dataset.samples[:4], empty))
    found = losses_of(network, dataset, source, batch_size=2)

    size, _ = network.config.input_size
    images, boxes, labels = [], torch.zeros(4, 20, 4), torch.full((4, 20), -1)
    for row, sample in enumerate(dataset.samples[:4]):
        truth = source.layout.training_boxes(sample.ground_truth, sample.image_size)
        height, width = sample.image_size
        scaled = truth.boxes * np.array([size / width, size / height] * 2)
        boxes[row, : len(truth)] = torch.from_numpy(scaled.astype(np.float32))
        labels[row, : len(truth)] = torch.from_numpy(truth.labels)
        images.append(torch.from_numpy(preprocess(sample.load_image(), network.spec)))
    with torch.no_grad():
        predictions = network(torch.stack(images))
        expected = multibox_loss(*predictions, *assign_targets(boxes, labels, network.anchors))
    # Sums in another order.
    assert found == pytest.approx({"cls_loss": float(expected[0]), "box_loss": float(expected[1])}, rel=1e-4)
    assert found == pytest.approx(losses_of(network, dataset, source, batch_size=5), rel=1e-4)


def test_a_box_beyond_the_image_counts_as_far_as_it_is_inside(network: SSD, source: DataSource) -> None:
    dataset = source.load("val", CLASSES)
    sample = dataset.samples[0]
    height, width = sample.image_size
    row = {"label": 0, "is_difficult": False, "is_crowd": False, "area": 1.0}

    def found(*boxes: tuple[float, ...]) -> dict[str, float]:
        truth = make_ground_truth([{"box": box, **row} for box in boxes])
        loss = ValidationLoss(network, [dataclasses.replace(sample, ground_truth=truth)], lambda truth, size: truth)
        loss.add(torch.randn(1, 8732, 6, generator=torch.manual_seed(0))[:, : len(network.anchors)],
                 torch.zeros(1, len(network.anchors), 4))  # fmt: skip
        return loss.mean(ALONE)

    inside = found((10, 10, width, height))
    assert found((10, 10, 2 * width, height + 50), (width + 5, 5, width + 90, 90)) == inside
    assert inside["cls_loss"] > 0 and found() == {"cls_loss": 0, "box_loss": 0}
