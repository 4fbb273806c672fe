"""What a benchmark measured, as data."""

import dataclasses
from typing import Any

import numpy as np

from ssd_train.environment import Memory


def series_name(backend: str, precision: str, source: str) -> str:
    """Return what all rows of one backend, precision and source are called."""
    return ", ".join(filter(None, (backend, precision, source)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """The times of all timed calls of one span.

    Attributes:
        times_ms: in the order they were made, all rounds.
        batch_size: images a call.
    """

    times_ms: tuple[float, ...]
    batch_size: int

    @property
    def p50(self) -> float:
        return float(np.percentile(self.times_ms, 50))

    @property
    def p90(self) -> float:
        return float(np.percentile(self.times_ms, 90))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.times_ms, 99))

    @property
    def images_per_second(self) -> float:
        """Images of all calls over the time of all calls, slow ones included: what a long run gets through."""
        return 1e3 * self.batch_size * len(self.times_ms) / sum(self.times_ms)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, times in milliseconds."""
        return {
            "calls": len(self.times_ms),
            "p50_ms": self.p50,
            "p90_ms": self.p90,
            "p99_ms": self.p99,
            "images_per_second": self.images_per_second,
            "times_ms": list(self.times_ms),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """One backend with one batch size.

    Attributes:
        backend: what the user called it.
        runner: what it calls itself: where it really ran.
        precision: what it computed in.
        source: what it ran, where that tells rows apart.
        batch_size: images a call.
        network, end_to_end: see `SPANS`.
        device: likewise; None without a GPU.
        device_clock: what that was measured with.
        memory: growth from before the backend was opened until it was warmed up for this batch size.
        threads: CPU threads that it computed with; None where that is not known.
    """

    backend: str
    runner: str
    precision: str
    source: str
    batch_size: int
    network: Latency
    device: Latency | None
    device_clock: str | None
    end_to_end: Latency
    memory: Memory
    threads: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preparation:
    """What comes before any backend, alone: a batch's files to pixels, and those to the network's input.

    Attributes:
        batch_size: images a call.
        input_size: (height, width) of the input.
    """

    batch_size: int
    input_size: tuple[int, int]
    decode: Latency
    preprocess: Latency


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """All measurements.

    Attributes:
        rows: by batch size, then in the order of the backends.
        preparation: one a batch size and kind of input.
        skipped: what was left out and why, a sentence each.
    """

    rows: tuple[Measurement, ...]
    preparation: tuple[Preparation, ...]
    skipped: tuple[str, ...]


def plain_values(row: Measurement | Preparation) -> dict[str, Any]:
    """Return a row for JSON."""
    latencies = {name: value.to_dict() for name, value in vars(row).items() if isinstance(value, Latency)}
    return dataclasses.asdict(row) | latencies
