"""Extra levels on top of a backbone: GluonCV's `FeatureExpander`, the levels that SSD adds (section 2.1)."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

# MXNet's BatchNorm defaults, which the added levels are built with; the backbones use 1e-5.
EXPANDED_BN_EPS = 1e-3
MIN_TRANSITION_CHANNELS = 128


class Backbone(Protocol):
    """A module that returns its tapped feature maps and says how many channels each has."""

    channels: tuple[int, ...]

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class ExpandedLevel(nn.Module):
    """1x1 and strided 3x3 convolution, each with batch norm and ReLU: halves the map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        transition = max(MIN_TRANSITION_CHANNELS, channels)
        self.trans_conv = nn.Conv2d(in_channels, transition, 1, bias=False)
        self.trans_bn = _fixed_gamma_batch_norm(transition)
        self.conv = nn.Conv2d(transition, channels, 3, 2, 1, bias=False)
        self.bn = _fixed_gamma_batch_norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.trans_bn(self.trans_conv(x)))
        return self.relu(self.bn(self.conv(x)))


def _fixed_gamma_batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm whose gamma stays 1: MXNet's `fix_gamma`, which ignores the gamma in a file."""
    layer = nn.BatchNorm2d(channels, eps=EXPANDED_BN_EPS)
    layer.weight.requires_grad_(False)
    return layer


class LeveledFeatures(nn.Module):
    """Image -> a backbone's taps and one further map for each added level.

    Args:
        backbone: gives the taps.
        extras: each level takes the map in front of it.
        channels: that each level gives.

    Attributes:
        channels: channels of each returned map.
    """

    def __init__(self, backbone: Backbone, extras: Iterable[nn.Module], channels: Iterable[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.extras = nn.ModuleList(extras)
        self.channels = (*backbone.channels, *channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        for extra in self.extras:
            features.append(extra(features[-1]))
        return features


class ExpandedFeatures(LeveledFeatures):
    """The same with an `ExpandedLevel` for each number of channels in `filters`."""

    def __init__(self, backbone: Backbone, filters: tuple[int, ...]) -> None:
        levels = zip((backbone.channels[-1], *filters), filters, strict=False)
        super().__init__(backbone, [ExpandedLevel(before, channels) for before, channels in levels], filters)
