"""The tables of an evaluation's page."""

import math

import numpy as np

from ssd_train.metrics.mistakes import KINDS
from ssd_train.report.evaluation import Evaluation
from ssd_train.report.table import Column, SortableTable

# Cells of the confusion matrix that are listed, the largest first.
MOST_CONFUSIONS = 30


def class_table(evaluation: Evaluation) -> SortableTable:
    """Return a row a class: what the metric gives it, and what its working threshold comes to."""
    per_class = evaluation.report.per_class
    # Every class has the same numbers; without a score there are none.
    metrics = [key for key in next(iter(per_class.values()), {}) if key != "objects"]
    columns = [
        Column(title="class"),
        Column(title="objects", form="count", about="objects that count: neither difficult nor crowd"),
        Column(title="detections", form="count", about="right and wrong ones at the working threshold"),
        *(Column(title=key, form="percent", about=f"by the metric {evaluation.report.metric}") for key in metrics),
        Column(title="threshold", form="number", about="the working threshold of this class"),
        Column(title="precision", form="percent", about="right detections among all that count"),
        Column(title="recall", form="percent", about="objects found"),
        Column(title="F1", form="percent", about="harmonic mean of precision and recall"),
        *(Column(title=kind, form="count", about=about) for kind, about in KINDS.items()),
    ]
    rows = []
    for label, (name, point) in enumerate(evaluation.points.items()):
        counts = evaluation.kinds_of(label)
        rows.append(
            [
                name,
                point.true + point.missed,
                point.true + point.false,
                *(per_class.get(name, {}).get(key, math.nan) for key in metrics),
                point.threshold,
                point.precision,
                point.recall,
                point.f1,
                *(counts[kind] for kind in KINDS),
            ]
        )
    return SortableTable(columns=tuple(columns), rows=rows)


def size_table(evaluation: Evaluation) -> SortableTable:
    """Return a row a size of objects."""
    columns = (
        Column(title="size"),
        Column(title="area, px²", about="of the object in the image; of its mask where the data have one"),
        Column(title="objects", form="count"),
        Column(title="found", form="count", about="at the working threshold"),
        Column(title="recall", form="percent", about="at the working threshold, IoU 0.5"),
        Column(title="AP", form="percent", about="COCO's, IoU 0.50:0.95"),
        Column(title="AR", form="percent", about="COCO's, IoU 0.50:0.95, 100 detections an image"),
    )
    rows = [
        [
            size.name,
            f"{size.least:g} and more" if math.isinf(size.below) else f"{size.least:g} to {size.below:g}",
            size.objects,
            size.found,
            size.recall,
            size.ap,
            size.ar,
        ]
        for size in evaluation.sizes
    ]
    return SortableTable(columns=columns, rows=rows)


def confusion_table(evaluation: Evaluation) -> SortableTable:
    """Return the largest cells off the diagonal of the confusion matrix."""
    matrix = evaluation.confusion
    names = evaluation.confusion_classes
    truth, detected = [*names, "(nothing there)"], [*names, "(missed)"]
    cells = [(int(matrix[row, column]), row, column) for row, column in np.argwhere(matrix).tolist() if row != column]
    cells.sort(key=lambda cell: -cell[0])
    columns = (Column(title="truth"), Column(title="detected as"), Column(title="times", form="count"))
    rows = [[truth[row], detected[column], count] for count, row, column in cells[:MOST_CONFUSIONS]]
    return SortableTable(columns=columns, rows=rows)
