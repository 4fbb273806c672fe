"""What a video file, a camera and a stream have in common: a thread that decodes ahead of the reader."""

import abc
import dataclasses
import threading
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.base import Source
from ssd_deploy.sources.decoding import BROKEN, DecodedFrame, to_rgb
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.run_ahead import RunAhead
from ssd_train.errors import SourceError
from ssd_train.evaluation.loop import NO_IMAGE

if TYPE_CHECKING:
    import av

# Decoded frames that wait for the reader: a usual batch, so that the next one is there when the network is done.
ROOM = 8


class DecodedSource(Source):
    """A source whose frames are decoded in a thread and turned into pictures by `load`.

    Args:
        drop_late: keep the newest frame alone, rather than let the decoder wait for the reader.
    """

    def __init__(self, *, drop_late: bool) -> None:
        super().__init__()
        self._drop_late = drop_late
        self._ahead: RunAhead[Frame] | None = None
        self._broken: _Broken | None = None

    @abc.abstractmethod
    def _produce(self, stop: threading.Event) -> Iterator[Frame]:
        """Yield every frame, in the thread; end soon after `stop` is set."""

    def frames(self) -> Generator[Frame, None, None]:
        if self._ahead is not None:
            raise SourceError(f"{self.info.name}: its frames were read already; open it again")
        room = 1 if self._drop_late else ROOM
        self._ahead = RunAhead(self._produce, room=room, drop_oldest=self._drop_late, name=f"decode {self.info.name}")
        try:
            yield from self._ahead.items()
        finally:
            self._ahead.close()

    def load(self, frame: Frame) -> NDArray[np.uint8]:
        assert isinstance(frame, DecodedFrame)
        return to_rgb(frame)

    @property
    def dropped(self) -> int:
        return 0 if self._ahead is None else self._ahead.dropped

    def is_ready(self) -> bool:
        return self._ahead is not None and self._ahead.is_ready()

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _decoded_frame(self, decoded: "av.VideoFrame", *, index: int, label: str, time_s: float | None) -> DecodedFrame:
        """Make a frame of what was decoded, and say what was broken before it."""
        if decoded.is_corrupt:
            self._note_broken(index, time_s, "damaged, and used as far as it could be decoded")
        else:
            self._say_broken()
        return DecodedFrame(
            index=index,
            name=f"{label}#{index}",
            image=NO_IMAGE,
            path=None,
            time_s=time_s,
            source=self.info,
            decoded=decoded,
        )

    def _note_broken(self, index: int, time_s: float | None, what: str = BROKEN) -> None:
        """Remember a broken frame; those that follow each other are said in one sentence."""
        self.problems += 1
        before = self._broken
        if before is not None and (before.last, before.what) == (index - 1, what):
            self._broken = dataclasses.replace(before, last=index)
        else:
            self._say_broken()
            self._broken = _Broken(first=index, last=index, time_s=time_s, what=what)

    def _forget_broken(self) -> None:
        """Take back the broken frames that were noted and not yet said."""
        if self._broken is not None:
            self.problems -= self._broken.last - self._broken.first + 1
            self._broken = None

    def _say_broken(self) -> None:
        """Say the broken frames that were noted, once a good one or the end has come."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            self.report(f"{self.info.name}: {broken.sentence()}", is_loss=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Broken:
    """Broken frames that follow each other: first and last number, time of the first, what became of them."""

    first: int
    last: int
    time_s: float | None
    what: str

    def sentence(self) -> str:
        when = "" if self.time_s is None else f" (at {self.time_s:.2f} s)"
        if self.first == self.last:
            return f"frame {self.first}{when} is {self.what}"
        return f"frames {self.first} to {self.last}{when} are {self.what}"
