"""`mb1-ssd` at the other resolutions that jetson-inference trains it at, by name: `mb1-ssd-512`. No torch needed.

A checkpoint does not say its resolution: weights have the same shapes at each. What follows from the side, as its fork
of pytorch-ssd has it (`vision/ssd/config/mobilenetv1_ssd_config.py`, `set_image_size`): maps that halve, rounded up;
steps that are a side divided by the cells along it, rounded up; anchor sizes that are shares of the side.
"""

import dataclasses
import math
import re

from ssd_train.networks.any_size import LEAST_SIDE, MOST_SIDE, cells_of_levels
from ssd_train.networks.config import NetworkConfig

# Of the side; 300 pixels has sizes of its own.
_SIZES = (0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05)
_FIRST_STRIDE = 16


def at_resolution(name: str, row: NetworkConfig) -> NetworkConfig | None:
    """Return the network of a name such as `mb1-ssd-512`, `row` being that at 300; None for another name."""
    match = re.fullmatch(rf"{re.escape(row.name)}-([1-9][0-9]{{1,3}})", name)
    if match is None or not LEAST_SIDE <= (side := int(match[1])) <= MOST_SIDE:
        return None
    if side == row.input_size[0]:
        return row
    cells = cells_of_levels(side, _FIRST_STRIDE, len(row.feature_sizes))
    steps = [math.ceil(side / count) for count in cells]
    return dataclasses.replace(
        row,
        name=name,
        input_size=(side, side),
        feature_sizes=tuple((count, count) for count in cells),
        steps=tuple((step, step) for step in steps),
        sizes=tuple(share * side for share in _SIZES),
    )
