"""The files of a training: its configuration, its numbers, its checkpoint and weights; each whole or absent."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

from ssd_train.errors import SSDDeployError
from ssd_train.files import without_nan, write_json, written_atomically
from ssd_train.networks.ssd import SSD
from ssd_train.training.checkpoint import CHECKPOINT_NAME
from ssd_train.training.config import CONFIG_NAME
from ssd_train.training.curves import write_curves
from ssd_train.training.loggers import DEFAULT_LOGGER, LoggedRun, Loggers, is_installed
from ssd_train.training.metrics_file import METRICS_NAME, read_metrics
from ssd_train.weights.network_file import save_network
from ssd_train.weights.store import BEST_NAME, LAST_NAME

_log = logging.getLogger(__name__)


class RunFolder:
    """One training's folder.

    Args:
        path: made with the first file that is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint_path, self.metrics_path = path / CHECKPOINT_NAME, path / METRICS_NAME
        self.best_path, self.last_path = path / BEST_NAME, path / LAST_NAME

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
            raise _cannot_write(self.metrics_path, error, self.path) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return all lines; see `metrics_file.read_metrics`."""
        return read_metrics(self.metrics_path)

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


class MetricsWriter:
    """Where the first process's numbers go besides the screen: `metrics.jsonl`, loggers, curves.

    Args:
        folder: the run's.
        title: of the curves.
        settings: the configuration as plain values; `logger` in it names the loggers.
        step: steps done.

    Raises:
        OwnPartError: a logger cannot be opened.
    """

    def __init__(self, folder: RunFolder, title: str, settings: dict[str, Any], step: int) -> None:
        self.folder = folder
        self.title = title
        self.has_matplotlib = importlib.util.find_spec("matplotlib") is not None
        self.loggers = Loggers(settings["logger"], LoggedRun(folder=folder.path, settings=settings, step=step))
        if settings["logger"] == "auto" and not is_installed(DEFAULT_LOGGER):
            _log.info("note: no TensorBoard files, since tensorboard is not installed: pip install 'ssd-deploy[train]'")
        if not self.has_matplotlib:
            _log.info("note: no curves.png, since matplotlib is not installed: pip install 'ssd-deploy[plots]'")

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Add one line of a kind, `step`, `epoch` or `validation`; every number of it goes to the loggers."""
        self.folder.append_metrics({"kind": kind, **values})
        per_class = {f"per_class/{name}": value for name, value in values.get("per_class", {}).items()}
        numbers = {**values, **values.get("scores", {}), **per_class}
        self.loggers.log(
            {f"{kind}/{name}": value for name, value in numbers.items() if isinstance(value, float)}, values["step"]
        )

    def draw_curves(self) -> None:
        lines = self.folder.read_metrics()
        epochs = [line for line in lines if line.get("kind") == "epoch" and "epoch" in line]
        if self.has_matplotlib and epochs:
            validations = [
                line for line in lines if line.get("kind") == "validation" and line.keys() >= {"epoch", "scores"}
            ]
            write_curves(self.folder.path / "curves.png", self.title, epochs, validations)

    def close(self) -> None:
        self.loggers.close()


def _cannot_write(path: object, error: OSError, folder: Path) -> SSDDeployError:
    """Return what to raise for a file of a training that goes on once there is room."""
    return SSDDeployError(
        f"{path}: cannot be written ({error.strerror}); make room, and go on with `ssd-deploy train {folder} --resume`"
    )
