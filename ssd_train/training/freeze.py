"""Layers that a training leaves as they are: the first stages of a backbone, or all of it.

A stage is what computes maps of one size: it ends where the next layer halves them, or where the backbone ends.
"""

from collections.abc import Callable

from torch import nn

from ssd_train.errors import NetworkError
from ssd_train.networks.mobilenet import DEPTHWISE_STRIDES, MobileNet
from ssd_train.networks.resnet import ResNet
from ssd_train.networks.resnet_v2 import ResNet101V2
from ssd_train.networks.ssd import SSD
from ssd_train.networks.ssdlite import SSDliteMobileNetV3
from ssd_train.networks.vgg_atrous import VGGAtrousFeatures

Stages = list[list[nn.Module]]


def _mobilenet(backbone: MobileNet) -> Stages:
    """The stem and what follows at stride 2, then what computes at 4, 8, 16 and 32: five."""
    stages: Stages = [[backbone.layers[0]]]
    for index, stride in enumerate(DEPTHWISE_STRIDES):
        if stride == 2:
            stages.append([])
        # A depthwise and a pointwise convolution.
        stages[-1] += [backbone.layers[1 + 2 * index], backbone.layers[2 + 2 * index]]
    return stages


def _vgg(backbone: VGGAtrousFeatures) -> Stages:
    """The five groups of convolutions, the fourth with its normalisation, and fc6 with fc7: six."""
    stages: Stages = [[stage] for stage in backbone.stages]
    stages[3].append(backbone.norm4)
    return stages


def _mobilenet_v3(backbone: SSDliteMobileNetV3) -> Stages:
    """What computes at the strides 2, 4, 8, 16 and 32: five."""
    to_c4, from_c4 = (list(part.children()) for part in backbone.parts)
    return [to_c4[:2], to_c4[2:4], to_c4[4:7], to_c4[7:], from_c4]


# A backbone's module -> its stages from the input on; together they have all its parameters and batch norms.
STAGES: dict[type[nn.Module], Callable[..., Stages]] = {
    MobileNet: _mobilenet,
    # The stem, then four; of v2 the last one is what leads to its second tap.
    ResNet: lambda backbone: [[backbone.stem], *([stage] for stage in backbone.stages)],
    ResNet101V2: lambda backbone: [
        [backbone.input_bn, backbone.stem], *([stage] for stage in backbone.stages), [backbone.stage4]
    ],
    VGGAtrousFeatures: _vgg,
    SSDliteMobileNetV3: _mobilenet_v3,
}  # fmt: skip


def freeze(network: SSD, what: str) -> list[nn.Module]:
    """Take the gradients of a network's first layers.

    Args:
        network: changed in place.
        what: `none`, `backbone`, or `stages=N` for its first N.

    Returns:
        The frozen modules. Whoever puts the network into training mode puts these back into evaluation mode, or
        their batch norms would take the statistics of the batches.

    Raises:
        NetworkError: the backbone has fewer stages, or none in the table.
    """
    if what == "none":
        return []
    backbone = network.backbone
    if type(backbone) not in STAGES:
        raise NetworkError(
            f"freeze {what}: the backbone {network.config.backbone} has no stages in {__name__}.STAGES; leave it out, "
            "or add them there",
            arguments=("freeze",),
        )
    stages = STAGES[type(backbone)](backbone)
    count = len(stages) if what == "backbone" else int(what.removeprefix("stages="))
    if count > len(stages):
        raise NetworkError(
            f"freeze {what}: the backbone {network.config.backbone} has {len(stages)} stages; freeze as many at most",
            arguments=("freeze",),
        )
    frozen = [module for stage in stages[:count] for module in stage]
    for module in frozen:
        module.requires_grad_(False)
    return [module.eval() for module in frozen]
