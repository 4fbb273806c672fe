"""Progress bars on standard error, with rate and time left."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from ssd_train.command_line import is_quiet
from ssd_train.printable import one_line


class ImagesPerSecond(ProgressColumn):
    """How many images a second went through so far."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def _text(of_task: str) -> TextColumn:
    """Show what a file is called as it is, brackets included, which would be styles of Rich's."""
    return TextColumn(f"{{task.{of_task}}}", markup=False)


def _bars(*columns: ProgressColumn | str) -> Progress:
    return Progress(*columns, console=Console(stderr=True), disable=is_quiet())


@contextlib.contextmanager
def image_progress(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar, without an end where `total` is None; the yielded function is told how many images are done."""
    bars = _bars(_text("description"), BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn())
    with bars:
        task = bars.add_task(one_line(title), total=total)
        yield lambda done: bars.update(task, completed=done)


@contextlib.contextmanager
def download_progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar that appears with the first bytes; the yielded function is told bytes done and in all."""
    bars = _bars(_text("description"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with _from_first_call(bars, title) as update:
        yield lambda done, total: update(done, total)


@contextlib.contextmanager
def turn_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that appears with the first turn; the yielded function is told turns done and in all."""
    bars = _bars(_text("description"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _from_first_call(bars, title) as update:
        yield lambda done, total: update(done, total)


@contextlib.contextmanager
def stage_progress(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar that appears with the first stage; the yielded function is told its name, parts done and in all."""
    bars = _bars(
        _text("description"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        _text("fields[stage]"),
    )  # fmt: skip
    with _from_first_call(bars, title, stage="") as update:
        yield lambda stage, done, total: update(done, total, stage=stage)


@contextlib.contextmanager
def build_progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar that appears when a build starts; the yielded function is told the share done and the phase."""
    bars = _bars(
        _text("description"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        _text("fields[phase]"),
    )  # fmt: skip
    with _from_first_call(bars, title, phase="") as update:
        # Phases overlap and end early, but a bar does not go back.
        yield lambda fraction, phase: update(max(fraction, bars.tasks[0].completed), 1.0, phase=phase)
        bars.update(bars.tasks[0].id, completed=1.0, phase="")


@contextlib.contextmanager
def _from_first_call(bars: Progress, title: str, **fields: Any) -> Iterator[Callable[..., None]]:
    """Yield a function that starts the bar and moves it; one that never started would print an empty line."""
    task = bars.add_task(one_line(title), total=None, **fields)

    def update(completed: float, total: float | None, **changed: Any) -> None:
        bars.start()
        bars.update(task, completed=completed, total=total, **changed)

    try:
        yield update
    finally:
        if bars.live.is_started:
            bars.stop()
