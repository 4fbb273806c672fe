"""State dicts of torchvision's SSDs: which network they are of, and their names of our tensors."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ssd_train.networks.ssd import SSD
    from ssd_train.weights.file_format import Shapes

_CLASS_HEADS = "head.classification_head.module_list"
_BOX_HEADS = "head.regression_head.module_list"
_FIRST_BOX_HEAD = re.compile(rf"{re.escape(_BOX_HEADS)}\.0(\.1)?\.bias")

# The last convolution of MobileNetV3, of which `reduced_tail` halves the channels.
_LAST_CONVOLUTION = "backbone.features.1.3.0.weight"
_REDUCED_CHANNELS = 480

# Our names -> torchvision's, tried in order.
_SSDLITE = (
    (r"features\.backbone\.parts\.", "backbone.features."),
    (r"features\.extras\.", "backbone.extra."),
    (r"class_predictors\.(\d+)\.depthwise\.", rf"{_CLASS_HEADS}.\1.0."),
    (r"class_predictors\.(\d+)\.predictor\.", rf"{_CLASS_HEADS}.\1.1."),
    (r"box_predictors\.(\d+)\.depthwise\.", rf"{_BOX_HEADS}.\1.0."),
    (r"box_predictors\.(\d+)\.predictor\.", rf"{_BOX_HEADS}.\1.1."),
)
# Where torchvision's VGG, which counts activations and poolings too, has the first convolution of a group.
_FIRST_OF_GROUP = (0, 5, 10, 17)
_VGG = (
    (r"features\.norm4\.scale", "backbone.scale_weight"),
    (r"features\.stages\.([0-3])\.(\d+)\.", lambda m: f"backbone.features.{_FIRST_OF_GROUP[int(m[1])] + int(m[2])}."),
    (r"features\.stages\.4\.(\d+)\.", lambda m: f"backbone.extra.0.{1 + int(m[1])}."),
    (r"features\.stages\.5\.(\d+)\.", lambda m: f"backbone.extra.0.7.{1 + int(m[1])}."),
    (r"features\.extras\.(\d+)\.", lambda m: f"backbone.extra.{1 + int(m[1])}."),
    (r"class_predictors\.(\d+)\.predictor\.", rf"{_CLASS_HEADS}.\1."),
    (r"box_predictors\.(\d+)\.predictor\.", rf"{_BOX_HEADS}.\1."),
)


def is_ssd(shapes: "Shapes") -> bool:
    """Whether tensors are of a torchvision `SSD`, of whatever backbone."""
    return any(_FIRST_BOX_HEAD.fullmatch(name) for name in shapes)


def is_ssd300_vgg16(shapes: "Shapes") -> bool:
    """Whether tensors are of torchvision's `ssd300_vgg16`."""
    return is_ssd(shapes) and "backbone.scale_weight" in shapes


def is_ssdlite(shapes: "Shapes") -> bool:
    """Whether tensors are of torchvision's `ssdlite320_mobilenet_v3_large`."""
    return is_ssd(shapes) and _LAST_CONVOLUTION in shapes and f"{_BOX_HEADS}.0.1.bias" in shapes


def ssdlite_network(shapes: "Shapes") -> str:
    """Return which of both networks it is: torchvision halves the tail where it starts from no ImageNet weights."""
    is_reduced = shapes[_LAST_CONVOLUTION][:1] == (_REDUCED_CHANNELS,)
    return "ssdlite320_mobilenet_v3_large" + ("" if is_reduced else "_full_tail")


def num_classes(shapes: "Shapes") -> int:
    """Return the number of classes without the background: the first heads have as many anchors a cell."""
    box_bias = next(name for name in shapes if _FIRST_BOX_HEAD.fullmatch(name))
    class_bias = box_bias.replace(_BOX_HEADS, _CLASS_HEADS)
    anchors = shapes[box_bias][0] // 4 if shapes[box_bias] else 0
    return shapes.get(class_bias, (0,))[0] // max(1, anchors) - 1


def torchvision_names(names: Iterable[str]) -> dict[str, str]:
    """Return torchvision's name for each of ours but the anchors, which it does not keep."""
    names = [name for name in names if name != "anchors"]
    rules = _VGG if any(name.startswith("features.norm4.") for name in names) else _SSDLITE
    return {name: _renamed(name, rules) for name in names}


def _renamed(name: str, rules: Iterable[tuple]) -> str:
    for pattern, theirs in rules:
        renamed, count = re.subn(f"^{pattern}", theirs, name)
        if count:
            return renamed
    raise AssertionError(f"{name} has no name in torchvision")


def torchvision_state(tensors: "Mapping[str, Tensor]", network: "SSD", source: Path) -> "dict[str, Tensor]":
    """Rename the content of a state dict of torchvision; arguments, result and errors are `mapping.mxnet_state`'s."""
    import torch

    from ssd_train.networks.anchors import generate_anchors
    from ssd_train.weights.mapping import select

    expected = torchvision_names(network.state_dict())
    scale = tensors.get("backbone.scale_weight")
    if scale is not None and scale.dim() == 1:
        tensors = {**tensors, "backbone.scale_weight": scale.reshape(1, -1, 1, 1)}
    state = select(tensors, expected, [], network, source)
    return state | {"anchors": torch.from_numpy(generate_anchors(network.config))}
