"""What the command line prints and writes of a result, without a command line."""

import contextlib
import io
from pathlib import Path
from typing import Any

from ssd_train.command_line import Result, emit


def tell(text: str, data: dict[str, Any], out: Path) -> None:
    """Print a text and write data as JSON, as every command does, on a terminal that knows all letters."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(printed):
        emit(Result(text=text, data=data), out / "result.json")
        printed.flush()
