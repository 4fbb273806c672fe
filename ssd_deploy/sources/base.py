"""What every source can do, and when a lost stream is tried again."""

import abc
import dataclasses
import logging
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.errors import SourceError
from ssd_train.options import check_ranges, option

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconnect:
    """When a camera or stream that was lost is tried again.

    Attributes:
        attempts: tries in a row; a frame that arrives sets the count back.
        wait_s: seconds before the first try; each further one waits twice as long, up to `longest_wait_s`.
        longest_wait_s: seconds that no wait is longer than.

    Raises:
        SourceError: a value outside its range.
    """

    attempts: int = option(10, "Tries in a row to get a lost stream back.", least=1)
    wait_s: float = option(2.0, "Seconds before the first of them; each further one waits twice as long.", least=0)
    longest_wait_s: float = option(60.0, "Seconds that no wait is longer than.", least=0)

    def __post_init__(self) -> None:
        check_ranges(self, SourceError)

    def wait_before(self, attempt: int) -> float:
        """Return the seconds to wait before a try, the first being 1."""
        return min(self.wait_s * 2.0 ** min(attempt - 1, 30), self.longest_wait_s)


class Source(abc.ABC):
    """Where frames come from; a context manager.

    Whoever reads it iterates `frames` and calls `load` for each, in other threads where that helps. `close` ends its
    thread; a source that was closed is not used again.

    Attributes:
        info: what is known before the first frame.
        on_problem: told each picture that cannot be read, broken frame, lost connection and new try, in one sentence
            without a password; may be called from another thread. A warning in the log unless set.
        problems: how many things went wrong that cost a frame or the rest of the source.
        is_whole: False once the source ended before its end: a lost stream, a file that is cut off.
    """

    info: SourceInfo

    def __init__(self) -> None:
        self.on_problem: Callable[[str], None] = logger.warning
        self.problems = 0
        self.is_whole = True

    @abc.abstractmethod
    def frames(self) -> Generator[Frame, None, None]:
        """Give the frames in order, `image` empty; a source may run ahead in a thread, but never far.

        It is called once. Closing the generator ends the thread.
        """

    @abc.abstractmethod
    def load(self, frame: Frame) -> NDArray[np.uint8]:
        """Return a frame's picture, (H, W, 3) RGB uint8, upright; may be called from several threads at once.

        Raises:
            ImageError: it cannot be read.
        """

    @property
    def dropped(self) -> int:
        """How many frames came while the reader was busy, and were left out."""
        return 0

    def is_ready(self) -> bool:
        """Whether the next frame, or the end, is there without waiting."""
        return True

    def close(self) -> None:
        """Give back what the source holds; may be called twice."""
        return

    def report(self, sentence: str, *, is_loss: bool = True) -> None:
        """Say a problem, and count it where something was lost by it."""
        self.problems += is_loss
        self.on_problem(sentence)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
