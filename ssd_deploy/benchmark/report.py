"""What a benchmark found: as text, as plain values for JSON."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssd_deploy.benchmark.measure import SPANS, BenchmarkSettings
from ssd_deploy.benchmark.measurements import Measured, Measurement, Preparation, plain_values, series_name
from ssd_deploy.text_table import text_table, wrapped
from ssd_train.environment import Environment
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
        detectors: source -> the detector that was measured, with the precision of its first row; the source is
            empty where rows are told apart without it.
        settings: how much was measured.
        images: which images, as text.
        measured: all numbers.
        not_run: backends that could not be opened, a sentence each.
        environment: the machine.
        opencv_threads: CPU threads of decoding and pre-processing.
    """

    detectors: Mapping[str, DetectorSpec]
    settings: BenchmarkSettings
    images: str
    measured: Measured
    not_run: tuple[str, ...]
    environment: Environment
    opencv_threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; `detector` is the first of `detectors`."""
        detectors = {source: dataclasses.asdict(spec) for source, spec in self.detectors.items()}
        return {
            "detector": next(iter(detectors.values())),
            "detectors": detectors,
            "settings": dataclasses.asdict(self.settings),
            "images": self.images,
            "spans": SPANS,
            "images_per_second": RATE_TEXT,
            "memory": MEMORY_TEXT,
            "rows": [plain_values(row) for row in self.measured.rows],
            "preparation": [plain_values(row) for row in self.measured.preparation],
            "skipped": list(self.measured.skipped),
            "not_run": list(self.not_run),
            "environment": dataclasses.asdict(self.environment),
            "opencv_threads": self.opencv_threads,
        }

    def text(self, width: int | None = None) -> str:
        """Return the tables, and below them what their columns mean.

        Args:
            width: most characters a line; None for no limit.
        """
        head = [
            f"{source}{': ' if source else ''}{spec.network}, input {spec.input_size[1]} x {spec.input_size[0]}, "
            f"weights: {spec.weights}"
            for source, spec in self.detectors.items()
        ]
        threads = {row.backend: row.threads for row in self.measured.rows if row.threads is not None}
        threads["OpenCV"] = self.opencv_threads
        in_use = ", ".join(f"{name} {count}" for name, count in threads.items())
        head += [f"images: {self.images}", *self.environment.lines(), f"CPU threads: {in_use}"]
        clocks = sorted({row.device_clock for row in self.measured.rows if row.device_clock})
        spans = {name: meaning for name, meaning in SPANS.items() if name != "device"}
        if clocks:
            device = f"{'; '.join(clocks)}; network without the transfers, GPU memory to GPU memory"
            spans = {"network": spans["network"], "device": device, **spans}
        below = [
            "p50, p90, p99: milliseconds of a call for a whole batch, all rounds together "
            f"({self.settings.rounds} rounds, backends in turn)",
            f"images/s: {RATE_TEXT}",
            *(f"{name}: {meaning}" for name, meaning in spans.items()),
            f"memory (MiB): {MEMORY_TEXT}",
        ]
        if any(len(row.network.times_ms) < CALLS_FOR_P99 for row in self.measured.rows):
            below.append(f"note: with fewer than {CALLS_FOR_P99} calls p99 is close to the slowest call")
        below += [f"skipped: {reason}" for reason in self.measured.skipped]
        below += [f"not run: {reason}" for reason in self.not_run]
        tables = (_table(self.measured.rows, width), _preparation_table(self.measured.preparation, width))
        return "\n".join([*wrapped(head, width), "", "\n\n".join(tables), "", *wrapped(below, width)])


def _table(rows: Sequence[Measurement], width: int | None) -> str:
    """Columns that no row can fill are left out."""
    columns: list[tuple[str, list[str]]] = [
        ("backend", [series_name(row.runner, row.precision, row.source) for row in rows]),
        ("batch", [str(row.batch_size) for row in rows]),
        ("network p50", [_digits(row.network.p50) for row in rows]),
        ("p90", [_digits(row.network.p90) for row in rows]),
        ("p99", [_digits(row.network.p99) for row in rows]),
        ("images/s", [_digits(row.network.images_per_second) for row in rows]),
        ("calls", [str(len(row.network.times_ms)) for row in rows]),
        ("device p50", ["-" if row.device is None else _digits(row.device.p50) for row in rows]),
        ("end-to-end p50", [_digits(row.end_to_end.p50) for row in rows]),
        ("images/s", [_digits(row.end_to_end.images_per_second) for row in rows]),
        ("RAM MiB", [_mebibytes(row.memory.resident_bytes) for row in rows]),
        ("GPU MiB", [_mebibytes(row.memory.gpu_bytes) for row in rows]),
    ]
    return _filled(columns, left=1, keys=2, width=width)


def _preparation_table(rows: Sequence[Preparation], width: int | None) -> str:
    several = len({row.input_size for row in rows}) > 1
    columns = [
        ("batch", [str(row.batch_size) for row in rows]),
        ("input", [f"{row.input_size[1]} x {row.input_size[0]}" if several else "-" for row in rows]),
        ("decode p50", [_digits(row.decode.p50) for row in rows]),
        ("p90", [_digits(row.decode.p90) for row in rows]),
        ("preprocess p50", [_digits(row.preprocess.p50) for row in rows]),
        ("p90", [_digits(row.preprocess.p90) for row in rows]),
    ]
    return _filled(columns, left=0, keys=1, width=width)


def _filled(columns: Sequence[tuple[str, list[str]]], *, left: int, keys: int, width: int | None) -> str:
    filled = [(name, cells) for name, cells in columns if set(cells) != {"-"}]
    rows = list(zip(*(cells for _, cells in filled), strict=True))
    return text_table([name for name, _ in filled], rows, left=left, keys=keys, width=width)


def _digits(value: float) -> str:
    """Three significant digits at least, since a GPU takes tenths of a millisecond and a CPU hundreds."""
    decimals = 0 if value >= 100 else 2 - math.floor(math.log10(max(value, 1e-3)))
    return f"{value:.{max(0, min(3, decimals))}f}"


def _mebibytes(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 2**20:.0f}"
