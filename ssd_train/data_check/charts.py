"""The objects of a data set as pictures: how many of each class, and how large the network sees them."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ssd_train.data_check.report import CheckReport
from ssd_train.files import written_atomically
from ssd_train.lettering import chart_label
from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.zoo import find_network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which color-blind readers tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
GREY = "#999999"

# Rows that a chart of classes has room for; of more classes those with the most and the fewest objects are shown.
MAX_CLASSES = 80

# Letters of a class, beside which there is room for its bar.
MOST_NAME = 60

# Points beyond this are a blot, and take long.
MAX_POINTS = 4000


def write_class_chart(path: Path, report: CheckReport) -> None:
    """Write a PNG: objects of each class, a bar a split; needs matplotlib."""
    total = sum(report.counts.values(), start=np.zeros(len(report.class_names), np.int64))
    order = np.argsort(-total, kind="stable")
    if len(order) > MAX_CLASSES:
        order = np.concatenate([order[: MAX_CLASSES // 2], order[-MAX_CLASSES // 2 :]])
    figure = _figure(height=1.6 + 0.24 * len(order))
    axes = figure.subplots()
    places, left = np.arange(len(order)), np.zeros(len(order))
    for (role, counts), color in zip(report.counts.items(), COLORS, strict=False):
        axes.barh(places, counts[order], left=left, color=color, label=role)
        left += counts[order]
    for place, count in zip(places, total[order], strict=True):
        axes.annotate(f"{count}", (count, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [chart_label(report.class_names[label], MOST_NAME) for label in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel("objects")
    title = f"Objects of {len(report.class_names)} classes"
    if len(order) < len(total):
        title += f", the {MAX_CLASSES // 2} largest and smallest"
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def write_box_chart(path: Path, report: CheckReport) -> None:
    """Write a PNG: width and height of the objects, in pixels of the network's input where one is named, with the
    shapes of its anchors; needs matplotlib.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    sides, labels = report.objects.sides(report.input_size), report.objects.labels
    chosen = np.linspace(0, len(sides) - 1, min(len(sides), MAX_POINTS)).astype(int)
    sides, labels = sides[chosen], labels[chosen]
    figure = _figure(height=7.5)
    axes = figure.subplots()
    frequent = np.argsort(-np.bincount(labels, minlength=len(report.class_names)), kind="stable")[: len(COLORS)]
    others = ~np.isin(labels, frequent)
    if others.any():
        axes.scatter(
            sides[others, 0], sides[others, 1], s=9, alpha=0.4, linewidths=0, color=GREY, label="other classes"
        )
    for label, color in zip(frequent, COLORS, strict=False):
        own = sides[labels == label]
        name = chart_label(report.class_names[label], MOST_NAME)
        axes.scatter(own[:, 0], own[:, 1], s=9, alpha=0.5, linewidths=0, color=color, label=name)
    if report.network is not None:
        shapes = np.unique(generate_anchors(find_network(report.network))[:, 2:], axis=0)
        axes.scatter(shapes[:, 0], shapes[:, 1], s=30, marker="x", color="black", linewidths=1.2, label="anchors")
    axes.set_xscale("log")
    axes.set_yscale("log")
    pixels = "of the image" if report.input_size is None else f"at {report.input_size[1]}x{report.input_size[0]}"
    axes.set_xlabel(f"width, pixels {pixels}, logarithmic")
    axes.set_ylabel(f"height, pixels {pixels}, logarithmic")
    axes.set_title("Sizes of the objects", fontsize=11)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside lower center", ncols=4, frameon=False, markerscale=2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    _save(figure, path)


def _figure(height: float) -> "Figure":
    # The object interface: no windows, no state shared with a program that draws too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: Path) -> None:
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")
