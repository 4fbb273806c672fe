"""MobileNet v1 backbone (Howard et al., MobileNets, table 1), with plain ReLU as in GluonCV."""

from torch import Tensor, nn

DEPTHWISE_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
POINTWISE_CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
# Convolutions are counted from 0: the stem, then a depthwise and a pointwise one a pair.
TAPS = (22, 26)


class MobileNet(nn.Module):
    """Image -> the activations after convolutions 22 (stride 16) and 26 (stride 32).

    Args:
        multiplier: scales every layer's channels, 1.0 or 0.25.

    Attributes:
        channels: channels of each returned map.
    """

    def __init__(self, multiplier: float = 1.0) -> None:
        super().__init__()
        in_channels = int(32 * multiplier)
        layers = [_conv(3, in_channels, kernel=3, stride=2)]
        for stride, width in zip(DEPTHWISE_STRIDES, POINTWISE_CHANNELS, strict=True):
            channels = int(width * multiplier)
            layers.append(_conv(in_channels, in_channels, kernel=3, stride=stride, groups=in_channels))
            layers.append(_conv(in_channels, channels, kernel=1))
            in_channels = channels
        self.layers = nn.ModuleList(layers)
        self.channels: tuple[int, ...] = (int(512 * multiplier), int(1024 * multiplier))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        taps = []
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in TAPS:
                taps.append(x)
        return taps


def _conv(in_channels: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
