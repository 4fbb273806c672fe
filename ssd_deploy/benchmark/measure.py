"""How fast are backends, measured side by side on the same images?

Four things make the numbers comparable:
- Every span is named, with its clock and what lies inside (`SPANS`); all backends get the same ones.
- Backends take turns: in each round every one runs for a moment, in alternating order, so that a machine
  that slows down or is used by others slows all of them down.
- A turn starts when the threads of the one before have come to rest (`wait_until_idle`), with a call that
  is not timed.
- Pre-processing and what turns detections into image pixels are the project's own.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import DeviceTimed, Runner
from ssd_deploy.backends.recordings import RECORDED_AT_CALL
from ssd_deploy.benchmark.measurements import Latency, Measured, Measurement, Preparation, series_name
from ssd_deploy.detector import Detector
from ssd_train.environment import Memory, memory_in_use
from ssd_train.errors import BackendError, ImageError
from ssd_train.preprocess import Images, load_image, preprocess
from ssd_train.spec import DetectorSpec

HOST_CLOCK = "host clock"

# What is measured. Everything is the time of a call for a whole batch, one call after another.
SPANS = {
    "network": f"{HOST_CLOCK}; images in host memory -> network, box decoding, NMS -> detections in host memory",
    "device": "the clock named in the row; the same without the transfers, from the GPU's memory to the GPU's memory",
    "end to end": f"{HOST_CLOCK}; image files -> decode, pre-process, the network span, scale -> boxes in image pixels",
    "decode": f"{HOST_CLOCK}; image files (cached by the system) -> RGB pixels, one after another",
    "preprocess": f"{HOST_CLOCK}; RGB pixels -> resized, normalised (where no file does that), stacked; one by one",
}

# Files beyond these are not used: they would have to be held in memory.
MOST_IMAGES = 64

# Calls that bring a backend to its usual speed. The first may compile or allocate, the last but one may record a GPU's
# work; the last one's time decides how many calls fill a turn.
WARM_UP_CALLS = RECORDED_AT_CALL + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """How much is measured.

    Attributes:
        batch_sizes: images a call; sorted when measured.
        rounds: turns that every backend gets for each batch size.
        turn_seconds: about how long the calls of one span in a turn take; at least one call is made.
        max_calls: most timed calls of one span in a turn.

    Raises:
        BackendError: a value that measures nothing.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    rounds: int = 5
    turn_seconds: float = 0.5
    max_calls: int = 100

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1 or len(set(self.batch_sizes)) < len(self.batch_sizes):
            raise BackendError(f"batch sizes {list(self.batch_sizes)} are not different whole numbers from 1")
        if self.rounds < 1 or self.max_calls < 1 or not self.turn_seconds >= 0:
            raise BackendError(
                f"{self.rounds} rounds of {self.turn_seconds} s and at most {self.max_calls} calls measure nothing; "
                "use 1 or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contender:
    """A backend that takes part, open and not warmed up yet.

    Attributes:
        backend: what the user called it, for example `torch:compile`.
        runner: it itself.
        opening: growth of memory when it was opened.
        threads: CPU threads that it computes with; None where that is not known.
        source: name of the file or network that it runs, where that tells rows apart.
        batch_size: the only one that it was opened for; None for all.
    """

    backend: str
    runner: Runner
    opening: Memory
    threads: int | None = None
    source: str = ""
    batch_size: int | None = None

    @property
    def label(self) -> str:
        return series_name(self.backend, self.runner.spec.precision, self.source)


def measure(
    contenders: Sequence[Contender],
    images: Sequence[Path],
    settings: BenchmarkSettings,
    *,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> Measured:
    """Measure backends side by side.

    Args:
        contenders: each is measured with the inputs of its own network.
        images: files, at least one; the first `MOST_IMAGES` are used, repeated where a batch is larger.
        on_turn: told the turns done and those in all.

    Raises:
        BackendError: nothing is left to measure.
        KeyboardInterrupt: Ctrl-C before the first batch size was done; after that, what was measured is returned.
        ImageError: there is no image, or one cannot be read.
    """
    if not contenders:
        raise BackendError("there is no backend to measure; name one that works here, see `ssd-deploy doctor`")
    if not images:
        raise ImageError("there is no image to measure with; name some")
    files = list(images[:MOST_IMAGES])
    grown = {id(contender): contender.opening for contender in contenders}
    rows: list[Measurement] = []
    preparation: list[Preparation] = []
    skipped: list[str] = []
    sizes = sorted(settings.batch_sizes)
    of_size = [[each for each in contenders if each.batch_size in (None, size)] for size in sizes]
    total, done = settings.rounds * sum(map(len, of_size)), 0
    try:
        for batch_size, taking_part in zip(sizes, of_size, strict=True):
            batches: dict[tuple[Any, ...], _Batch] = {}
            turns: list[_Turns] = []
            for contender in taking_part:
                limit, spec = contender.runner.max_batch_size, contender.runner.spec
                if limit is not None and batch_size > limit:
                    reason = f"batch {batch_size} is over the {limit} images that it takes a call"
                    skipped.append(f"{contender.label}: {reason}")
                    continue
                key = (spec.input_kind, spec.input_size, spec.mean, spec.std, spec.resize)
                if key not in batches:
                    batches[key] = _Batch(files, batch_size, spec)
                before = memory_in_use()
                try:
                    turns.append(_Turns(contender, batches[key], settings))
                except BackendError as error:
                    skipped.append(f"{contender.label}: batch {batch_size} does not run: {error}")
                grown[id(contender)] += memory_in_use() - before
            for round_number in range(settings.rounds):
                for batch in batches.values() if turns else ():
                    wait_until_idle()
                    batch.take_turn(settings)
                # Back and forth: nobody always follows the same neighbour.
                for turn in turns[:: 1 if round_number % 2 == 0 else -1]:
                    wait_until_idle()
                    try:
                        turn.take()
                    except BackendError as error:
                        turns.remove(turn)
                        skipped.append(f"{turn.contender.label}: batch {batch_size} stopped running: {error}")
                    done += 1
                    on_turn(done, total)
            rows += [turn.result(grown[id(turn.contender)]) for turn in turns]
            used = [turn.batch for turn in turns]
            preparation += [batch.result() for batch in batches.values() if batch in used]
    except KeyboardInterrupt:
        # What was measured up to then is worth more than nothing.
        if not rows:
            raise
        skipped.append("stopped by Ctrl-C or another signal: further batch sizes were not measured")
    if not rows:
        raise BackendError(f"nothing is left to measure: {'; '.join(skipped)}")
    on_turn(total, total)
    return Measured(rows=tuple(rows), preparation=tuple(preparation), skipped=tuple(skipped))


def wait_until_idle(limit_s: float = 1.0) -> None:
    """Wait until this process computes nothing any more, or for `limit_s` seconds.

    The threads of a runtime go on looking for work after a call, on the cores that the next backend
    needs. Measured with 2 threads on 2 cores: ONNX Runtime's spin for about 40 ms after each call and
    OpenMP's, which PyTorch uses, for 5 to 10. PyTorch took 61 ms alone, 120 ms right after a call of
    ONNX Runtime, and 60 ms once 50 ms had passed. Within a turn nothing is waited for or switched off:
    there a backend only slows itself down, as it does in use.
    """
    end = time.perf_counter() + limit_s
    while time.perf_counter() < end:
        start, cpu_start = time.perf_counter(), time.process_time()
        time.sleep(0.01)
        if time.process_time() - cpu_start < 0.2 * (time.perf_counter() - start):
            return


class _Batch:
    """The images of one batch size and kind of input, and the times of what is done to them before any backend."""

    def __init__(self, files: Sequence[Path], batch_size: int, spec: DetectorSpec) -> None:
        self.files = [files[index % len(files)] for index in range(batch_size)]
        self.spec = spec
        self.pixels = self.load()
        self.inputs = self.preprocess()
        self.decode_ms: list[float] = []
        self.preprocess_ms: list[float] = []

    def load(self) -> list[NDArray[np.uint8]]:
        return [load_image(file) for file in self.files]

    def preprocess(self) -> Images:
        return np.stack([preprocess(image, self.spec) for image in self.pixels])

    def take_turn(self, settings: BenchmarkSettings) -> None:
        for step, times_ms in ((self.load, self.decode_ms), (self.preprocess, self.preprocess_ms)):
            once = timed_calls(step, 1)[0]
            times_ms += timed_calls(step, _calls(once, settings))

    def latency(self, times_ms: Sequence[float]) -> Latency:
        return Latency(times_ms=tuple(times_ms), batch_size=len(self.files))

    def result(self) -> Preparation:
        return Preparation(
            batch_size=len(self.files),
            input_size=self.spec.input_size,
            decode=self.latency(self.decode_ms),
            preprocess=self.latency(self.preprocess_ms),
        )


class _Turns:
    """One backend with one batch size: warmed up when it is made, then timed turn by turn."""

    def __init__(self, contender: Contender, batch: _Batch, settings: BenchmarkSettings) -> None:
        self.contender = contender
        self.runner = contender.runner
        self.batch = batch
        self.detector = Detector(self.runner, batch_size=len(batch.files))
        self.on_device = self.runner if isinstance(self.runner, DeviceTimed) and self.runner.device_clock else None
        self.network_ms: list[float] = []
        self.device_ms: list[float] = []
        self.end_to_end_ms: list[float] = []
        # The last call of each counts: by then nothing is compiled or allocated any more.
        self.network_calls = _calls(timed_calls(self.network, WARM_UP_CALLS)[-1], settings)
        self.end_to_end_calls = _calls(timed_calls(self.end_to_end, 1)[-1], settings)
        if self.on_device is not None:
            self.on_device.device_times_ms(self.batch.inputs, 1)

    def network(self) -> None:
        self.runner.run(self.batch.inputs)

    def end_to_end(self) -> None:
        self.detector.detect(self.batch.load())

    def take(self) -> None:
        self.network()
        self.network_ms += timed_calls(self.network, self.network_calls)
        if self.on_device is not None:
            # The first fills the memory that the others use.
            self.device_ms += self.on_device.device_times_ms(self.batch.inputs, self.network_calls + 1)[1:]
        self.end_to_end()
        self.end_to_end_ms += timed_calls(self.end_to_end, self.end_to_end_calls)

    def result(self, memory: Memory) -> Measurement:
        return Measurement(
            backend=self.contender.backend,
            runner=self.runner.name,
            precision=self.runner.spec.precision,
            source=self.contender.source,
            batch_size=len(self.batch.files),
            network=self.batch.latency(self.network_ms),
            device=self.batch.latency(self.device_ms) if self.device_ms else None,
            device_clock=self.on_device.device_clock if self.on_device else None,
            end_to_end=self.batch.latency(self.end_to_end_ms),
            memory=memory,
            threads=self.contender.threads,
        )


def timed_calls(step: Callable[[], object], count: int) -> list[float]:
    """Call `step` `count` times; return the host clock's milliseconds of each."""
    times_ms = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - start) * 1e3)
    return times_ms


def _calls(call_ms: float, settings: BenchmarkSettings) -> int:
    """How many calls fill a turn."""
    return max(1, min(settings.max_calls, round(1e3 * settings.turn_seconds / max(call_ms, 1e-3))))
