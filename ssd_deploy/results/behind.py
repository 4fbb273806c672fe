"""Results written by threads while the network runs on."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from ssd_deploy.results.base import Ending, Outcome, Writer
from ssd_deploy.sources.frame import SourceInfo
from ssd_train.errors import ResultError

# What the writing thread finds in its queue: a frame, what was prepared of it for each writer, and those writers; or
# the end of a source; or None, the end of all.
_Task = tuple[Outcome, Sequence[Future[Any]], Sequence[Writer]] | tuple[SourceInfo, int | None, Sequence[Writer]] | None


class WriteBehind:
    """Hands frames to writers: prepared by several threads, written by one in order.

    No more than `depth` frames wait; whoever adds one more waits for the writers. What fails in a thread is raised by
    the next call here.

    Args:
        workers: threads that prepare, at least 1.
        depth: frames that may wait, at least 1: a batch of the network, so that it goes on while they are written.
        on_unwritten: called in the writing thread with a frame, a writer and the reason where that writer's result of
            that frame alone cannot be written; the rest goes on.
    """

    def __init__(
        self, *, workers: int, depth: int, on_unwritten: Callable[[Outcome, Writer, ResultError], None]
    ) -> None:
        self._on_unwritten = on_unwritten
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        self._queue: Queue[_Task] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_all, name="write", daemon=True)
        self._thread.start()

    def add(self, outcome: Outcome, writers: Sequence[Writer]) -> None:
        """Give a frame to writers. Raises what failed in the threads."""
        self._raise_error()
        prepared = [self._pool.submit(writer.prepare, outcome) for writer in writers]
        self._queue.put((outcome, prepared, writers))

    def end_source(self, info: SourceInfo, length: int | None, writers: Sequence[Writer]) -> None:
        """Tell writers that a source came to its end, after all its frames. Raises what failed in the threads."""
        self._raise_error()
        self._queue.put((info, length, writers))

    def close(self, writers: Mapping[str, Writer], ending: Ending) -> dict[str, Path]:
        """Wait until everything is written, close the writers and return their results. Raises what failed."""
        self._queue.put(None)
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        if self._error is not None:
            ending = Ending(is_complete=False, errors=ending.errors)
        paths = {}
        # Each has its chance to keep what it has, whatever happens to another.
        for name, writer in writers.items():
            try:
                paths[name] = writer.close(ending)
            except Exception as error:
                self._error = self._error or error
        self._raise_error()
        return {name: path for name, path in paths.items() if path is not None}

    def _write_all(self) -> None:
        while (task := self._queue.get()) is not None:
            # After an error the queue is emptied all the same, or whoever adds would wait forever.
            if self._error is None:
                try:
                    self._write(task)
                except BaseException as error:
                    self._error = error

    def _write(self, task: Any) -> None:
        first, second, writers = task
        if isinstance(first, Outcome):
            for writer, prepared in zip(writers, second, strict=True):
                try:
                    writer.write(first, prepared.result())
                except ResultError as error:
                    self._on_unwritten(first, writer, error)
        else:
            for writer in writers:
                writer.end_source(first, second)

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
