"""What the networks of the pytorch-ssd project, which jetson-inference trains, have beside a backbone.

Its repository is qfgaohao/pytorch-ssd (`vision/ssd/mobilenetv1_ssd.py`, `mobilenet_v2_ssd_lite.py`, `vgg_ssd.py`).
"""

from torch import Tensor, nn

from ssd_train.networks.feature_expander import Backbone, LeveledFeatures
from ssd_train.networks.mobilenet_v2 import InvertedResidual, MobileNetV2
from ssd_train.networks.ssd import ConvPredictor
from ssd_train.networks.vgg_atrous import Extra, extra_levels

# Four halvings, as of VGG's levels at 300 the first two: on MobileNet's last map of 10 cells they end at one.
PLAIN_EXTRAS: tuple[Extra, ...] = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 2, 1))

# Of each added level of mb2-ssd-lite: hidden channels, channels.
LITE_EXTRAS = ((256, 512), (128, 256), (128, 256), (64, 64))


class PlainFeatures(LeveledFeatures):
    """Image -> a backbone's taps, then four levels of two convolutions without batch norm each."""

    def __init__(self, backbone: Backbone) -> None:
        levels = extra_levels(backbone.channels[-1], PLAIN_EXTRAS)
        super().__init__(backbone, levels, [extra[1] for extra in PLAIN_EXTRAS])


class LiteFeatures(LeveledFeatures):
    """Image -> MobileNet v2's taps, then four inverted residuals that halve the map each."""

    def __init__(self) -> None:
        backbone = MobileNetV2()
        levels, before = [], backbone.channels[-1]
        for hidden, channels in LITE_EXTRAS:
            levels.append(InvertedResidual(before, channels, hidden, stride=2))
            before = channels
        super().__init__(backbone, levels, [channels for _, channels in LITE_EXTRAS])


class LitePredictor(ConvPredictor):
    """A depthwise 3x3 convolution with batch norm and ReLU6, then a 1x1 one that predicts.

    The last level, the only one of so few channels, has one cell at 300 and the 1x1 convolution alone.
    """

    def __init__(self, in_channels: int, anchors_per_cell: int, values: int) -> None:
        super().__init__(in_channels, anchors_per_cell, values)
        is_last = in_channels == LITE_EXTRAS[-1][1]
        self.depthwise = nn.Identity() if is_last else _depthwise(in_channels)
        self.predictor = nn.Conv2d(in_channels, anchors_per_cell * values, 1)

    def forward(self, features: Tensor) -> Tensor:
        """As `ConvPredictor.forward`."""
        return super().forward(self.depthwise(features))


def _depthwise(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.BatchNorm2d(channels), nn.ReLU6(inplace=True)
    )
