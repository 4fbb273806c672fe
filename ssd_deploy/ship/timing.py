"""How fast is each file: all in turns, by the benchmark's own measurement."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_deploy.backends import BackendChoice, RunOptions
from ssd_deploy.benchmark.measure import SPANS, BenchmarkSettings, measure
from ssd_deploy.benchmark.measurements import Latency as Measured
from ssd_deploy.benchmark.sources import open_contender
from ssd_deploy.ship.certificate import Latency
from ssd_deploy.ship.judge import BATCH_SIZE
from ssd_train.errors import SSDDeployError

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

# Short turns and several of them: what slows the machine for a while meets everyone.
SETTINGS = BenchmarkSettings(batch_sizes=(BATCH_SIZE,), rounds=5, turn_seconds=0.3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """What is timed.

    Attributes:
        name: tells it from the others.
        model: the network, or a file.
        choice: in which backend.
        device: where.
    """

    name: str
    model: "SSD | Path"
    choice: BackendChoice
    device: str


def time_all(
    runs: Sequence[Runs],
    images: Sequence[Path],
    *,
    threads: int = 0,
    allow_tf32: bool = False,
    settings: BenchmarkSettings = SETTINGS,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[dict[str, dict[str, Latency]], list[str]]:
    """Return the times of each by its name, span by span, and a sentence for each that could not be timed."""
    skipped: list[str] = []
    with contextlib.ExitStack() as closing:
        contenders = []
        for run in runs:
            options = RunOptions(
                device=run.device, variants=run.choice.variants, batch_size=BATCH_SIZE, allow_tf32=allow_tf32,
                threads=threads,
            )  # fmt: skip
            try:
                contenders.append(open_contender(run.choice, run.model, options, source=run.name))
            except SSDDeployError as error:
                skipped.append(f"{run.name}: {error}")
                continue
            closing.callback(contenders[-1].runner.close)
        measured = measure(contenders, images, settings, on_turn=on_turn)
    spans = {
        row.source: {
            name: _plain(value)
            for name in SPANS
            if isinstance(value := getattr(row, name.replace(" ", "_"), None), Measured)
        }
        for row in measured.rows
    }
    return spans, [*skipped, *measured.skipped]


def _plain(latency: Measured) -> Latency:
    return Latency(
        calls=len(latency.times_ms),
        p50_ms=latency.p50,
        p90_ms=latency.p90,
        p99_ms=latency.p99,
        images_per_second=latency.images_per_second,
    )
