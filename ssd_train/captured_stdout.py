"""Libraries that print where they should return or raise: their standard output, caught."""

import contextlib
import io
import threading
from collections.abc import Iterator

# sys.stdout belongs to the whole process: two threads that replace it at once would restore the wrong one.
_LOCK = threading.Lock()


@contextlib.contextmanager
def captured_stdout() -> Iterator[io.StringIO]:
    """Yield the text that is printed while the block runs; other threads' prints land there too."""
    with _LOCK, contextlib.redirect_stdout(io.StringIO()) as text:
        yield text
