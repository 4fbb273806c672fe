"""The charts of an evaluation, drawn by matplotlib: curves, histograms of scores, the confusion matrix."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssd_train.lettering import chart_label
from ssd_train.metrics.operating_point import Curve, OperatingPoint
from ssd_train.report.evaluation import Evaluation
from ssd_train.report.histograms import BINS, Histogram
from ssd_train.report.pictures import new_figure, save_figure
from ssd_train.report.thinned import thinned_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import StepPatch

# Okabe and Ito's colors, which color-blind readers tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
RIGHT, WRONG, GREY = "#009E73", "#D55E00", "#b8bec5"

# More classes than colors are grey lines behind that of all together.
MAX_COLORED = len(COLORS)

# A matrix of more has no room for its counts.
MAX_COUNTED = 20
LONGEST_NAME = 24

# Thresholds descend, and each holds down to the next score.
STEPS = "steps-post"


def write_overview(path: Path, evaluation: Evaluation) -> None:
    """Write a PNG: precision over recall and F1 over the threshold, a line a class, and the scores of all."""
    figure = new_figure(12, 3.9)
    panels = figure.subplots(1, 3)
    curves = evaluation.curves.per_class
    defined = {name: curve for name, curve in curves.items() if curve.positives and len(curve.thresholds)}
    is_colored = len(defined) <= MAX_COLORED
    for number, (name, curve) in enumerate(defined.items()):
        style = {"color": COLORS[number], "linewidth": 1.6} if is_colored else {"color": GREY, "linewidth": 0.7}
        _curve_lines(panels, curve, label=chart_label(name, LONGEST_NAME) if is_colored else "", **style)
    if len(curves) > 1 and len(evaluation.curves.overall.thresholds) and evaluation.curves.overall.positives:
        _curve_lines(panels, evaluation.curves.overall, label="all together", color="black", linewidth=2)
    _finish_curves(panels)
    _draw_scores(panels[2], evaluation.histograms[""])
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    save_figure(figure, path)


class ClassCharts:
    """Draws one class after another into the same figure: new axes for each would take most of the time."""

    def __init__(self) -> None:
        self._figure = new_figure(12, 3.4, layout=None)
        self._figure.subplots_adjust(left=0.05, right=0.99, bottom=0.15, top=0.9, wspace=0.2)
        panels = self._figure.subplots(1, 3)
        over_recall, over_threshold, self._scores = panels
        (self._precision_recall,) = over_recall.plot([], [], color=COLORS[0])
        (self._point,) = over_recall.plot([], [], "o", color="black", markersize=6)
        self._lines = {
            name: over_threshold.plot([], [], color=color, label=label, linewidth=width, drawstyle=STEPS)[0]
            for name, label, color, width in (
                ("precision", "precision", COLORS[0], 1.3),
                ("recall", "recall", COLORS[1], 1.3),
                ("f1", "F1", "black", 2),
            )
        }
        over_threshold.legend(frameon=False, fontsize=9, loc="lower center", ncols=3)
        _finish_curves(panels, "precision, recall, F1")
        self._bars = _draw_scores(self._scores, Histogram(true=np.zeros(BINS, int), false=np.zeros(BINS, int)))
        self._thresholds = [axes.axvline(0, color="black", linestyle=":") for axes in (over_threshold, self._scores)]

    def write(self, path: Path, curve: Curve, histogram: Histogram, point: OperatingPoint) -> None:
        """Write a PNG: precision over recall, all three over the threshold, and scores; the working point is marked."""
        chosen = thinned_points(curve) if curve.positives else np.zeros(0, np.int64)
        self._precision_recall.set_data(curve.recall[chosen], curve.precision[chosen])
        self._point.set_data([point.recall], [point.precision])
        for name, line in self._lines.items():
            line.set_data(curve.thresholds[chosen], getattr(curve, name)[chosen])
        for name, bars in self._bars.items():
            for each in bars:
                each.set_data(getattr(histogram, name))
        self._scores.set_ylim(0, _top(histogram))
        for line in self._thresholds:
            line.set_xdata([point.threshold, point.threshold])
        save_figure(self._figure, path)


def write_confusion(path: Path, evaluation: Evaluation) -> None:
    """Write a PNG of the confusion matrix: rows are true classes, a cell's color is its share of the row."""
    matrix = evaluation.confusion
    names = [*(chart_label(name, LONGEST_NAME) for name in evaluation.confusion_classes), "background"]
    count = len(names)
    side = min(14.0, max(4.5, 1.6 + (0.55 if count <= MAX_COUNTED + 1 else 0.15) * count))
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    total = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = 9 if count <= MAX_COUNTED + 1 else 6
    columns, rows = [*names[:-1], "missed"], [*names[:-1], "nothing there"]
    axes.set_xticks(range(count), columns, rotation=90 if count > 4 else 0, fontsize=size)
    axes.set_yticks(range(count), rows, fontsize=size)
    axes.set_xlabel("detected as")
    axes.set_ylabel("truth")
    if count <= MAX_COUNTED + 1:
        for row, column in np.argwhere(matrix > 0).tolist():
            color = "white" if share[row, column] > 0.55 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    axes.axhline(count - 1.5, color="black", linewidth=0.8)
    axes.axvline(count - 1.5, color="black", linewidth=0.8)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.7)
    save_figure(figure, path)


def _curve_lines(panels: "NDArray[np.object_]", curve: Curve, *, label: str, **style: object) -> None:
    chosen = thinned_points(curve)
    panels[0].plot(curve.recall[chosen], curve.precision[chosen], label=label or "_unnamed", **style)
    panels[1].plot(curve.thresholds[chosen], curve.f1[chosen], drawstyle=STEPS, **style)


def _finish_curves(panels: "NDArray[np.object_]", over_threshold: str = "F1") -> None:
    for axes, x, y in ((panels[0], "recall", "precision"), (panels[1], "score threshold", over_threshold)):
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        _finish(axes, x, y, f"{y[0].upper()}{y[1:]} over {x}")


def _draw_scores(axes: "Axes", histogram: Histogram) -> "dict[str, list[StepPatch]]":
    """Draw both histograms over each other; returns what is drawn of each, by its name in `Histogram`."""
    edges = np.linspace(0, 1, BINS + 1)
    drawn = {}
    for name, label, color in (("false", "wrong", WRONG), ("true", "right", RIGHT)):
        counts = getattr(histogram, name)
        drawn[name] = [
            axes.stairs(counts, edges, color=color, fill=True, alpha=0.35),
            axes.stairs(counts, edges, color=color, linewidth=1.4, label=label),
        ]
    # Low scores are so many that nothing else would show; zero has its place below one.
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, _top(histogram))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
    _finish(axes, "score", "detections, logarithmic", "Scores of right and wrong detections")
    return drawn


def _top(histogram: Histogram) -> float:
    """Return where the axis of counts ends, on whose logarithmic scale the legend needs some room."""
    return 6 * max(1, histogram.true.max(), histogram.false.max())


def _finish(axes: "Axes", x: str, y: str, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
