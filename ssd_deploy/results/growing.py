"""A text file that grows frame by frame and appears whole at the end."""

import contextlib
from pathlib import Path
from typing import TextIO

from ssd_train.errors import ResultError, SSDDeployError
from ssd_train.files import written_atomically


class GrowingFile:
    """A file beside its final place until it is finished, so that an earlier one stands until then.

    Args:
        path: its final place. Nothing is made before the first text.
        newline: as of `open`; "" keeps the line ends as they are written.
    """

    def __init__(self, path: Path, *, newline: str | None = None) -> None:
        self.path, self._newline = path, newline
        self._stack = contextlib.ExitStack()
        self._file: TextIO | None = None

    @property
    def is_begun(self) -> bool:
        return self._file is not None

    def file(self) -> TextIO:
        """Return the open file, made now where this is the first call. Raises SSDDeployError."""
        if self._file is None:
            try:
                temporary = self._stack.enter_context(written_atomically(self.path))
            except ResultError as error:
                # It is the result of every frame.
                raise SSDDeployError(str(error)) from error
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8", newline=self._newline))
        return self._file

    def finish(self) -> None:
        """Close it and put it in its place."""
        self._file = None
        self._stack.close()
