"""A panel a network: how many times as fast as GluonCV each way to run it is."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common.peer_ways import CALIBRATED, FLOAT32, GLUONCV, HALF, WAYS
from ssd_train.files import written_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {FLOAT32: "#0072B2", HALF: "#E69F00", CALIBRATED: "#009E73"}
KINDS = {FLOAT32: "float32", HALF: "bf16 or fp16, no calibration", CALIBRATED: "int8, calibrated"}
COLUMNS = 4


def write_chart(rows: list[dict[str, Any]], path: Path, machine: str) -> None:
    """Draw every way that was measured with any of the networks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    # matplotlib draws from the bottom up.
    ways = [way for way in reversed(WAYS) if any(way.label in row["times_gluoncv"] for row in rows)]
    columns = min(COLUMNS, len(rows))
    lines = math.ceil(len(rows) / columns)
    size = (3.0 + 2.6 * columns, 1.6 + lines * (0.7 + 0.24 * len(ways)))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    widest = max(ratio for row in rows for ratio in row["times_gluoncv"].values())
    for axes, row in zip(panels.flat, rows, strict=False):
        _draw(axes, row, ways, widest)
    for axes in panels.flat[len(rows) :]:
        axes.set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("times as fast as GluonCV", fontsize=8)
    lines_of_title = ("One photograph a call, same weights, decode and NMS included; longer is faster", machine)
    figure.suptitle("\n".join(lines_of_title), fontsize=9, fontweight="bold")
    kinds = dict.fromkeys(way.kind for way in reversed(ways))
    handles = [Patch(color=COLORS[kind], label=KINDS[kind]) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:])


def _draw(axes: "Axes", row: dict[str, Any], ways: list[Any], widest: float) -> None:
    ratios = [row["times_gluoncv"].get(way.label, math.nan) for way in ways]
    bars = axes.barh(range(len(ways)), ratios, 0.72, color=[COLORS[way.kind] for way in ways])
    numbers = ["" if math.isnan(ratio) else f"{ratio:.2f}" for ratio in ratios]
    axes.bar_label(bars, numbers, fontsize=8, padding=2)
    axes.axvline(1, color="#555555", linewidth=1)
    axes.set_yticks(range(len(ways)), [way.label for way in ways], fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(0, 1.15 * widest)
    axes.set_title(f"{row['network']}\n{GLUONCV} {row['ms'][GLUONCV]:.0f} ms", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
