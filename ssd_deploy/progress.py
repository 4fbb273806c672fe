"""Progress bars on standard error, with rate and time left."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class ImagesPerSecond(ProgressColumn):
    """How many images a second went through so far."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


@contextlib.contextmanager
def image_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar; the yielded function is told how many images are done."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), ImagesPerSecond(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def download_progress(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar that appears with the first bytes; the yielded function is told bytes done and in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(title, total=None)

    def on_progress(done: int, total: int | None) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield on_progress
    finally:
        # Only what was started: stopping prints an empty line.
        if progress.live.is_started:
            progress.stop()
