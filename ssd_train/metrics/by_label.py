"""Rows of many classes, taken apart in one pass however many classes there are."""

import numpy as np
from numpy.typing import NDArray


def rows_by_label(labels: NDArray[np.int64], num_classes: int) -> list[NDArray[np.intp]]:
    """Return for each class the rows that have its label, in their order.

    Args:
        labels: (K,) from 0 to below `num_classes`.
    """
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, num_classes)))
