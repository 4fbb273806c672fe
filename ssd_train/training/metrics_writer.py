"""Where a training's numbers go besides the screen: `metrics.jsonl`, TensorBoard, curves."""

import contextlib
import importlib.util
import logging
from pathlib import Path
from typing import Any

from ssd_train.training.curves import write_curves
from ssd_train.training.run_folder import RunFolder, cannot_write

_log = logging.getLogger(__name__)


class MetricsWriter:
    """The writer of the first process.

    Args:
        folder: the run's.
        title: of the curves.
        step: the first one that is to come; TensorBoard drops what an earlier process wrote after it.
    """

    def __init__(self, folder: RunFolder, title: str, step: int) -> None:
        self.folder = folder
        self.title = title
        self.has_matplotlib = importlib.util.find_spec("matplotlib") is not None
        self.board: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            _log.info("note: no TensorBoard files, since tensorboard is not installed: pip install 'ssd-deploy[train]'")
        else:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step)
        if not self.has_matplotlib:
            _log.info("note: no curves.png, since matplotlib is not installed: pip install 'ssd-deploy[plots]'")

    def write(self, kind: str, values: dict[str, Any]) -> None:
        """Add one line of a kind, `step`, `epoch` or `validation`; every number of it goes to TensorBoard."""
        self.folder.append_metrics({"kind": kind, **values})
        if self.board is None:
            return
        try:
            for name, value in {**values, **values.get("scores", {})}.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{kind}/{name}", value, values["step"])
            self.board.flush()
        except OSError as error:
            raise cannot_write(self.board.log_dir, error, self.folder.path) from error

    def draw_curves(self) -> None:
        lines = self.folder.read_metrics()
        epochs = [line for line in lines if line["kind"] == "epoch"]
        if self.has_matplotlib and epochs:
            validations = [line for line in lines if line["kind"] == "validation"]
            write_curves(self.curves_path, self.title, epochs, validations)

    @property
    def curves_path(self) -> Path:
        return self.folder.path / "curves.png"

    def close(self) -> None:
        if self.board is not None:
            # Everything was flushed as it was written, so what fails here has failed and been said before.
            with contextlib.suppress(OSError):
                self.board.close()
