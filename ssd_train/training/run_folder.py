"""The files of a training: its configuration, its numbers, its checkpoint and weights; each whole or absent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_train.errors import SSDDeployError
from ssd_train.files import without_nan, write_json, written_atomically
from ssd_train.networks.ssd import SSD
from ssd_train.training.checkpoint import CHECKPOINT_NAME
from ssd_train.training.config import CONFIG_NAME
from ssd_train.weights.network_file import save_network
from ssd_train.weights.store import BEST_NAME, LAST_NAME

METRICS_NAME = "metrics.jsonl"


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

    @property
    def best_path(self) -> Path:
        return self.path / BEST_NAME

    @property
    def last_path(self) -> Path:
        return self.path / LAST_NAME

    def write_config(self, values: dict[str, Any]) -> None:
        write_json(self.path / CONFIG_NAME, values)

    def save_best(self, network: SSD) -> None:
        save_network(network, self.best_path)

    def save_last(self, network: SSD) -> None:
        save_network(network, self.last_path)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Add one line to `metrics.jsonl`; NaN becomes null."""
        line = json.dumps(without_nan(values), allow_nan=False)
        try:
            with self.metrics_path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise cannot_write(self.metrics_path, error, self.path) from error

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


def cannot_write(path: object, error: OSError, folder: Path) -> SSDDeployError:
    """Return what to raise for a file of a training that goes on once there is room."""
    return SSDDeployError(
        f"{path}: cannot be written ({error.strerror}); make room, and go on with `ssd-deploy train {folder} --resume`"
    )


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
