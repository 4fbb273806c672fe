"""Signals that ask a process to end, each answered as Ctrl-C is: by an exception that undoes what is half done.

A signal that was to be ignored when the process began stays ignored, as `nohup` and a shell's `&` ask. The second
signal ends the process at once; temporary folders go all the same.
"""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator
from typing import Any

from ssd_train.temporary import remove_temporary_folders

# What a shell reports for a process that a signal ended.
EXIT_CODE_OF_SIGNAL = 128

# Each ends a process that does not answer it, and says nothing of a fault in it: the user, the terminal that closes,
# the service manager, the batch system whose time runs out, the limit of processor time, the power supply.
ENDING_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name)
    for name in (
        "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPWR", "SIGBREAK",
    )
    if hasattr(signal, name)
)  # fmt: skip


class Ended(KeyboardInterrupt):
    """Raised in the main thread by the first ending signal; whatever minds Ctrl-C minds it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        return EXIT_CODE_OF_SIGNAL + self.number


class _State:
    """Of this process's main thread.

    Attributes:
        holds: blocks of `held` that are open; below 1 a signal is raised at once.
        noted: the signal that came in them; 0 for none.
        first: the signal that came first; 0 for none.
    """

    holds = 0
    noted = 0
    first = 0


def heard_signals() -> list[signal.Signals]:
    """Return the ending signals that this process was not told to ignore."""
    # None is a handler of another library's, in C, which could not be put back.
    return [number for number in ENDING_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


@contextlib.contextmanager
def raised_as_ended() -> Iterator[None]:
    """Within the block the first ending signal raises `Ended` in the main thread; a second one ends the process."""
    before: dict[signal.Signals, Any] = {number: signal.signal(number, _first) for number in heard_signals()}
    _State.noted = _State.first = 0
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code_so_far() -> int:
    """Return the shell's exit code for the ending signal that came, for work that went on to report; 0 for none."""
    return EXIT_CODE_OF_SIGNAL + _State.first if _State.first else 0


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within the block a first signal is noted, and raised at the block's end or by `raise_noted`.

    For what must not be torn apart. Outside the main thread, and where no signals are raised, it does nothing.
    """
    if not _is_main_thread():
        yield
        return
    _State.holds += 1
    try:
        yield
    finally:
        _State.holds -= 1
    if not _State.holds:
        raise_noted()


@contextlib.contextmanager
def let_through(is_wanted: bool) -> Iterator[None]:
    """Within a block of `held`, raise signals at once again where that is wanted: for a wait that may never end."""
    if not is_wanted or not _is_main_thread():
        yield
        return
    holds, _State.holds = _State.holds, 0
    try:
        raise_noted()
        yield
    finally:
        _State.holds = holds


def raise_noted() -> None:
    """Raise `Ended` for a signal that was noted, if one was."""
    if _State.noted and _is_main_thread():
        number, _State.noted = _State.noted, 0
        raise Ended(number)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def end_at_once_by_signals() -> None:
    """Let the next ending signal end the process, where the work is done and there is nothing to undo."""
    for number in heard_signals():
        signal.signal(number, _second)


def _first(number: int, frame: types.FrameType | None) -> None:
    end_at_once_by_signals()
    _State.first = number
    if _State.holds > 0:
        _State.noted = number
    else:
        raise Ended(number)


def _second(number: int, frame: types.FrameType | None) -> None:
    remove_temporary_folders()
    # Not by an exception: whatever waits in the way of the first one would wait on.
    os._exit(EXIT_CODE_OF_SIGNAL + number)
