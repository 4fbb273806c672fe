"""The numbers of the steps: sums of an epoch, speed, lines of `metrics.jsonl`, the bar on the screen."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ssd_train.training.batches import Stream
from ssd_train.training.checkpoint_layout import Position
from ssd_train.training.run_folder import MetricsWriter
from ssd_train.training.step import StepResult

# Told after every step how many are done, and what to show beside the bar.
ShowProgress = Callable[[int, str], None]


@contextlib.contextmanager
def progress_bar(first: int, total: int, *, is_shown: bool) -> Iterator[ShowProgress]:
    """Show a bar of a training's steps on standard error, if that is a terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps, left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as progress:
        task = progress.add_task("training", total=total, completed=first)
        yield lambda done, text: progress.update(task, completed=done, description=text)


class MetricLogger:
    """Counts steps as their numbers arrive.

    Args:
        position: moved on with every step.
        log_step: steps from one line to the next.
        writer: gets those lines; None in all processes but the first.
    """

    def __init__(
        self,
        position: Position,
        stream: Stream,
        *,
        log_step: int,
        writer: MetricsWriter | None,
        show_progress: ShowProgress,
    ) -> None:
        self.position = position
        self.stream = stream
        self.log_step = log_step
        self.writer = writer
        self.show_progress = show_progress
        self.start_clock()

    def start_clock(self) -> None:
        """Measure the speed from now on."""
        self._waited_s = 0.0
        self._clock_started_at, self._first_step = time.perf_counter(), self.position.step

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        """Count the block's time as a wait for data."""
        started = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - started

    def record(self, result: StepResult, cls_loss: float, box_loss: float) -> None:
        """Count a step that is done."""
        position = self.position
        position.step = result.step + 1
        position.images = self.stream.first_image(position.step)
        position.sums = [total + value for total, value in zip(position.sums, (1, cls_loss, box_loss), strict=True)]
        epoch = position.epochs
        self.show_progress(position.step, f"epoch {epoch + 1}, loss {cls_loss:.3f} + {box_loss:.3f}, lr {result.lr:g}")
        if position.step % self.log_step == 0 and self.writer is not None:
            values = {"step": position.step, "epoch": epoch, "cls_loss": cls_loss, "box_loss": box_loss}
            self.writer.write("step", values | {"lr": result.lr} | self._speed(result))

    def _speed(self, result: StepResult) -> dict[str, float]:
        """Return what was reached from the last call to this step, and start anew.

        By when steps were given and not by when their numbers arrive: those come a step later, but for an epoch's last.
        """
        elapsed = max(result.given_at - self._clock_started_at, 1e-9)
        speed = {
            "images_per_second": (self.position.step - self._first_step) * self.stream.batch_size / elapsed,
            # The wait for the next batch may be in it already.
            "data_wait_share": min(self._waited_s / elapsed, 1.0),
        }
        self._clock_started_at, self._first_step, self._waited_s = result.given_at, self.position.step, 0.0
        return speed

    def end_epoch(self, lr: float) -> dict[str, Any]:
        """Return the epoch's means with what else its line has, and begin the next."""
        steps, cls_loss, box_loss = self.position.sums
        self.position.sums = [0.0, 0.0, 0.0]
        values: dict[str, Any] = {"step": self.position.step, "epoch": self.position.epochs}
        self.position.epochs += 1
        values |= {"cls_loss": cls_loss / steps, "box_loss": box_loss / steps, "lr": lr}
        if self.position.bad_images:
            values["bad_images"] = len(self.position.bad_images)
        return values
