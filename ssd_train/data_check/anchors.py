"""How well a network's anchors fit the objects of a data set, and which other input size would fit them better."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import areas
from ssd_train.data_check.objects import Objects
from ssd_train.errors import NetworkError
from ssd_train.networks.anchors import generate_anchors, needs_even_steps, with_even_steps
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.zoo import find_network

# The training's: an anchor that overlaps an object as much learns it, whichever anchor is its best.
MATCH_IOU_THRESHOLD = 0.5

# Of a class's objects; below it a report says what to do. Every object has one anchor that learns it whatever the
# overlap, but of a class that is mostly learnt by such anchors a detector finds little.
WELL_COVERED = 0.8

# Inputs that are compared with a network's own: those of them that its backbone has.
COMPARED_SIDES = (300, 512, 640, 768)

# Of a class; of fewer, one object more or less decides.
LEAST_OBJECTS = 10

# Of the covered share; for less, a larger input is not worth its time.
SMALL_GAIN = 0.05

# Classes that a sentence names.
MAX_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cover:
    """What the anchors of one network cover.

    Attributes:
        network: its name.
        input_size: (height, width).
        objects: (C) how many each class has.
        shares: (C) share of each class's objects that an anchor overlaps by `MATCH_IOU_THRESHOLD`; NaN without objects.
    """

    network: str
    input_size: tuple[int, int]
    objects: tuple[int, ...]
    shares: tuple[float, ...]


def best_anchor_iou(boxes: NDArray[np.float64], anchors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the (K,) overlap of each box with the anchor that fits it best.

    Anchors of one shape lie on a grid, and the overlap falls with the distance along either axis. So the nearest
    cell is the best of each shape, and the others need not be looked at.

    Args:
        boxes: (K, 4) xyxy in pixels of the input.
        anchors: (A, 4) cxcywh in the same pixels, as `generate_anchors` returns them.
    """
    best = np.zeros(len(boxes))
    centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, areas(boxes)
    shapes, shape_of = np.unique(anchors[:, 2:], axis=0, return_inverse=True)
    for number, shape in enumerate(shapes.astype(np.float64)):
        own = anchors[shape_of.ravel() == number, :2].astype(np.float64)
        nearest = np.stack([_nearest(np.unique(own[:, axis]), centres[:, axis]) for axis in (0, 1)], axis=1)
        low, high = nearest - shape / 2, nearest + shape / 2
        shared = (np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)).clip(min=0).prod(axis=1)
        best = np.maximum(best, shared / (sizes + shape.prod() - shared))
    return best


def cover(objects: Objects, config: NetworkConfig) -> Cover:
    """Return what the anchors of a network, placed as a training places them, cover of whole images.

    The images are as they are: augmentation moves and resizes objects beyond that.
    """
    placed = with_even_steps(config) if needs_even_steps(config) else config
    height, width = config.input_size
    overlaps = best_anchor_iou(objects.boxes * np.array([width, height] * 2), generate_anchors(placed))
    is_covered = overlaps >= MATCH_IOU_THRESHOLD
    num_classes = len(config.class_names)
    totals = np.bincount(objects.labels, minlength=num_classes)
    covered = np.bincount(objects.labels, weights=is_covered, minlength=num_classes)
    shares = np.divide(covered, totals, out=np.full(num_classes, np.nan), where=totals > 0)
    return Cover(
        network=config.name,
        input_size=(height, width),
        objects=tuple(totals.tolist()),
        shares=tuple(shares.tolist()),
    )


def covers(objects: Objects, config: NetworkConfig) -> tuple[Cover, ...]:
    """Return what a network covers, then what the same backbone does at other input sizes, the smallest first."""
    others = [dataclasses.replace(row, class_names=config.class_names) for row in _at_other_sizes(config)]
    return tuple(cover(objects, row) for row in (config, *others))


def poorly_covered(found: Cover) -> list[int]:
    """Return the labels of the classes whose objects are covered too rarely, the worst first."""
    labels = [
        label
        for label, share in enumerate(found.shares)
        if share < WELL_COVERED and found.objects[label] >= LEAST_OBJECTS
    ]
    return sorted(labels, key=lambda label: found.shares[label])


def better_input(found: Sequence[Cover]) -> Cover | None:
    """Return the smallest input size that covers what the first network covers poorly; None where none does better."""
    own, *others = found
    labels = poorly_covered(own)
    if not labels or not others:
        return None
    reached = max(_mean(other, labels) for other in others)
    if reached < _mean(own, labels) + SMALL_GAIN:
        return None
    return next(other for other in others if _mean(other, labels) > reached - SMALL_GAIN)


def advice(found: Sequence[Cover], class_names: Sequence[str]) -> str | None:
    """Return one sentence on the classes that the first network covers poorly and what mends it; None without any."""
    own, better = found[0], better_input(found)
    labels = poorly_covered(own)
    if not labels:
        return None
    sentence = (
        f"an anchor of {own.network} overlaps too few objects by an IoU of {MATCH_IOU_THRESHOLD} or more: "
        f"{_named(own, labels, class_names)}"
    )
    if better is None:
        return f"{sentence}; no other input size of this backbone does better, so show objects larger in their pictures"
    return f"{sentence}; {better.network} does better: {_named(better, labels, class_names)}"


def _named(found: Cover, labels: Sequence[int], class_names: Sequence[str]) -> str:
    named = [f"{class_names[label]} {100 * found.shares[label]:.0f} %" for label in labels[:MAX_NAMED]]
    more = [f"and {len(labels) - MAX_NAMED} classes more"] if len(labels) > MAX_NAMED else []
    return ", ".join(named + more)


def _mean(found: Cover, labels: Sequence[int]) -> float:
    return sum(found.shares[label] for label in labels) / len(labels)


def _at_other_sizes(config: NetworkConfig) -> list[NetworkConfig]:
    rows = []
    for side in COMPARED_SIDES:
        try:
            row = find_network(f"ssd_{side}_{config.backbone}_custom")
        except NetworkError:
            continue  # this backbone has no such input
        if row.input_size != config.input_size:
            rows.append(row)
    return rows


def _nearest(ticks: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each value the nearest of ascending ticks."""
    return ticks[np.searchsorted((ticks[1:] + ticks[:-1]) / 2, values)]
