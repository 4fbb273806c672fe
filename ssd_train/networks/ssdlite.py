"""torchvision's SSDlite on MobileNetV3-Large: features and heads of depthwise convolutions.

The backbone is Howard et al., Searching for MobileNetV3, section 6.3; the added levels and the heads are Sandler et
al., MobileNetV2, section 6.2. Its blocks are torchvision's own; what is around them has torchvision's order of layers.
"""

from functools import partial
from typing import cast

from torch import Tensor, nn

from ssd_train.networks import mobilenet_v2
from ssd_train.networks.feature_expander import LeveledFeatures
from ssd_train.networks.ssd import ConvPredictor

# torchvision gives all batch norms of this detector these.
BN_EPS, BN_MOMENTUM = 1e-3, 0.03

# Channels of the added levels; the 1x1 convolution in front has half of them.
EXTRA_CHANNELS = (512, 256, 256, 128)

# The block whose expansion (stride 16) is the first map, and its channels: the first block of stride 32.
C4_BLOCK, C4_CHANNELS = 13, 672

batch_norm = partial(nn.BatchNorm2d, eps=BN_EPS, momentum=BN_MOMENTUM)
conv_bn_relu6 = partial(mobilenet_v2.conv_bn_relu6, norm=batch_norm)


class SSDliteMobileNetV3(nn.Module):
    """Image -> the expansion of the block that goes to stride 32, then the last convolution's map.

    Args:
        reduced_tail: the blocks of stride 32 have half as many channels, as in torchvision's own COCO weights and
            wherever it trains from no ImageNet weights.

    Attributes:
        channels: channels of each returned map.
    """

    def __init__(self, *, reduced_tail: bool) -> None:
        super().__init__()
        # Importing torchvision takes as long as PyTorch again, which other networks have no use for.
        from torchvision.models import mobilenet_v3_large

        # The classifier behind the features is 4 million weights that nobody asks for.
        blocks = mobilenet_v3_large(
            weights=None, num_classes=1, norm_layer=batch_norm, reduced_tail=reduced_tail
        ).features
        c4 = cast(nn.Module, blocks[C4_BLOCK]).block
        assert isinstance(c4, nn.Sequential)
        self.parts = nn.ModuleList(
            [nn.Sequential(*blocks[:C4_BLOCK], c4[0]), nn.Sequential(c4[1:], *blocks[C4_BLOCK + 1 :])]
        )
        self.channels: tuple[int, ...] = (C4_CHANNELS, 480 if reduced_tail else 960)

    def forward(self, images: Tensor) -> list[Tensor]:
        expanded = self.parts[0](images)
        return [expanded, self.parts[1](expanded)]


class SSDliteFeatures(LeveledFeatures):
    """Image -> the backbone's two maps and four added levels."""

    def __init__(self, *, reduced_tail: bool) -> None:
        backbone = SSDliteMobileNetV3(reduced_tail=reduced_tail)
        levels, before = [], backbone.channels[-1]
        for channels in EXTRA_CHANNELS:
            between = channels // 2
            levels.append(
                nn.Sequential(
                    conv_bn_relu6(before, between, kernel=1),
                    conv_bn_relu6(between, between, kernel=3, stride=2, groups=between),
                    conv_bn_relu6(between, channels, kernel=1),
                )
            )
            before = channels
        super().__init__(backbone, levels, EXTRA_CHANNELS)


class SSDlitePredictor(ConvPredictor):
    """A depthwise 3x3 convolution with batch norm and ReLU6, then a 1x1 convolution that predicts."""

    def __init__(self, in_channels: int, anchors_per_cell: int, values: int) -> None:
        super().__init__(in_channels, anchors_per_cell, values)
        self.depthwise = conv_bn_relu6(in_channels, in_channels, kernel=3, groups=in_channels)
        self.predictor = nn.Conv2d(in_channels, anchors_per_cell * values, 1)

    def forward(self, features: Tensor) -> Tensor:
        """As `ConvPredictor.forward`."""
        return super().forward(self.depthwise(features))
