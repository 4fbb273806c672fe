"""The files of a run folder: configuration, numbers, names of runs in loggers."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import mutations
import torch
from cases import Kind, Seed
from kinds_data import VOC

from ssd_train.training.checkpoint import find_checkpoint
from ssd_train.training.config import TrainingConfig, resolve_run
from ssd_train.training.loggers import LoggedRun, Loggers
from ssd_train.training.prepare import prepare, resolved_values
from ssd_train.training.processes import Processes
from ssd_train.training.run_folder import MetricsWriter, RunFolder

NETWORK = "ssd_300_mobilenet0.25_custom"


def configs(folder: Path) -> Sequence[Seed]:
    """What a training on a VOC folder writes, and what somebody may write by hand."""
    whole = TrainingConfig(
        network=NETWORK,
        dataset="voc",
        data_root=Path("voc"),
        train_split="train",
        val_split="val",
        out=Path("run"),
        pretrained_backbone="none",
        batch_size=2,
        device="cpu",
        workers=0,
        classes=Path("classes.txt"),
    )
    own = {"network": NETWORK, "dataset": "voc", "train_split": "train", "val_split": "val", "init": "shapes"}
    around = {f"voc/{name}": content for name, content in VOC.items()} | {"classes.txt": b"cat\ndog\n"}
    return [
        Seed(files={**around, "config.json": json.dumps(values).encode()}, target="config.json")
        for values in (whole.to_dict(), own | {"data_root": "voc", "batch_size": 2})
    ]


def read_run(folder: Path, path: Path, out: Path) -> None:
    """Go on with a training as its folder says, as far as to its first step."""
    with_paths = {"data_root": folder / "voc", "classes": folder / "classes.txt"}
    config = resolve_run(folder, {"resume": "auto"})
    # Paths in it are relative to where the command runs.
    changes = {name: value for name, value in with_paths.items() if getattr(config, name) == Path(value.name)}
    config = dataclasses.replace(config, **changes)
    find_checkpoint(config)
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    if config.network != NETWORK:
        # Others take seconds to make.
        config.source()
        return
    prepared = prepare(config, processes, with_weights=True, with_check=True)
    RunFolder(folder).write_config(resolved_values(config, prepared, processes))


METRICS = (
    {"kind": "step", "step": 1, "epoch": 0, "lr": 0.001, "cls_loss": 5.5, "box_loss": 1.5},
    {"kind": "epoch", "step": 2, "epoch": 0, "lr": 0.001, "cls_loss": 5.5, "box_loss": 1.5},
    {"kind": "validation", "step": 2, "epoch": 0, "best": 0.5, "cls_loss": 5.0, "box_loss": 1.0,
     "scores": {"mAP": 0.5}, "per_class": {"cat": 0.25, "dog": None}},
    {"kind": "epoch", "step": 4, "epoch": 1, "lr": 0.001, "cls_loss": 4.5, "box_loss": None},
)  # fmt: skip


def metrics(folder: Path) -> Sequence[Seed]:
    lines = "".join(json.dumps(line) + "\n" for line in METRICS)
    return [Seed(files={"metrics.jsonl": lines.encode()}, target="metrics.jsonl")]


def read_metrics(folder: Path, path: Path, out: Path) -> None:
    """Go on with a training's numbers, and draw its curves."""
    run = RunFolder(folder)
    run.keep_metrics_until(3, with_validation=False)
    writer = MetricsWriter(run, "title", {"logger": "none"}, 3)
    writer.write("step", {"step": 4, "lr": 0.1})
    writer.draw_curves()
    writer.close()


def loggers(folder: Path) -> Sequence[Seed]:
    content = json.dumps({"mlflow": "0123456789abcdef", "wandb": "x"}).encode()
    return [Seed(files={"loggers.json": content}, target="loggers.json")]


def read_loggers(folder: Path, path: Path, out: Path) -> None:
    opened = Loggers("tensorboard", LoggedRun(folder=folder, settings={}, step=3))
    opened.close()


KINDS = (
    Kind(name="run-config", seeds=configs, read=read_run, change=mutations.change_json, weight=1.5, rewrites=True),
    Kind(
        name="run-metrics",
        seeds=metrics,
        read=read_metrics,
        change=mutations.change_json_lines,
        # Drawing takes half a second.
        weight=0.3,
        rewrites=True,
    ),
    Kind(name="run-loggers", seeds=loggers, read=read_loggers, change=mutations.change_json, weight=0.3, rewrites=True),
)
