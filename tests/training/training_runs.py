"""Trainings of seven small steps, in this process and in others, and comparisons of what they leave behind."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import safetensors
import torch
from torch import Tensor
from typer.testing import CliRunner

from ssd_deploy.cli import app
from ssd_train.command_line import told_on_standard_error
from ssd_train.training import recorder
from ssd_train.training.checkpoint import CHECKPOINT_NAME, read_checkpoint
from ssd_train.training.config import TrainingConfig
from ssd_train.training.loop import TrainingResult, train
from ssd_train.training.run_folder import METRICS_NAME, MetricsWriter
from ssd_train.weights.store import BEST_NAME, LAST_NAME

if TYPE_CHECKING:
    from forking import Running

NETWORK = "ssd_128_mobilenet0.25_custom"
# What the package's own weights are of; larger, for what needs that.
PACKAGED = "ssd_300_mobilenet0.25_custom"
# Of the generated data set in the order that a training of one's own data gives them.
CLASSES = ("circle", "cross", "square", "star", "triangle")

# 5 images in batches of 2: the epochs end after steps 2, 5 and 7, the first and third amid a batch.
EPOCH_ENDS = (2, 5, 7)
SMALL = {
    "network": NETWORK,
    "pretrained_backbone": "none",
    "limit": 5,
    "batch_size": 2,
    "epochs": 3,
    "val_interval": 2,
    "workers": 0,
    "log_step": 1,
    "device": "cpu",
}

# Of validations; most trainings here are without: see conftest.py.
PICTURES = {"curves.png", "validation_detections.jpg"}
FILES = PICTURES | {
    "augmented.jpg", "best.safetensors", "config.json", "last.ckpt", "last.safetensors", "metrics.jsonl", "tensorboard",
}  # fmt: skip
SPEED_FIELDS = ("images_per_second", "data_wait_share")


class Run(NamedTuple):
    """A training that ran to its end, and the lines that it logged."""

    config: TrainingConfig
    result: TrainingResult
    lines: list[str]

    @property
    def folder(self) -> Path:
        return self.config.out


def leave_out_pictures(patch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the steps between two pictures."""
    patch.setattr(MetricsWriter, "draw_curves", lambda self: None)
    patch.setattr(recorder, "write_detections", lambda *arguments: None)


def small_config(dataset: Path, out: Path, /, **changes: Any) -> TrainingConfig:
    return TrainingConfig(**(SMALL | {"dataset": str(dataset), "out": out} | changes))


def small_options(dataset: Path, out: Path, /, **changes: Any) -> list[str]:
    """The same on a command line; None leaves an option out."""
    options = []
    for name, value in (SMALL | {"dataset": dataset, "out": out} | changes).items():
        if value is not None and value is not False:
            options += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return options


def train_here(config: TrainingConfig) -> tuple[TrainingResult, list[str]]:
    """Train in this process; returns the result and the lines that the command would print meanwhile."""
    with contextlib.redirect_stderr(io.StringIO()) as printed, told_on_standard_error(quiet=False):
        result = train(config)
    return result, printed.getvalue().splitlines()


def run_cli(*arguments: object) -> tuple[int, str]:
    """Run `ssd-deploy` here; returns its exit code and all it printed. A traceback fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def mistake(*arguments: object) -> str:
    """Run a command that is a user's mistake; returns the one line that says so."""
    code, output = run_cli(*arguments)
    lines = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(lines) == 1, output
    assert output.rstrip().endswith(lines[0]), "something follows the error"
    return lines[0]


# --- Other processes ------------------------------------------------------------------------------------------


def start(*command: object) -> "subprocess.Popen[str]":
    """Start `python COMMAND` as the first of a process group of its own, as a terminal would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str] | Running", limit_s: float = 120) -> None:
    """Return as soon as a condition holds; fail where the process ends before."""
    is_forked = not isinstance(process, subprocess.Popen)
    end = time.monotonic() + limit_s
    while not condition():
        if process.has_ended() if is_forked else process.poll() is not None:
            raise AssertionError(f"it has ended: {process.wait() if is_forked else process.communicate()}")
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"nothing for {limit_s} s: {process.wait() if is_forked else process.communicate()}")
        time.sleep(0.02)


def is_filled(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def processes_of(session: int) -> list[int]:
    """The processes that are left of what `start` began (Linux)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


# --- What is left of a training -------------------------------------------------------------------------------


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()]


def without_speed(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in SPEED_FIELDS} for line in lines]


def tensors(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_bits(found: Any, expected: Any, where: str = "") -> None:
    """Compare tensors in whatever dicts and lists hold them; no tolerance."""
    assert type(found) is type(expected), where
    if isinstance(expected, Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_same_bits(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            assert_same_bits(found[index], value, f"{where}.{index}")
    else:
        assert found == expected, where


def assert_same_outcome(folder: Path, expected: Path) -> None:
    """A training ended as another did: weights, optimizer, position and metrics, bit for bit."""
    ours, theirs = (read_checkpoint(path / CHECKPOINT_NAME) for path in (folder, expected))
    for name in ("network", "optimizer", "average", "position", "settings"):
        assert_same_bits(ours[name], theirs[name], name)
    for name in (BEST_NAME, LAST_NAME):
        assert_same_bits(tensors(folder / name), tensors(expected / name), name)
        assert metadata(folder / name) == metadata(expected / name)
    assert without_speed(metrics(folder)) == without_speed(metrics(expected))
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "half-written files are left"
