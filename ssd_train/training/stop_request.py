"""Signals that end a process as a request that the training answers between two steps, where it can save."""

import signal
import threading
import types
from typing import Any

from ssd_train.ending_signals import heard_signals


class StopRequest:
    """Within the block the first signal is noted; a second one ends the process at once.

    Outside the main thread, which alone hears signals, none is.

    Attributes:
        signal_number: which came, 0 for none.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in heard_signals()}
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
