"""Calls in a process of its own: one that crashes, breaks the GPU's context or never ends costs that call alone."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from ssd_train.errors import first_line

# How long a process may take to end once nobody asks it any more.
END_S = 3.0


class CallFailedError(Exception):
    """A call gave no answer; the text is one sentence."""


class IsolatedCalls:
    """A process that is started for the first call and for the one after a failure; what it holds stays for the next.

    Functions and arguments travel by pickle, so functions are those of a module.
    """

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._pipe: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Any:
        """Return what a function returns.

        Raises:
            CallFailedError: it raised, its process ended, or it took longer than `limit_s` seconds.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(limit_s):
                raise CallFailedError(f"took longer than {limit_s:.0f} s and was stopped")
            value, failure = self._pipe.recv()
            if failure is not None:
                raise CallFailedError(failure)
        except (EOFError, OSError) as error:
            self._process.join(END_S)
            raise CallFailedError(f"its process ended with code {self._process.exitcode}") from error
        except CallFailedError:
            # A GPU's context may be broken for good.
            self.close()
            raise
        finally:
            if self._process is not None and not self._process.is_alive():
                self.close()
        return value

    def close(self) -> None:
        """End the process, which is killed where it does not end by itself."""
        if self._process is not None:
            self._pipe.close()
            self._process.join(END_S)
            self._process.kill()
            self._process.join()
            self._process = None

    def __enter__(self) -> "IsolatedCalls":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        # Not forked: a copy of a process that has used a GPU cannot use it.
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_answer, args=(other,))
        self._process.start()
        other.close()


def _answer(pipe: Connection) -> None:
    """Call what is asked for until the other side closes; Ctrl-C is for that side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments), None
        except Exception as error:  # whatever a library raises is that call's failure
            traceback.print_exc()
            answer = None, f"{type(error).__name__}: {first_line(error)}"
        pipe.send(answer)
