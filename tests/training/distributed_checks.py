"""What `test_distributed.py` lets torchrun start: two processes that train together and write down what each got."""

import contextlib
import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import typer
from torch import Tensor
from training_runs import PACKAGED, leave_out_pictures, small_config, small_options

from ssd_train.cli import train
from ssd_train.command_line import add_command
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.source import find_source
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import network_config
from ssd_train.training.batches import Batch
from ssd_train.training.epoch import validate
from ssd_train.training.initialise import initialise
from ssd_train.training.processes import Processes, joined
from ssd_train.training.step import Trainer
from ssd_train.training.validation_loss import ValidationLoss

# Without batch norms, whose statistics each process has of its own.
WITHOUT_BATCH_NORM = "ssd_300_vgg16_atrous_custom"
# More objects in the first image than in the second, so that the halves have unequal numbers of positives.
# Small ones too, which belong to the first feature map.
OBJECTS = (
    [[10, 20, 120, 160], [100, 40, 280, 290], [150, 10, 182, 44], [20, 200, 90, 280]],
    [[60, 70, 240, 220], [200, 20, 234, 52]],
)
LABELS = ([0, 2, 4, 1], [3, 0])
VALIDATION_COUNTS = (5, 1)


def two_images(first: int = 0, last: int = 2) -> Batch:
    """A batch of two noisy images, or one of them."""
    images = np.random.default_rng(3).integers(0, 256, (2, 300, 300, 3), np.uint8)
    boxes, labels = torch.zeros(2, 4, 4), torch.full((2, 4), -1)
    for row in range(2):
        boxes[row, : len(LABELS[row])] = torch.tensor(OBJECTS[row], dtype=torch.float32)
        labels[row, : len(LABELS[row])] = torch.tensor(LABELS[row])
    colours = torch.eye(3, 4).repeat(2, 1, 1)
    whole = (torch.from_numpy(images), torch.tensor([[0, 0, 300, 300]] * 2), colours, boxes, labels)
    return Batch(*(part[first:last] for part in whole), paths=("a.jpg", "b.jpg")[first:last], bad=())


def step_result(processes: Processes, batch: Batch, out: Path, *, negatives: bool = False) -> dict[str, Any]:
    """Take one step; returns losses, gradients and weights. With negatives the second image has no objects."""
    if negatives:
        batch.labels[torch.tensor([path == "b.jpg" for path in batch.paths])] = -1
    network = build_ssd(network_config(WITHOUT_BATCH_NORM, SHAPE_CLASSES))
    initialise(network, 1)
    trainer = Trainer(network.train(), small_config(Path("unused"), out, negatives=negatives), processes)
    losses = trainer.step(0, batch, 1e-3, stop=processes.rank == 1).values()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if parameter.requires_grad}
    return {"losses": losses, "gradients": gradients, "weights": sums(network.state_dict())}


def frozen_step(processes: Processes, batch: Batch, out: Path) -> dict[str, Any]:
    """Take two steps with a frozen backbone; returns what of it changed, and the weights."""
    network = build_ssd(network_config(PACKAGED, SHAPE_CLASSES))
    initialise(network, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer = Trainer(network, small_config(Path("unused"), out, network=PACKAGED, freeze="backbone"), processes)
    for step in range(2):
        trainer.start_training()
        trainer.step(step, batch, 1e-3, stop=False)
    after = network.state_dict()
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    return {"changed": changed, "weights": sums(dict(network.named_parameters()))}


def sums(tensors: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
    """What tells whether tensors are the same in two processes, without writing them down."""
    return {name: (float(value.double().sum()), float(value.double().abs().sum())) for name, value in tensors.items()}


def scoring_network() -> SSD:
    network = build_ssd(network_config(PACKAGED, SHAPE_CLASSES))
    initialise(network, 1)
    return network


def validated(network: SSD, processes: Processes, shapes: Path, count: int) -> dict[str, Any] | None:
    dataset = find_source("voc", shapes).load("val", SHAPE_CLASSES)
    dataset = dataclasses.replace(dataset, samples=dataset.samples[:count])
    seen: list[int] = []
    loss = ValidationLoss(network, processes.part(dataset.samples), lambda truth, image_size: truth)
    scored = validate(
        network, dataset, processes, metric="voc", batch_size=2, workers=1, on_progress=seen.append,
        on_predictions=loss.add,
    )  # fmt: skip
    losses = loss.mean(processes)
    total = sum(processes.gather(seen[-1] if seen else 0))
    if scored is None:
        return None
    report, detections = scored
    rows = [np.column_stack([found.boxes, found.scores, found.labels]) for found in detections]
    return {
        "images": total,
        "losses": losses,
        "report": report.to_dict(),
        "detections": [torch.from_numpy(row.astype(np.float64)) for row in rows],
    }


def command(port: str, options: list[str]) -> dict[str, Any]:
    """Run the command as each process of torchrun does; returns its exit code and the mistakes that it printed."""
    # A meeting place of its own, since that of torchrun serves for one group only.
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": port}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add_command(app, train)
    code: object = 0
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        try:
            app(options)
        except SystemExit as end:
            code = end.code
    # The group of a process that failed is closed by torchrun, which ends all processes.
    if dist.is_initialized():
        dist.destroy_process_group()
    lines = errors.getvalue().splitlines()
    return {"code": code, "mistakes": [line for line in lines if line.startswith("Error: ")]}


def main(shapes: Path, bad_shapes: Path, out: Path, ports: list[str]) -> None:
    torch.set_num_threads(1)
    leave_out_pictures(pytest.MonkeyPatch())
    results: dict[str, Any] = {}
    with joined("cpu") as processes:
        rank = processes.rank
        assert processes.count == 2
        results["step"] = step_result(processes, two_images(rank, rank + 1), out)
        results["negatives"] = step_result(processes, two_images(rank, rank + 1), out, negatives=True)
        results["frozen"] = frozen_step(processes, two_images(), out)
        network = scoring_network()
        if rank == 1:
            # Batch norm statistics of its own, as every process has after its last step.
            network.get_buffer("features.backbone.layers.0.1.running_mean").add_(1.0)
        results["validations"] = [validated(network, processes, shapes, count) for count in VALIDATION_COUNTS]
    results["mistake"] = command(ports[0], small_options(shapes, out / "run", limit=None, batch_size=1000))
    results["bad image"] = command(ports[1], small_options(bad_shapes, out / "run", limit=None, epochs=1))
    skipping = small_options(bad_shapes, out / "skipped", limit=None, epochs=1, skip_bad_images=True)
    results["skipped"] = command(ports[2], skipping)
    # A rate at which nothing changes but the statistics of batch norms.
    patient = small_options(shapes, out / "patient", limit=4, epochs=5, val_interval=1, patience=1, lr=1e-12)
    results["patient"] = command(ports[3], patient)
    torch.save(results, out / f"rank{rank}.pt")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), ports=sys.argv[4:])
