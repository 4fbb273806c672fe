"""Accuracy against speed: a point a file and backend."""

from pathlib import Path

from ssd_deploy.parity.reference import title_of
from ssd_deploy.ship.certificate import FAIL, Certificate, Check
from ssd_train.lettering import chart_label
from ssd_train.report.charts import COLORS
from ssd_train.report.pictures import new_figure, png_uri, save_figure
from ssd_train.temporary import temporary_folder

MARKERS = "osD^v<>Pph*X"


def speed_chart(made: Certificate) -> str | None:
    """Return a PNG as a data URI; None where nothing was timed. Needs matplotlib."""
    timed = [
        (check, ms)
        for check in [made.reference, *made.checks]
        if (ms := _ms(check)) is not None and (check.metric is None) == (made.reference.metric is None)
    ]
    if not timed:
        return None
    backends = list(dict.fromkeys(check.runner for check, _ in timed))
    files = list(dict.fromkeys(check.file for check, _ in timed))
    figure = new_figure(7.6, 5.2)
    axes = figure.subplots()
    for check, ms in timed:
        color = COLORS[backends.index(check.runner) % len(COLORS)]
        marker = MARKERS[files.index(check.file) % len(MARKERS)]
        fill = "none" if check.verdict == FAIL else color
        axes.plot(ms, _accuracy(check), marker, color=color, markersize=10, markerfacecolor=fill)
    best = made.fastest
    for check, ms in timed:
        if best is not None and (check.file, check.backend) == (best.file, best.backend):
            axes.plot(ms, _accuracy(check), "o", color="black", markersize=19, markerfacecolor="none")
    axes.set_xlabel("milliseconds an image (median, network with NMS); faster is further left", fontsize=10)
    axes.set_ylabel(chart_label(f"{made.metric}, %" if made.metric else "detections that stayed, %"), fontsize=10)
    axes.margins(0.12)
    low, high = axes.get_ylim()
    # Differences of a hundredth of a point are not to fill the chart.
    middle, half = (low + high) / 2, max((high - low) / 2, 0.5)
    axes.set_ylim(middle - half, middle + half)
    axes.set_xlim(left=0)
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    named = [(COLORS[number % len(COLORS)], "o", name) for number, name in enumerate(backends)]
    named += [("#555555", MARKERS[number % len(MARKERS)], short_name(name, made)) for number, name in enumerate(files)]
    handles = [
        axes.plot([], [], marker, color=color, linestyle="", label=chart_label(name))[0]
        for color, marker, name in named
    ]
    if best is not None:
        handles += axes.plot([], [], "o", color="black", markersize=13, markerfacecolor="none", label="fastest allowed")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with temporary_folder() as folder:
        path = Path(folder) / "chart.png"
        save_figure(figure, path)
        return png_uri(path)


def short_name(file: str, made: Certificate) -> str:
    """Return a file's name without the network's, which they all have; that of the reference for an empty one."""
    return file.replace(made.detector.network, "…") or title_of(made.reference.backend)


def _accuracy(check: Check) -> float:
    if check.metric is not None:
        return 100 * check.metric
    return 100 * (1 - check.changed / max(check.total, 1))


def _ms(check: Check) -> float | None:
    return None if check.latency is None else check.latency["network"].p50_ms
