"""What is taken for what: a confusion matrix of detections, with background."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import GroundTruth
from ssd_train.detections import Detections
from ssd_train.metrics.matching import MATCH_IOU_THRESHOLD, match_image, overlaps

# Of a matrix: with 40,000 classes it would take 13 GB. LVIS, which has more than most, has 1203.
MOST_ROWS = 2000


def matrix_rows(
    ground_truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return what a matrix has rows for: every class, or of very many those that occur most, and one for the others.

    Args:
        ground_truths, detections: as of `confusion_matrix`.
        class_names: C names.

    Returns:
        K names, and for each of the C labels its row.
    """
    count = len(class_names)
    if count <= MOST_ROWS:
        return tuple(class_names), np.arange(count)
    labels = [*(each.labels for each in ground_truths), *(each.labels for each in detections)]
    occurring = np.bincount(np.concatenate(labels), minlength=count)
    shown = np.sort(np.argsort(-occurring, kind="stable")[: MOST_ROWS - 1])
    rows = np.full(count, len(shown))
    rows[shown] = np.arange(len(shown))
    return (*(class_names[label] for label in shown), f"({count - len(shown):,} other classes)"), rows


def confusion_matrix(
    ground_truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    num_classes: int,
    rows_of: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Count which class the objects of each class were detected as.

    In each image objects and detections of any class are paired at an IoU of 0.5 or more, each at most once: pairs of
    one class first, then those that overlap most; of equals the better detection, then the earlier object. Difficult
    and crowd objects are left out, and so are detections that find nothing else (`matching.match_image`).

    Args:
        ground_truths, detections: one each an image, boxes in image pixels, clipped to it; detections of the scores
            that count only.
        num_classes: C, length of the class list.
        rows_of: (C) the row and column of each class, 0 to K - 1, see `matrix_rows`; without it K is C.

    Returns:
        (K + 1, K + 1): a row a true class, a column a detected one. The last column counts objects that were missed,
        the last row detections of background. A row sums to the objects of its class, a column to its detections.

    Raises:
        ValueError: the two sequences differ in length.
    """
    rows_of = np.arange(num_classes) if rows_of is None else rows_of
    background = int(rows_of.max(initial=-1)) + 1
    matrix = np.zeros((background + 1, background + 1), np.int64)
    for truth, found in zip(ground_truths, detections, strict=True):
        objects = _paired_objects(truth, found)
        is_paired = objects >= 0
        counts = is_paired | ~match_image(truth, found).is_ignored
        rows = np.append(rows_of[truth.labels], background)[objects]
        np.add.at(matrix, (rows[counts], rows_of[found.labels[counts]]), 1)
        is_missed = ~(truth.is_difficult | truth.is_crowd)
        is_missed[objects[is_paired]] = False
        matrix[:-1, background] += np.bincount(rows_of[truth.labels[is_missed]], minlength=background)
    return matrix


def _paired_objects(truth: GroundTruth, found: Detections) -> NDArray[np.int64]:
    """Return the index of each detection's object, -1 for none."""
    values = np.where(truth.is_difficult | truth.is_crowd, -1.0, overlaps(found, truth))
    rows, columns = np.nonzero(values >= MATCH_IOU_THRESHOLD)
    is_other_class = found.labels[rows] != truth.labels[columns]
    paired = np.full(len(found), -1, np.int64)
    for index in np.lexsort((columns, -found.scores[rows], -values[rows, columns], is_other_class)):
        row, column = rows[index], columns[index]
        if paired[row] < 0 and column not in paired:
            paired[row] = column
    return paired
