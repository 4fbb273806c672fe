"""What a check of a data set came to, as text for someone who sees such a report for the first time."""

from collections.abc import Iterable, Sequence

import numpy as np

from ssd_deploy.text_table import text_table, wrapped
from ssd_train.data_check.anchors import MATCH_IOU_THRESHOLD, better_input
from ssd_train.data_check.report import CheckFinding, CheckReport
from ssd_train.datasets.findings import RULES, Effect

# Findings of one kind that are named.
MAX_NAMED = 5

# Rows of a table of classes; of more classes those with the fewest objects are shown, but for those without any.
MAX_CLASSES = 40

HEADINGS = {
    Effect.STOP: "Stops the training or the evaluation:",
    Effect.LOSS: "Is lost:",
    Effect.NOTE: "Notes, nothing is lost:",
}


def check_lines(report: CheckReport, about_pictures: Sequence[str], *, width: int | None) -> list[str]:
    """Return the report: what stops, what is lost, what else there is to know, tables, and what to do next.

    Args:
        about_pictures: sentences on what was drawn.
        width: most characters a line; None for no limit.
    """
    images, objects = sum(row.images for row in report.rows), sum(row.objects for row in report.rows)
    lines = [f"{report.data}: {report.layout}, {len(report.class_names)} classes, {images} images, {objects} objects"]
    for effect, heading in HEADINGS.items():
        if found := report.of_effect(effect):
            lines += ["", heading, *wrapped(_findings(found), width)]
    if not report.findings:
        lines += ["", "No faults were found."]
    lines += ["", *_split_table(report, width)]
    if objects:
        lines += ["", *_class_table(report, width)]
    return [*lines, "", *wrapped([*about_pictures, _next_step(report)], width)]


def _findings(found: Sequence[CheckFinding]) -> Iterable[str]:
    """Yield one line for what has a sentence of its own, and one for all that a rule found."""
    by_rule: dict[str, list[CheckFinding]] = {}
    for each in found:
        by_rule.setdefault(each.finding.rule, []).append(each)
    for rule, own in by_rule.items():
        named, left = own[:MAX_NAMED], len(own) - MAX_NAMED
        if rule not in RULES:
            yield from (f"  {_in_splits(each)}{each.finding.message}" for each in named)
            if left > 0:
                yield f"  and {left} more, see --json"
            continue
        total = sum(each.finding.count for each in own)
        places = [f"{_in_splits(each)}{each.finding.place}" for each in named]
        if left > 0:
            places.append(f"and {left} more, see --json")
        yield f"  {RULES[rule].sentence.format(total)}: {', '.join(places)}"


def _in_splits(found: CheckFinding) -> str:
    return f"{', '.join(found.splits)}: " if found.splits else ""


def _split_table(report: CheckReport, width: int | None) -> list[str]:
    rows = [
        [row.role, row.name, str(row.images), str(row.images_without_objects), str(row.objects)] for row in report.rows
    ]
    table = text_table(["split", "called", "images", "without objects", "objects"], rows, left=2, width=width)
    return table.splitlines()


def _class_table(report: CheckReport, width: int | None) -> list[str]:
    """Return a row a class: objects of each split, sizes, and what anchors cover."""
    total = sum(report.counts.values(), start=np.zeros(len(report.class_names), np.int64))
    labels = list(range(len(report.class_names)))
    if len(labels) > MAX_CLASSES:
        labels = [label for label in np.argsort(total, kind="stable").tolist() if total[label]]
        labels = sorted(labels[:MAX_CLASSES])
    sizes = ("min", "10 %", "median", "90 %", "max")
    header = ["class", *report.counts, *sizes, *(f"fit {_size(each.input_size)}" for each in report.covers)]
    rows = [
        [
            report.class_names[label],
            *(str(counts[label]) for counts in report.counts.values()),
            *(_number(value) for value in report.quantiles[label]),
            *(_number(100 * each.shares[label], " %") for each in report.covers),
        ]
        for label in labels
    ]
    pixels = "the image" if report.input_size is None else f"the network's input of {_size(report.input_size)}"
    about = [f"min to max: sizes of the objects, square roots of their areas, in pixels of {pixels}"]
    if report.covers:
        about.append(
            f"fit: share of the objects that an anchor of {report.covers[0].network}, or of the same backbone at "
            f"another input size, overlaps by an IoU of {MATCH_IOU_THRESHOLD} or more. Training gives every object an "
            "anchor all the same, its best one"
        )
    if len(labels) < len(report.class_names):
        about.append(f"these are the {len(labels)} classes that have the fewest objects but some; --json has all")
    return [*text_table(header, rows, width=width).splitlines(), *wrapped(about, width)]


def _size(input_size: tuple[int, int]) -> str:
    height, width = input_size
    return f"{width}" if width == height else f"{width}x{height}"


def _number(value: float, unit: str = "") -> str:
    return "-" if np.isnan(value) else f"{value:.0f}{unit}"


def _next_step(report: CheckReport) -> str:
    if report.of_effect(Effect.STOP):
        return "next: mend what stops the training, then check again"
    if report.of_effect(Effect.LOSS):
        return "next: mend what is lost and check again, or go on without it"
    if report.network is None:
        return "next: check again with --network, which tells whether its anchors fit these objects"
    better = better_input(report.covers)
    return f"next: ssd-deploy train --network {better.network if better else report.network} --data {report.data}"
