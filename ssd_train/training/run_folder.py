"""The files of a training: its configuration, its numbers, its checkpoints; each whole or absent."""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ssd_train.errors import SSDDeployError
from ssd_train.files import without_nan, write_json, written_atomically
from ssd_train.networks.ssd import SSD
from ssd_train.weights.network_file import save_network
from ssd_train.weights.store import BEST_NAME, LAST_NAME

CONFIG_NAME = "config.json"
METRICS_NAME = "metrics.jsonl"
CHECKPOINT_NAME = "last.ckpt"

# Of the layout of a checkpoint; another number is another layout.
CHECKPOINT_VERSION = 1


class RunFolder:
    """One training's folder.

    Args:
        path: made with the first file that is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint_path(self) -> Path:
        return self.path / CHECKPOINT_NAME

    @property
    def metrics_path(self) -> Path:
        return self.path / METRICS_NAME

    def write_config(self, values: dict[str, Any]) -> None:
        write_json(self.path / CONFIG_NAME, values)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint.

        Raises:
            SSDDeployError: no room or no permission; the earlier checkpoint then stays.
        """
        # By way of memory: PyTorch reports a full disk as an error of its own that names neither file nor cause.
        data = io.BytesIO()
        torch.save({**state, "version": CHECKPOINT_VERSION}, data)
        with written_atomically(self.checkpoint_path) as temporary:
            temporary.write_bytes(data.getbuffer())

    def save_best(self, network: SSD) -> None:
        save_network(network, self.path / BEST_NAME)

    def save_last(self, network: SSD) -> None:
        save_network(network, self.path / LAST_NAME)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; NaN becomes null."""
        line = json.dumps(without_nan(values), allow_nan=False)
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise SSDDeployError(
                f"{self.metrics_path}: cannot be written ({error.strerror}); make room, and go on with --resume auto"
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all lines; one that a killed process left half-written is left out."""
        return list(_whole_lines(self.metrics_path))

    def keep_metrics_until(self, step: int, *, with_validation: bool = True) -> None:
        """Drop the lines of steps that are about to be taken again.

        Args:
            step: of the checkpoint.
            with_validation: it was saved after the validation at that step, if there was one; otherwise that is
                about to be done again too.
        """
        kept = [
            line
            for line in self.read_metrics()
            if line["step"] < step or (line["step"] == step and (with_validation or line.get("kind") != "validation"))
        ]
        with written_atomically(self.metrics_path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and "step" in values:
            yield values


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, on the CPU; nothing in the file is executed.

    Raises:
        SSDDeployError: the file is missing, damaged, or no checkpoint of a training.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SSDDeployError(f"{path}: the checkpoint cannot be read ({error.strerror}); check --resume") from error
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise SSDDeployError(
            f"{path}: is no whole checkpoint of a training; name a run's {CHECKPOINT_NAME} with --resume"
        ) from error
    if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION:
        raise SSDDeployError(
            f"{path}: is no checkpoint of a training by this version; name a run's {CHECKPOINT_NAME} with --resume, "
            "or start from weights with --init"
        )
    return state
