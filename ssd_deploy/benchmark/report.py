"""What a benchmark found: as text, as plain values for JSON."""

import dataclasses
import math
from typing import Any

from ssd_deploy.benchmark.environment import Environment
from ssd_deploy.benchmark.measure import SPANS, BenchmarkSettings, Latency, Measured, Measurement
from ssd_deploy.text_table import text_table
from ssd_train.spec import DetectorSpec

MEMORY_TEXT = (
    "growth from before a backend was opened until it was warmed up for the batch size, its libraries' code "
    "loaded before; RAM: resident memory of this process; GPU: in use on the GPU by all processes"
)
RATE_TEXT = "images of all calls over the time of all calls"

# Fewer calls than this have no slowest hundredth; p99 is then close to the slowest call.
CALLS_FOR_P99 = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """A whole benchmark run.

    Attributes:
        spec: the detector that was measured; its precision is that of the first row.
        settings: how much was measured.
        images: which images, as text.
        measured: all numbers.
        not_run: backends that could not be opened, a sentence each.
        environment: the machine.
        opencv_threads: CPU threads of decoding and pre-processing.
    """

    spec: DetectorSpec
    settings: BenchmarkSettings
    images: str
    measured: Measured
    not_run: tuple[str, ...]
    environment: Environment
    opencv_threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "detector": dataclasses.asdict(self.spec),
            "settings": dataclasses.asdict(self.settings),
            "images": self.images,
            "spans": SPANS,
            "images_per_second": RATE_TEXT,
            "memory": MEMORY_TEXT,
            "rows": [row.to_dict() for row in self.measured.rows],
            "preparation": [row.to_dict() for row in self.measured.preparation],
            "skipped": list(self.measured.skipped),
            "not_run": list(self.not_run),
            "environment": dataclasses.asdict(self.environment),
            "opencv_threads": self.opencv_threads,
        }

    def text(self) -> str:
        """Return the tables, and below them what their columns mean."""
        rows = self.measured.rows
        height, width = self.spec.input_size
        lines = [
            f"{self.spec.network}, input {height} x {width}, weights: {self.spec.weights}",
            f"images: {self.images}",
            *self.environment.lines(),
            f"CPU threads: {', '.join(self._threads())}",
            "",
            _table(rows),
            "",
            text_table(
                ("batch", "decode p50", "p90", "preprocess p50", "p90"),
                [
                    (str(row.batch_size), *_cells(row.decode, "p50", "p90"), *_cells(row.preprocess, "p50", "p90"))
                    for row in self.measured.preparation
                ],
                left=0,
            ),
            "",
            "p50, p90, p99: milliseconds of a call for a whole batch, all rounds together "
            f"({self.settings.rounds} rounds, backends in turn)",
            f"images/s: {RATE_TEXT}",
        ]
        clocks = sorted({row.device_clock for row in rows if row.device_clock})
        for name, meaning in SPANS.items():
            if name == "device":
                if clocks:
                    lines.append(
                        f"device: {'; '.join(clocks)}; network without the transfers, GPU memory to GPU memory"
                    )
            else:
                lines.append(f"{name}: {meaning}")
        lines.append(f"memory (MiB): {MEMORY_TEXT}")
        if any(len(row.network.times_ms) < CALLS_FOR_P99 for row in rows):
            lines.append(f"note: with fewer than {CALLS_FOR_P99} calls p99 is close to the slowest call")
        lines += [f"skipped: {reason}" for reason in self.measured.skipped]
        lines += [f"not run: {reason}" for reason in self.not_run]
        return "\n".join(lines)

    def _threads(self) -> list[str]:
        known = {row.backend: row.threads for row in self.measured.rows if row.threads is not None}
        return [*(f"{backend} {threads}" for backend, threads in known.items()), f"OpenCV {self.opencv_threads}"]


def _table(rows: tuple[Measurement, ...]) -> str:
    """Columns that no row can fill are left out."""
    columns: list[tuple[str, list[str]]] = [
        ("backend", [row.runner for row in rows]),
        ("precision", [row.precision for row in rows]),
        ("batch", [str(row.batch_size) for row in rows]),
        ("calls", [str(len(row.network.times_ms)) for row in rows]),
        ("network p50", [_digits(row.network.p50) for row in rows]),
        ("p90", [_digits(row.network.p90) for row in rows]),
        ("p99", [_digits(row.network.p99) for row in rows]),
        ("images/s", [_digits(row.network.images_per_second) for row in rows]),
        ("device p50", ["-" if row.device is None else _digits(row.device.p50) for row in rows]),
        ("end-to-end p50", [_digits(row.end_to_end.p50) for row in rows]),
        ("images/s", [_digits(row.end_to_end.images_per_second) for row in rows]),
        ("RAM MiB", [_mebibytes(row.memory.resident_bytes) for row in rows]),
        ("GPU MiB", [_mebibytes(row.memory.gpu_bytes) for row in rows]),
    ]
    filled = [(name, cells) for name, cells in columns if set(cells) != {"-"}]
    return text_table([name for name, _ in filled], list(zip(*(cells for _, cells in filled), strict=True)), left=2)


def _cells(latency: Latency, *names: str) -> list[str]:
    return [_digits(getattr(latency, name)) for name in names]


def _digits(value: float) -> str:
    """Three significant digits at least, since a GPU takes tenths of a millisecond and a CPU hundreds."""
    decimals = 0 if value >= 100 else 2 - math.floor(math.log10(max(value, 1e-3)))
    return f"{value:.{max(0, min(3, decimals))}f}"


def _mebibytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.0f}"
