"""A generator that runs in a thread of its own, never more than a few items ahead of its reader."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class RunAhead(Generic[Item]):
    """Runs `produce` in a thread and gives out what it yields, in order.

    Args:
        produce: called in the thread with an event that is set when it has to end; it looks at it while it waits.
        room: items that may wait, at least 1.
        drop_oldest: where there is no room, the item that has waited longest is left out; otherwise `produce` waits.
        name: of the thread.

    Attributes:
        dropped: items that were left out.
    """

    def __init__(
        self, produce: Callable[[threading.Event], Iterator[Item]], *, room: int, drop_oldest: bool, name: str
    ) -> None:
        self.dropped = 0
        self._produce = produce
        self._room = room
        self._drop_oldest = drop_oldest
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._is_over = False
        self._error: BaseException | None = None
        # A daemon, so that a driver that never answers cannot keep the program alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def items(self) -> Generator[Item, None, None]:
        """Yield until the end.

        Raises:
            BaseException: what `produce` raised, after what it yielded.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_over)
                if not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
            # Decoded frames are large; this one is its reader's now.
            del item
        if self._error is not None:
            raise self._error

    def is_ready(self) -> bool:
        """Whether an item, or the end, is there without waiting."""
        with self._changed:
            return bool(self._waiting) or self._is_over

    def close(self) -> None:
        """End the thread and forget what waits; returns once `produce` is closed. May be called twice."""
        self._stop.set()
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            items = self._produce(self._stop)
            try:
                for item in items:
                    if not self._put(item):
                        break
                    del item
            finally:
                if isinstance(items, Generator):
                    items.close()
        except BaseException as error:  # handed to the reader, whatever it is
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Let an item wait for the reader; False where nobody wants it any more."""
        with self._changed:
            if self._drop_oldest and len(self._waiting) == self._room:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._waiting) < self._room or self._stop.is_set())
            if self._stop.is_set():
                return False
            self._waiting.append(item)
            self._changed.notify_all()
            return True
