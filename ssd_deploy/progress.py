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
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
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

    with _stopped_at_the_end(progress):
        yield on_progress


@contextlib.contextmanager
def turn_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar that appears with the first turn; the yielded function is told turns done and in all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(title, total=None)

    def on_turn(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    with _stopped_at_the_end(progress):
        yield on_turn


@contextlib.contextmanager
def build_progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """Show a bar that appears when a build starts; the yielded function is told the share done and the phase."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[phase]}"),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(title, total=1.0, phase="")

    def on_progress(fraction: float, phase: str) -> None:
        progress.start()
        # Phases overlap and end early, but a bar does not go back.
        progress.update(task, completed=max(fraction, progress.tasks[0].completed), phase=phase)

    with _stopped_at_the_end(progress):
        yield on_progress
        progress.update(task, completed=1.0, phase="")


@contextlib.contextmanager
def _stopped_at_the_end(progress: Progress) -> Iterator[None]:
    """Stop a bar that appeared within the block; one that never did would print an empty line."""
    try:
        yield
    finally:
        if progress.live.is_started:
            progress.stop()


def say(text: str) -> None:
    """Print a line where the bars are."""
    Console(stderr=True).print(text, highlight=False, soft_wrap=True)
