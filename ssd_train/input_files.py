"""Opening files that others named: regular ones, or pipes that somebody writes into, so that nothing waits for ever."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Of a list of names or images, far more than any has.
MOST_TEXT_BYTES = 2**28

# Opening a pipe that nobody writes into would wait for a writer.
_AT_ONCE = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularError(OSError):
    """A pipe or a device in the place of a file."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read; what data sets and model folders hold is nothing else.

    Raises:
        NotRegularError: it is a pipe or a device.
        OSError: it is a folder, or cannot be opened.
        ValueError: a zero byte in the path.
    """
    file = open_input(path)
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise NotRegularError(errno.EINVAL, "not a regular file", str(path))


def open_input(path: Path) -> BinaryIO:
    """Open what a user named, which may be a pipe such as a shell makes of `<(...)`; one that has no writer is empty.

    Raises:
        OSError: it is a folder, or cannot be opened.
        ValueError: a zero byte in the path.
    """

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | _AT_ONCE)

    file = open(path, "rb", opener=at_once)  # noqa: SIM115
    if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
        os.set_blocking(file.fileno(), True)
    return file


def read_text(path: Path) -> str:
    """Return a regular file's text, without a byte order mark.

    Raises:
        OSError: as `open_regular`, or it is far larger than text of people.
        ValueError: it is no UTF-8, or a zero byte in the path.
    """
    with open_regular(path) as file:
        return decoded(file, path)


def decoded(file: BinaryIO, path: Path) -> str:
    """Return the text of an open file; see `read_text`."""
    data = file.read(MOST_TEXT_BYTES + 1)
    if len(data) > MOST_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_TEXT_BYTES} bytes", str(path))
    return data.decode("utf-8-sig")
