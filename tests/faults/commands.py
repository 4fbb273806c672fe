"""The commands that faults are tried on: a row each, with what it is given and what it leaves behind."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import onnx
import safetensors.torch
import torch

NETWORK = "ssd_300_mobilenet0.25_custom"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """What commands are given; nobody writes to it.

    Attributes:
        model: an exported detector of shapes.
        data: a data set of shapes, in Pascal VOC's layout.
        pictures: a folder of five pictures.
    """

    model: Path
    data: Path
    pictures: Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """One row.

    Attributes:
        arguments: (material, folder of the results) -> the command line.
        works_in: function, as of `patches.strike`, that is called more than once while it works.
    """

    name: str
    arguments: Callable[[Material, Path], list[object]]
    works_in: str


ONE_BATCH = "ssd_deploy.backends.onnxruntime:OnnxRuntimeRunner.run"

TRAINING = {
    "network": NETWORK, "pretrained-backbone": "none", "limit": 3, "batch-size": 2, "epochs": 2, "workers": 0,
    "log-step": 1, "device": "cpu", "logger": "none",
}  # fmt: skip


def options(values: Mapping[str, object]) -> list[object]:
    return [part for name, value in values.items() for part in (f"--{name}", value)]


COMMANDS = {
    row.name: row
    for row in (
        Command(
            name="detect",
            arguments=lambda given, out: [
                "detect", given.model, given.pictures, "--out", out, "--json", out / "r.json", "--batch-size", 1,
            ],
            works_in=ONE_BATCH,
        ),
        Command(
            name="eval",
            arguments=lambda given, out: [
                "eval", given.model, "--data", given.data, "--split", "val", "--json", out / "r.json",
                "--detections", out / "d.json", "--batch-size", 1,
            ],
            works_in=ONE_BATCH,
        ),
        Command(
            name="check",
            arguments=lambda given, out: ["check", given.data, "--out", out, "--json", out / "r.json"],
            works_in="ssd_train.data_check.check:check_data",
        ),
        Command(
            name="convert",
            arguments=lambda given, out: [
                "convert", NETWORK, "--weights", "shapes", "--out", out / "w.safetensors", "--json", out / "r.json",
            ],
            works_in="ssd_train.weights.network_file:save_network",
        ),
        Command(
            name="info",
            arguments=lambda given, out: ["info", given.model, "--json", out / "r.json"],
            works_in="ssd_deploy.describe:describe",
        ),
        Command(
            name="train",
            arguments=lambda given, out: ["train", *options({**TRAINING, "dataset": given.data, "out": out})],
            works_in="ssd_train.training.step:Trainer.step",
        ),
    )
}  # fmt: skip


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder by name, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_whole(name: str, content: bytes) -> None:
    """Read a file as what its name says."""
    READERS[Path(name).suffix](content)


def _read_picture(content: bytes) -> None:
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None


READERS: dict[str, Callable[[bytes], object]] = {
    ".json": json.loads,
    ".jsonl": lambda content: [json.loads(line) for line in content.splitlines()],
    ".safetensors": safetensors.torch.load,
    ".onnx": onnx.load_from_string,
    ".ckpt": lambda content: torch.load(io.BytesIO(content), weights_only=True),
    ".jpg": _read_picture,
    ".png": _read_picture,
    # Text for people alone: who holds a run folder.
    ".lock": bytes.decode,
}
