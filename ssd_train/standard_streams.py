"""Standard streams that may break without breaking the work: a closed pipe, a full disk, a descriptor that is closed.

A command's files are the result; what it prints is told beside them. So nothing that is printed raises: what cannot be
written is dropped, and the reason kept, for standard output to end the process with.
"""

import codecs
import errno
import io
import os
import select
import sys
from typing import TextIO

# Of a reader that has gone, such as `head`: no fault of anybody's.
READER_GONE = (errno.EPIPE, errno.ECONNRESET)

ESCAPE = "ssd-deploy-escape"


class LastingOutput(io.FileIO):
    """A descriptor that takes all that it is given.

    Attributes:
        error: why something was dropped; None as long as nothing was.
    """

    error: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            # A pipe that another process set to not wait takes nothing where it is full.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.error = self.error or error
            return memoryview(data).nbytes
        return written


def use_lasting_streams() -> LastingOutput | None:
    """Give this process standard streams that do not break, for good; returns its standard output.

    A closed descriptor is opened on nothing, or the next file would get its number, and with it what is printed.
    Streams that something else put in place, such as a test, stay; None is returned then.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _text(LastingOutput(2, "w", closefd=False), sys.stderr, each_line=True)
    if sys.stdout is not None and sys.stdout is not sys.__stdout__:
        return None
    output = LastingOutput(1, "w", closefd=False)
    sys.stdout = _text(output, sys.stdout, each_line=False)
    return output


def _text(output: LastingOutput, before: TextIO | None, *, each_line: bool) -> TextIO:
    """Return a text stream like the one before, if there was one."""
    return io.TextIOWrapper(
        io.BufferedWriter(output),  # type: ignore[type-var]
        encoding=getattr(before, "encoding", "utf-8"),
        errors=ESCAPE,
        line_buffering=each_line or output.isatty(),
        write_through=getattr(before, "write_through", False),
    )


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Write what an encoding lacks as JSON does, \uXXXX, in JSON and elsewhere alike."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), error.end


codecs.register_error(ESCAPE, _escaped)
