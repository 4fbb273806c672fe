"""A search as a picture: speed against loss."""

from pathlib import Path

from ssd_deploy.benchmark.chart import COLORS
from ssd_deploy.benchmark.fastest.report import FastestReport
from ssd_train.files import written_atomically
from ssd_train.lettering import chart_label
from ssd_train.requirements import require

MARKERS = "osD^v<>Pph*X"


def write_chart(report: FastestReport, path: Path) -> Path:
    """Write a PNG: each scored trial by what it loses and how fast it is; what is allowed is filled.

    Raises:
        BackendError: matplotlib is not installed.
        SSDDeployError: the file cannot be written.
    """
    require("matplotlib", "plots", "A chart")
    # The object interface: no windows, no state shared with a program that draws too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = report.found
    scored = [(trial, trial.loss) for trial in found.trials if trial.loss is not None]
    backends = list(dict.fromkeys(str(trial.candidate.choice) for trial, _ in scored))
    forms = list(dict.fromkeys(str(trial.candidate.form) for trial, _ in scored))
    figure = Figure(figsize=(11.0, 5.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for trial, loss in scored:
        color = COLORS[backends.index(str(trial.candidate.choice)) % len(COLORS)]
        marker = MARKERS[forms.index(str(trial.candidate.form)) % len(MARKERS)]
        axes.plot(
            loss.value, trial.times_as_fast, marker, color=color, markersize=9,
            markerfacecolor=color if loss.is_allowed else "none",
        )  # fmt: skip
        if trial == found.best:
            axes.plot(loss.value, trial.times_as_fast, "o", color="black", markersize=17, markerfacecolor="none")
            best = f"{trial.candidate}: {trial.times_as_fast:.2f} times as fast, {trial.ms:.3g} ms"
            axes.set_title(chart_label(best), fontsize=11)
    axes.set_xlabel(chart_label(found.unit))
    axes.set_ylabel("times as fast as float32")
    axes.set_ylim(0, 1.15 * max(trial.times_as_fast for trial, _ in scored))
    axes.margins(x=0.15)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    spec = found.spec
    title = f"{spec.network}, input {spec.input_size[1]} x {spec.input_size[0]}, on "
    on_gpu = report.environment.gpu if any("cuda" in trial.runner.lower() for trial in found.trials) else None
    figure.suptitle(chart_label(title + (on_gpu or report.environment.cpu)), fontsize=12, fontweight="bold")
    handles = [
        Line2D([], [], marker="o", linestyle="", color=COLORS[number % len(COLORS)], label=chart_label(name))
        for number, name in enumerate(backends)
    ]
    handles += [
        Line2D([], [], marker=MARKERS[number % len(MARKERS)], linestyle="", color="#555555", label=chart_label(name))
        for number, name in enumerate(forms)
    ]
    handles += [
        Line2D([], [], marker="o", linestyle="", color="#555555", markerfacecolor="none", label="loses too much"),
        Line2D([], [], marker="o", linestyle="", color="black", markersize=13, markerfacecolor="none", label="to use"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
