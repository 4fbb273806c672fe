"""Backbones that are torchvision's own modules, under torchvision's own names, so that its weights fit.

Only what leads to the taps is kept. Each is a row: torchvision's function, and which of its modules compute at the
strides 2, 4, 8, 16 and 32, in order; the last two strides are tapped.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

# PyTorch's default. torchvision gives some of its networks a lower one for trainings of a million steps; statistics of
# a training of a few hundred would still be what they started at.
BN_MOMENTUM = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TorchvisionNetwork:
    """One row.

    Attributes:
        build: makes the classifier with fresh weights.
        stages: names of the modules that compute maps of one size, for each size; one runs behind the other.
        channels: of the two tapped maps, of strides 16 and 32.
    """

    build: Callable[[], nn.Module]
    stages: tuple[tuple[str, ...], ...]
    channels: tuple[int, int]


def classifier(name: str) -> nn.Module:
    """Return torchvision's classifier of a name with fresh weights."""
    # Importing torchvision takes as long as PyTorch again, which other networks have no use for.
    from torchvision.models import get_model

    # RegNet's widths are computed with tensors, whose values are needed where nothing else has any.
    device = torch.get_default_device()
    with torch.device("cpu"):
        network = get_model(name, weights=None)
    return network.to(device)


def _features(*indices: range) -> tuple[tuple[str, ...], ...]:
    """Return the names of stages that are slices of one sequence."""
    return tuple(tuple(f"features.{index}" for index in stage) for stage in indices)


# Howard et al., Searching for MobileNetV3, table 1. Taps are outputs of blocks. Section 6.3 has the next block's
# expansion and the layer before the pooling, of six times the channels, for depthwise predictors; ours, which are not,
# would take longer than the backbone.
MOBILENET_V3_LARGE = TorchvisionNetwork(
    build=lambda: classifier("mobilenet_v3_large"),
    stages=_features(range(2), range(2, 4), range(4, 7), range(7, 13), range(13, 16)),
    channels=(112, 160),
)

# Radosavovic et al., Designing Network Design Spaces, table 2: convolutions and ReLU alone, in groups of 16 channels.
REGNET_X_400MF = TorchvisionNetwork(
    build=lambda: classifier("regnet_x_400mf"),
    stages=(("stem",), *((f"trunk_output.block{number}",) for number in (1, 2, 3, 4))),
    channels=(160, 400),
)


class TorchvisionBackbone(nn.Module):
    """Image -> maps of strides 16 and 32.

    Attributes:
        channels: channels of each returned map.
        model: torchvision's network without what no stage names.
    """

    def __init__(self, row: TorchvisionNetwork) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = row.channels
        self.model = row.build()
        self._stages = row.stages
        _keep(self.model, {name for stage in row.stages for name in stage})
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BN_MOMENTUM

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules by the stride that they compute at: 2, 4, 8, 16, 32."""
        return [[self.model.get_submodule(name) for name in stage] for stage in self._stages]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        maps = []
        for stage in self.stages():
            for layer in stage:
                x = layer(x)
            maps.append(x)
        return maps[-2:]


def _keep(module: nn.Module, names: set[str]) -> None:
    """Remove what is none of these modules, which are named from `module` on, nor on the way to one."""
    for name, child in list(module.named_children()):
        below = {each.removeprefix(f"{name}.") for each in names if each.startswith(f"{name}.")}
        if below:
            _keep(child, below)
        elif name not in names:
            delattr(module, name)
