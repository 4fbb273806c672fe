"""Networks of other input sizes than the table's, by name: `ssd_640x384_resnet50_v1_custom`. No torch needed.

Such a network has the levels of the table's row of its backbone, of the larger input where there are two. So its
weights have the shapes of that row's, and a training can start from them. What follows from the input:

- feature maps: the first has the row's stride, every further one is half of it, rounded up;
- steps: a side divided by the cells along it, so that every level covers the whole input evenly;
- anchor sizes: the row's, scaled by the root of the areas of both inputs. An anchor so covers as large a share of the
  picture as in the row, and keeps its aspect in input pixels. A rectangle is chosen for pictures of about its shape,
  which are hardly stretched to it; square pictures are, and their objects then fall to the next aspect ratio.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

from ssd_train.errors import NetworkError
from ssd_train.json_input import quoted
from ssd_train.networks.config import NetworkConfig, size_name

# Sides are multiples of the coarsest stride of a backbone. The least leaves a first map of stride 32 three cells a
# side; the most is what was tried.
SIDE_STEP = 32
LEAST_SIDE = 96
MOST_SIDE = 1280

_SIZE = re.compile(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?")


def canonical_name(name: str) -> str:
    """Return the one spelling of a name: lower case, and a square's side once, `ssd_512_...` for `ssd_512x512_...`."""
    return re.sub(r"^ssd_([0-9]+)x\1_", r"ssd_\1_", name.lower())


def network_of_any_size(name: str, table: Mapping[str, NetworkConfig]) -> NetworkConfig | None:
    """Return the network of a name whose size is not in the table.

    Args:
        name: as `canonical_name` has it.
        table: the rows.

    Returns:
        None where the name is not `ssd_<size>_<backbone>_<data set>` with a backbone and data set of the table.

    Raises:
        NetworkError: the size is none or out of range, or the data set is not `custom`.
    """
    prefix, _, rest = name.partition("_")
    size, _, rest = rest.partition("_")
    backbone, _, data_set = rest.rpartition("_")
    there = [row for row in table.values() if row.backbone == backbone and row.name.endswith(f"_{data_set}")]
    if prefix != "ssd" or not there:
        return None
    input_size = _input_size(name, size, f"_{backbone}_custom")
    if data_set != "custom":
        sizes = " and ".join(size_name(row.input_size) for row in there)
        raise NetworkError(
            f"there is no network {quoted(name)}: {backbone} for {data_set} has an input of {sizes} pixels; name "
            f"ssd_{size}_{backbone}_custom, which takes any class list",
            arguments=("network",),
        )
    return at_size(preset_row(backbone, table.values()), input_size)


def preset_row(backbone: str, rows: Iterable[NetworkConfig]) -> NetworkConfig:
    """Return the row that a backbone's other sizes are made of: for any class list, of the largest input."""
    return max(
        (row for row in rows if row.backbone == backbone and row.name.endswith("_custom")),
        key=lambda row: row.input_size,
    )


def at_size(row: NetworkConfig, input_size: tuple[int, int]) -> NetworkConfig:
    """Return the network that a row becomes at another input size, (height, width) in pixels; see the module."""
    # Of the first map; not the row's step, since GluonCV's steps need not be strides.
    stride = 2 ** round(math.log2(row.input_size[0] / row.feature_sizes[0][0]))
    rows, columns = (cells_of_levels(side, stride, len(row.feature_sizes)) for side in input_size)
    scale = math.sqrt(math.prod(input_size) / math.prod(row.input_size))
    height, width = input_size
    return dataclasses.replace(
        row,
        name=f"ssd_{size_name(input_size)}_{row.backbone}_custom",
        input_size=input_size,
        feature_sizes=tuple(zip(rows, columns, strict=True)),
        sizes=tuple(size * scale for size in row.sizes),
        steps=tuple((height / down, width / across) for down, across in zip(rows, columns, strict=True)),
    )


def has_same_levels(one: NetworkConfig, other: NetworkConfig) -> bool:
    """Whether weights of one network have the shapes of another's, class predictors and anchors apart."""
    return one.backbone == other.backbone and one.ratios == other.ratios


def cells_of_levels(side: int, stride: int, levels: int) -> list[int]:
    """Return the cells of each level along one side: a convolution of stride 2 with a border halves and rounds up."""
    cells = [math.ceil(side / stride)]
    while len(cells) < levels:
        cells.append(math.ceil(cells[-1] / 2))
    return cells


def _input_size(name: str, size: str, suffix: str) -> tuple[int, int]:
    """Return (height, width) of the size in a name; `suffix` is the rest of the name that an error proposes."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise NetworkError(
            f"there is no network {quoted(name)}; its size {quoted(size, 40)} is neither a side nor width x height in "
            f"pixels; name for example ssd_640x384{suffix}",
            arguments=("network",),
        )
    width, height = int(match[1]), int(match[2] or match[1])
    near = (_nearest_side(height), _nearest_side(width))
    if near != (height, width):
        raise NetworkError(
            f"there is no network {quoted(name)}; sides that are not in the table are multiples of {SIDE_STEP} from "
            f"{LEAST_SIDE} to {MOST_SIDE}; name for example ssd_{size_name(near)}{suffix}",
            arguments=("network",),
        )
    return height, width


def _nearest_side(side: int) -> int:
    return min(max(round(side / SIDE_STEP) * SIDE_STEP, LEAST_SIDE), MOST_SIDE)
