"""Checkpoints of the pytorch-ssd project, which jetson-inference trains: its names of our layers.

A checkpoint is a bare state dict. The backbone is a list, `base_net`, in which layers without parameters count too;
an inverted residual and a predictor of the lite networks are sequences, of which the same is true.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.mobilenet_v2 import STAGES
from ssd_train.networks.pytorch_ssd import LITE_EXTRAS, PLAIN_EXTRAS
from ssd_train.networks.ssd import SSD
from ssd_train.weights.mapping import select

# Our prefix of a layer, and theirs.
Prefixes = tuple[str, str]

# Where the convolutions of VGG's five groups, and fc6 with fc7, stand in `base_net`.
_VGG_POSITIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28), (31, 33))

_HEADS = {"class_predictors": "classification_headers", "box_predictors": "regression_headers"}


def pytorch_ssd_state(tensors: Mapping[str, Tensor], network: SSD, source: Path) -> dict[str, Tensor]:
    """Rename the content of a checkpoint of pytorch-ssd, which has no anchors; see `ForeignLayout.state`."""
    # Counters of batches, which checkpoints of old versions of PyTorch lack.
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    expected = {
        name: theirs + name.removeprefix(ours)
        for ours, theirs in layer_prefixes(network.config.backbone)
        for name in names
        if name.startswith(ours)
    }
    rest = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    state = select(rest, expected, [], network, source)
    return state | {"anchors": torch.from_numpy(generate_anchors(network.config))}


def layer_prefixes(backbone: str) -> Iterator[Prefixes]:
    """Yield our prefix and theirs of every layer of a network, by its key of `build.BACKBONES`."""
    return _LAYERS[backbone]()


def _mobilenet() -> Iterator[Prefixes]:
    for index in range(27):
        # The stem, then pairs of a depthwise and a pointwise convolution in one sequence.
        block, position = (0, 0) if index == 0 else ((index + 1) // 2, 3 * ((index + 1) % 2))
        yield from _with_batch_norm(f"features.backbone.layers.{index}", f"base_net.{block}", position)
    yield from _plain_extras()
    yield from _plain_heads()


def _mobilenet_v2() -> Iterator[Prefixes]:
    yield from _with_batch_norm("features.backbone.stem", "base_net.0", 0)
    blocks = sum(count for _, _, count, _ in STAGES)
    for block in range(blocks):
        # The first block does not expand.
        yield from _inverted_residual(f"features.backbone.blocks.{block}", f"base_net.{block + 1}", expands=block > 0)
    yield from _with_batch_norm("features.backbone.last", f"base_net.{blocks + 1}", 0)
    for level in range(len(LITE_EXTRAS)):
        yield from _inverted_residual(f"features.extras.{level}", f"extras.{level}", expands=True)
    last = 1 + len(LITE_EXTRAS)
    for ours, theirs in _HEADS.items():
        for level in range(last):
            yield from _with_batch_norm(f"{ours}.{level}.depthwise", f"{theirs}.{level}", 0)
            yield f"{ours}.{level}.predictor.", f"{theirs}.{level}.3."
        yield f"{ours}.{last}.predictor.", f"{theirs}.{last}."


def _vgg() -> Iterator[Prefixes]:
    for group, positions in enumerate(_VGG_POSITIONS):
        for index, position in enumerate(positions):
            yield f"features.stages.{group}.{2 * index}.", f"base_net.{position}."
    yield "features.norm4.", "source_layer_add_ons.0."
    yield from _plain_extras()
    yield from _plain_heads()


def _with_batch_norm(ours: str, theirs: str, position: int) -> Iterator[Prefixes]:
    """A convolution and the batch norm behind it, of which theirs stand at `position` and the next."""
    for index in (0, 1):
        yield f"{ours}.{index}.", f"{theirs}.{position + index}."


def _inverted_residual(ours: str, theirs: str, *, expands: bool) -> Iterator[Prefixes]:
    for index, part in enumerate(("expand", "depthwise", "project") if expands else ("depthwise", "project")):
        yield from _with_batch_norm(f"{ours}.{part}", f"{theirs}.conv", 3 * index)


def _plain_extras() -> Iterator[Prefixes]:
    for level in range(len(PLAIN_EXTRAS)):
        for index in (0, 2):
            yield f"features.extras.{level}.{index}.", f"extras.{level}.{index}."


def _plain_heads() -> Iterator[Prefixes]:
    for ours, theirs in _HEADS.items():
        for level in range(2 + len(PLAIN_EXTRAS)):
            yield f"{ours}.{level}.predictor.", f"{theirs}.{level}."


_LAYERS: Mapping[str, Callable[[], Iterator[Prefixes]]] = {
    "mb1-ssd": _mobilenet,
    "mb2-ssd-lite": _mobilenet_v2,
    "vgg16-ssd": _vgg,
}
