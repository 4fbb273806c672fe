"""Anchors, the SSD paper's default boxes (Liu et al., SSD, section 2.2), with GluonCV's sizes. NumPy only."""

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from ssd_train.networks.config import NetworkConfig

# How anchor-relative offsets were scaled for training: the variances of the authors' Caffe release.
CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2

# Columns of an anchor that `NetworkConfig.anchor_clip` cuts at the input.
_CLIPPED = {"none": slice(0, 0), "sizes": slice(2, 4), "all": slice(0, 4)}

# Below it, what lies at an image's edge could not be matched.
LEAST_COVERED_SHARE = 0.9


def generate_anchors(config: NetworkConfig) -> NDArray[np.float32]:
    """Return all anchors of a network.

    A cell of level i has, in this order, a square of sizes[i], a square of the geometric mean of
    sizes[i] and sizes[i + 1], and one box of sizes[i] for every further aspect ratio. The steps are
    used as given, also where they do not divide the input (level 4 of the 300 networks).

    Returns:
        (A, 4) float32 cx, cy, w, h in input pixels, clipped as `config.anchor_clip` says; level by level, then row,
        column, anchor of the cell. Computed in float64 and rounded once.
    """
    levels = []
    maps = zip(config.feature_sizes, config.steps, config.ratios, strict=True)
    for level, ((rows, columns), (step_down, step_across), ratios) in enumerate(maps):
        size, next_size = config.sizes[level], config.sizes[level + 1]
        mean_size = math.sqrt(size * next_size)
        shapes = [(size, size), (mean_size, mean_size)]
        shapes += [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for ratio in ratios[1:]]
        anchors = np.empty((rows, columns, len(shapes), 4))
        anchors[..., 0] = ((np.arange(columns) + 0.5) * step_across)[None, :, None]
        anchors[..., 1] = ((np.arange(rows) + 0.5) * step_down)[:, None, None]
        anchors[..., 2:] = shapes
        levels.append(anchors.reshape(-1, 4))
    table = np.concatenate(levels)
    height, width = config.input_size
    clipped = table[:, _CLIPPED[config.anchor_clip]]
    np.minimum(clipped, np.array((width, height, width, height))[_CLIPPED[config.anchor_clip]], out=clipped)
    return table.astype(np.float32)


def covered_share(config: NetworkConfig) -> float:
    """Return how far the cells of the level that reaches least far go, as a share of the input's side."""
    return min(
        cells * step / side
        for feature_size, steps in zip(config.feature_sizes, config.steps, strict=True)
        for cells, step, side in zip(feature_size, steps, config.input_size, strict=True)
    )


def with_even_steps(config: NetworkConfig) -> NetworkConfig:
    """Return a network whose cells are spread evenly over the input, at every level."""
    height, width = config.input_size
    return dataclasses.replace(
        config, steps=tuple((height / rows, width / columns) for rows, columns in config.feature_sizes)
    )


def needs_even_steps(config: NetworkConfig, anchor_steps: str = "auto") -> bool:
    """Whether a training spreads the cells evenly, as the option `anchor_steps` says: even, gluoncv or auto."""
    return anchor_steps == "even" or (anchor_steps == "auto" and covered_share(config) < LEAST_COVERED_SHARE)
