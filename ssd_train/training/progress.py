"""A training's progress bar."""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


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
