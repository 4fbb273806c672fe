"""A benchmark as a picture: what each backend gets through, and how long a call takes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd_deploy.benchmark.measurements import Measurement, series_name
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_train.files import written_atomically
from ssd_train.requirements import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

END_TO_END_LABEL = "end to end: image files to boxes"
P99_LABEL = "bars: network span; line: its p50 to p99"

# How matplotlib draws a series: color, pattern, name.
Style = dict[str, Any]

# The color of a backend, or of a file in it (Okabe and Ito's, which color-blind readers tell apart), and the pattern of
# a precision.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
PATTERNS = ("", "//", "..", "xx")

# More bars than this leave no room for numbers above them.
BARS_WITH_NUMBERS = 18


def write_chart(report: BenchmarkReport, path: Path) -> Path:
    """Write a PNG: throughput by batch size on the left, latency on the right.

    Raises:
        BackendError: matplotlib is not installed.
        SSDDeployError: the file cannot be written.
    """
    require("matplotlib", "plots", "A chart")
    # The object interface: no windows, no state shared with a program that draws too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(11.0, 3.0 + 0.55 * len(report.measured.rows)), 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    throughput, latency = figure.subplots(1, 2)
    rows = report.measured.rows
    with_numbers = len(rows) <= BARS_WITH_NUMBERS
    sizes = sorted({row.batch_size for row in rows})
    series = list(dict.fromkeys(map(_series, rows)))
    models, precisions = (list(dict.fromkeys(names)) for names in zip(*series, strict=True))
    width = 0.82 / len(series)
    for number, (model, precision) in enumerate(series):
        own = [row for row in rows if _series(row) == (model, precision)]
        places = [sizes.index(row.batch_size) + (number - (len(series) - 1) / 2) * width for row in own]
        color, pattern = models.index(model), precisions.index(precision)
        style = {
            "color": COLORS[color % len(COLORS)],
            "hatch": PATTERNS[(pattern + color // len(COLORS)) % len(PATTERNS)],
            "edgecolor": "white",
            "label": series_name(own[0].runner, precision, own[0].source),
        }
        _draw_throughput(throughput, places, own, width, style, with_numbers)
        _draw_latency(latency, places, own, width, style, with_numbers)
    latency.set_yscale("log")
    # A logarithmic axis has no zero for its bars to stand on.
    latency.set_ylim(bottom=min(row.network.p50 for row in rows) / 3)
    _finish(throughput, sizes, "Throughput (higher is better)", "images/s")
    _finish(latency, sizes, "Latency of a call (lower is better)", "milliseconds, logarithmic")
    on_gpu = report.environment.gpu if any(row.device for row in rows) else None
    networks = dict.fromkeys(
        f"{spec.network}, input {spec.input_size[0]} x {spec.input_size[1]}" for spec in report.detectors.values()
    )
    figure.suptitle(
        f"{'; '.join(networks)}, on {on_gpu or report.environment.cpu}",
        fontsize=12,
        fontweight="bold",
    )
    # Every series draws the same marks; the legend names them once, after the series.
    handles = {label: handle for axes in (throughput, latency) for handle, label in zip(*_legend_of(axes), strict=True)}
    labels = sorted(handles, key=lambda label: label in (END_TO_END_LABEL, P99_LABEL))
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, frameon=False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _series(row: Measurement) -> tuple[tuple[str, str], str]:
    """What one color stands for, a backend with what it runs, and what one pattern does."""
    return (row.backend, row.source), row.precision


def _draw_throughput(
    axes: "Axes", places: list[float], rows: list[Measurement], width: float, style: Style, with_numbers: bool
) -> None:
    """Bars for the network span, a diamond on each for end to end."""
    rates = [row.network.images_per_second for row in rows]
    bars = axes.bar(places, rates, width, **style)
    if with_numbers:
        axes.bar_label(bars, [_short(rate) for rate in rates], fontsize=8, padding=1)
    _draw_end_to_end(axes, places, [row.end_to_end.images_per_second for row in rows])


def _draw_latency(
    axes: "Axes", places: list[float], rows: list[Measurement], width: float, style: Style, with_numbers: bool
) -> None:
    """Bars up to the p50 of the network span, a line from there to its p99, a diamond for end to end."""
    medians = [row.network.p50 for row in rows]
    to_p99 = [row.network.p99 - row.network.p50 for row in rows]
    bars = axes.bar(places, medians, width, **style)
    if with_numbers:
        # Inside the bar, at its foot: above it are the line and the diamond.
        axes.bar_label(bars, [_short(median) for median in medians], label_type="center", fontsize=8, color="white")
    axes.errorbar(
        places,
        medians,
        yerr=[[0.0] * len(rows), to_p99],
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=3,
        label=P99_LABEL,
    )
    _draw_end_to_end(axes, places, [row.end_to_end.p50 for row in rows])


def _draw_end_to_end(axes: "Axes", places: list[float], values: list[float]) -> None:
    label = END_TO_END_LABEL
    axes.plot(places, values, "D", color="black", markersize=5, markeredgecolor="white", label=label)


def _legend_of(axes: "Axes") -> tuple[list[Any], list[Any]]:
    handles, labels = axes.get_legend_handles_labels()
    return handles, labels


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _finish(axes: "Axes", sizes: list[int], title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_ylabel(unit)
    axes.set_xlabel("images a call (batch size)")
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
