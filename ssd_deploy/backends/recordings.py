"""Replaying a GPU's work for batch sizes that come again: when it is recorded, checked, kept and given up.

A CUDA graph spares a detector the start of hundreds of kernels at every call, and a single image waits for little else.
Recording one takes time and memory, so it is done for sizes that repeat. What could not be tried on every card is not
trusted: a recording is kept where it finds what the detector found without it, and otherwise one warning says why
not. Light: PyTorch and ONNX Runtime bring their own recordings.
"""

import dataclasses
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from ssd_deploy.backends.answers import describe_difference
from ssd_train.detections import PaddedDetections
from ssd_train.errors import SSDDeployError, first_line
from ssd_train.preprocess import Images
from ssd_train.spec import DetectorSpec

log = logging.getLogger(__name__)


# The call with a batch size at which it is recorded. The last, smaller batch of a data set comes once a pass.
RECORDED_AT_CALL = 3

# Batch sizes that are recorded; each holds memory of the GPU.
MOST_RECORDINGS = 8


class Recording(Protocol):
    """A detector's work for one batch size."""

    def run(self, images: Images) -> PaddedDetections:
        """Detect in a batch of that size; see `Runner.run`."""
        ...

    def times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of `runs` computations; see `DeviceTimed.device_times_ms`."""
        ...

    def close(self) -> None:
        """Give back what it holds; may be called twice."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way to record.

    Attributes:
        name: its variants, as a warning names them: `cuda-graph+nhwc`.
        record: batch -> recording for batches of that size. What it records with must not be taken for an answer: the
            images may be others. Raises RuntimeError or BackendError.
    """

    name: str
    record: Callable[[Images], Recording]


class Recordings:
    """Runs a detector as usual, or replays what was recorded for a batch size. For several threads, one at a time.

    Args:
        name: of the detector, for warnings.
        spec: of the detector; its precision decides what counts as the same answer.
        run, times_ms: the detector without recordings.
        ways: tried in this order. One that fails, or finds something else, is not tried again.
        is_asked_for: the user asked for the one way: each size is recorded at its first call, and what fails is raised.
        most: batch sizes that are kept.
    """

    def __init__(
        self,
        name: str,
        spec: DetectorSpec,
        run: Callable[[Images], PaddedDetections],
        times_ms: Callable[[Images, int], list[float]],
        ways: Sequence[Way],
        *,
        is_asked_for: bool = False,
        most: int = MOST_RECORDINGS,
    ) -> None:
        self._name = name
        self._spec = spec
        self._run = run
        self._times_ms = times_ms
        self._ways = list(ways)
        self._is_asked_for = is_asked_for
        self._most = most
        self._calls: Counter[int] = Counter()
        self._kept: dict[int, Recording] = {}
        self._lock = threading.Lock()

    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`."""
        with self._lock:
            if self._is_asked_for:
                return self._asked_for(images).run(images)
            if len(images) in self._kept:
                return self._kept[len(images)].run(images)
            answer = self._run(images)
            if self._is_due(len(images), 1):
                self._try(images, answer)
            return answer

    def times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of what `run` does once it has come to rest."""
        with self._lock:
            if self._is_asked_for:
                return self._asked_for(images).times_ms(images, runs)
            if len(images) not in self._kept and self._is_due(len(images), runs):
                self._try(images, self._run(images))
            recording = self._kept.get(len(images))
            return self._times_ms(images, runs) if recording is None else recording.times_ms(images, runs)

    def recorded(self) -> tuple[int, ...]:
        """Return the batch sizes that are replayed, the oldest first."""
        return tuple(self._kept)

    def close(self) -> None:
        """Give back what was recorded; may be called twice."""
        with self._lock:
            while self._kept:
                self._kept.popitem()[1].close()
            self._ways.clear()

    def _is_due(self, count: int, calls: int) -> bool:
        self._calls[count] += calls
        return bool(self._ways) and len(self._kept) < self._most and self._calls[count] >= RECORDED_AT_CALL

    def _asked_for(self, images: Images) -> Recording:
        count = len(images)
        if count not in self._kept:
            if len(self._kept) == self._most:
                self._kept.pop(next(iter(self._kept))).close()
            self._kept[count] = self._ways[0].record(images)
        return self._kept[count]

    def _try(self, images: Images, expected: PaddedDetections) -> None:
        """Record a batch size in the first way that finds what was found without it."""
        if not (expected.labels >= 0).any():
            return  # two empty answers show nothing; a later call will
        while self._ways:
            way = self._ways[0]
            recording: Recording | None = None
            try:
                recording = way.record(images)
                problem = describe_difference(recording.run(images), expected, self._spec)
            except (RuntimeError, SSDDeployError) as error:
                problem = first_line(error)
            if recording is not None and problem is None:
                self._kept[len(images)] = recording
                log.info("%s: batches of %d are replayed (%s)", self._name, len(images), way.name)
                return
            if recording is not None:
                recording.close()
            log.warning("%s: runs without %s from now on (%s)", self._name, way.name, problem)
            del self._ways[0]
