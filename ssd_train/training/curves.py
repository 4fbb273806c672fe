"""A training's losses, learning rate and scores over its epochs, as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_train.files import written_atomically
from ssd_train.lettering import chart_label

LOSS_COLORS = {"cls_loss": ("#0072B2", "classification loss"), "box_loss": ("#E69F00", "localisation loss")}
SCORE_COLORS = ("#009E73", "#CC79A7", "#56B4E9")
RATE_COLOR = "#999999"


def write_curves(
    path: Path, title: str, epochs: Sequence[dict[str, Any]], validations: Sequence[dict[str, Any]]
) -> None:
    """Write the picture; needs matplotlib.

    Args:
        epochs: lines of `metrics.jsonl` with `epoch`, and `cls_loss`, `box_loss` and `lr` where they are known.
        validations: lines with `epoch` and `scores`, a fraction by name; `cls_loss` and `box_loss`, of the validation
            images, may be missing.
    """
    # The object interface: no windows, no state shared with a program that draws too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    losses, scores = figure.subplots(1, 2)
    numbers = [line["epoch"] + 1 for line in epochs]
    for key, (color, label) in LOSS_COLORS.items():
        losses.plot(
            numbers, [_number(line.get(key)) for line in epochs], color=color, label=label, marker=_marker(epochs)
        )
        if any(key in line for line in validations):
            losses.plot(
                [line["epoch"] + 1 for line in validations],
                [_number(line.get(key)) for line in validations],
                color=color,
                label=f"{label}, validation",
                linestyle="--",
                marker=_marker(validations),
            )
    losses.set_ylim(bottom=0)
    losses.set_ylabel("loss a matched anchor")
    rates = losses.twinx()
    values = [_number(rate if (rate := line.get("lr")) and rate > 0 else None) for line in epochs]
    rates.plot(numbers, values, color=RATE_COLOR, linestyle=":", label="learning rate")
    rates.set_yscale("log")
    rates.set_ylabel("learning rate, logarithmic")
    names = list(validations[0]["scores"])[: len(SCORE_COLORS)] if validations else []
    for name, color in zip(names, SCORE_COLORS, strict=False):
        values = [100 * _number(line["scores"].get(name)) for line in validations]
        scores.plot(
            [line["epoch"] + 1 for line in validations],
            values,
            color=color,
            label=chart_label(name),
            marker=_marker(validations),
        )
    scores.set_ylim(0, 100)
    scores.set_ylabel("percent, on the validation images")
    for axes, heading in ((losses, "Training"), (scores, "Validation")):
        axes.set_title(heading, fontsize=11)
        axes.set_xlabel("epochs done")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    rates.spines[["top"]].set_visible(False)
    handles = [handle for axes in (losses, rates, scores) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(chart_label(title), fontsize=12, fontweight="bold")
    with written_atomically(path) as temporary:
        figure.savefig(temporary, format="png")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _marker(points: Sequence[object]) -> str:
    """A line through one point would not be seen."""
    return "o" if len(points) < 15 else ""
