"""SIGTERM and Ctrl-C as a request that the training answers between two steps, where it can save."""

import signal
import types
from typing import Any

# What a shell reports for a process that a signal ended.
EXIT_CODE_OF_SIGNAL = 128


class StopRequest:
    """Within the block the first signal is noted; a second one ends the process at once.

    Attributes:
        signal_number: which came, 0 for none.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal_number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
