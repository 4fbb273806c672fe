"""What a training tells people while it runs: lines, a progress bar, TensorBoard, curves."""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssd_train.errors import SSDDeployError
from ssd_train.training.curves import write_curves
from ssd_train.training.run_folder import RunFolder


class StepProgress(Protocol):
    """Told after every step how many are done, and what to show beside the bar."""

    def __call__(self, done: int, text: str) -> None: ...


@contextlib.contextmanager
def step_progress(first: int, total: int, *, is_shown: bool) -> Iterator[StepProgress]:
    """Show a bar on standard error, if that is a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as progress:
        task = progress.add_task("training", total=total, completed=first)
        yield lambda done, text: progress.update(task, completed=done, description=text)


def printer(is_shown: bool) -> Callable[[str], None]:
    """Return a function that prints a line on standard output at once, or does nothing."""
    return (lambda text: print(text, flush=True)) if is_shown else (lambda text: None)


class Writers:
    """Where numbers go besides the screen: `metrics.jsonl`, TensorBoard and the curves.

    Args:
        folder: the run's.
        title: of the curves.
        step: the first one that is to come; TensorBoard drops what an earlier process wrote after it.
        say: told which of the optional packages are missing.
    """

    def __init__(self, folder: RunFolder, title: str, step: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.title = title
        self.has_matplotlib = importlib.util.find_spec("matplotlib") is not None
        self.board: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            say("note: no TensorBoard files, since tensorboard is not installed: pip install 'ssd-deploy[train]'")
        else:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=step)
        if not self.has_matplotlib:
            say("note: no curves.png, since matplotlib is not installed: pip install 'ssd-deploy[plots]'")

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
            raise SSDDeployError(
                f"{self.board.log_dir}: cannot be written ({error.strerror}); make room, and go on with --resume auto"
            ) from error

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
