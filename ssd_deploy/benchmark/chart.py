"""A benchmark as a picture: what each backend gets through, and how long a call takes."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssd_deploy.benchmark.measurements import Measurement, series_name
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_train.files import written_atomically
from ssd_train.lettering import chart_label
from ssd_train.requirements import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

END_TO_END_LABEL = "end to end: image files to boxes"
P99_LABEL = "bars: network span; line: its p50 to p99"

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

    rows = report.measured.rows
    figure = Figure(figsize=(max(11.0, 3.0 + 0.55 * len(rows)), 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    throughput, latency = figure.subplots(1, 2)
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
            "label": chart_label(series_name(own[0].runner, precision, own[0].source)),
        }
        rates = [row.network.images_per_second for row in own]
        medians = [row.network.p50 for row in own]
        to_p99 = [row.network.p99 - row.network.p50 for row in own]
        bars = throughput.bar(places, rates, width, **style), latency.bar(places, medians, width, **style)
        if len(rows) <= BARS_WITH_NUMBERS:
            throughput.bar_label(bars[0], map(_short, rates), fontsize=8, padding=1)
            # Inside the bar, at its foot: above it are the line and the diamond.
            latency.bar_label(bars[1], map(_short, medians), label_type="center", fontsize=8, color="white")
        latency.errorbar(
            places, medians, yerr=[[0.0] * len(own), to_p99], fmt="none", ecolor="black", elinewidth=1, capsize=3,
            label=P99_LABEL,
        )  # fmt: skip
        end_to_end = [row.end_to_end for row in own]
        for axes, values in (
            (throughput, [each.images_per_second for each in end_to_end]),
            (latency, [each.p50 for each in end_to_end]),
        ):
            axes.plot(places, values, "D", color="black", markersize=5, markeredgecolor="white", label=END_TO_END_LABEL)
    latency.set_yscale("log")
    # A logarithmic axis has no zero for its bars to stand on.
    latency.set_ylim(bottom=min(row.network.p50 for row in rows) / 3)
    _finish(throughput, sizes, "Throughput (higher is better)", "images/s")
    _finish(latency, sizes, "Latency of a call (lower is better)", "milliseconds, logarithmic")
    on_gpu = report.environment.gpu if any(row.device for row in rows) else None
    networks = dict.fromkeys(
        f"{spec.network}, input {spec.input_size[1]} x {spec.input_size[0]}" for spec in report.detectors.values()
    )
    title = f"{'; '.join(networks)}, on {on_gpu or report.environment.cpu}"
    figure.suptitle(chart_label(title), fontsize=12, fontweight="bold")
    # Every series draws the same marks; the legend names them once, after the series.
    handles = {
        label: handle
        for axes in (throughput, latency)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(handles, key=lambda label: label in (END_TO_END_LABEL, P99_LABEL))
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=3, frameon=False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _series(row: Measurement) -> tuple[tuple[str, str], str]:
    """What one color stands for, a backend with what it runs, and what one pattern does."""
    return (row.backend, row.source), row.precision


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
