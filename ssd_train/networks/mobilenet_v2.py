"""MobileNet v2 backbone (Sandler et al., MobileNetV2, table 2), tapped inside a block as SSDLite is (section 6.2)."""

from collections.abc import Callable

from torch import Tensor, nn

# Expansion, output channels, blocks, stride of the first one: the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS = 32
LAST_CHANNELS = 1280
# The block whose expanded features, of stride 16, are the first map: the first one of the stage of 160 channels.
TAPPED_BLOCK = 13


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel by 3x3, project back without an activation (section 3.3).

    The input is added where the shapes allow it.

    Args:
        hidden: channels in between; where they are as many as the input's, nothing expands.
        stride: of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, channels: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.expand = conv_bn_relu6(in_channels, hidden, kernel=1) if hidden != in_channels else nn.Identity()
        self.depthwise = conv_bn_relu6(hidden, hidden, kernel=3, stride=stride, groups=hidden)
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.is_residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.from_expanded(self.expand(x))
        return x + projected if self.is_residual else projected

    def from_expanded(self, expanded: Tensor) -> Tensor:
        """Do what follows the expansion, the addition of the input apart."""
        projected: Tensor = self.project(self.depthwise(expanded))
        return projected


class MobileNetV2(nn.Module):
    """Image -> the expanded features of block 13 (stride 16), then those behind the last convolution (stride 32).

    Attributes:
        channels: channels of each returned map.
    """

    channels: tuple[int, ...] = (576, LAST_CHANNELS)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu6(3, STEM_CHANNELS, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        in_channels = STEM_CHANNELS
        for expansion, channels, count, first_stride in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                self.blocks.append(InvertedResidual(in_channels, channels, expansion * in_channels, stride))
                in_channels = channels
        self.last = conv_bn_relu6(in_channels, LAST_CHANNELS, kernel=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        for block in self.blocks[:TAPPED_BLOCK]:
            x = block(x)
        tapped = self.blocks[TAPPED_BLOCK]
        assert isinstance(tapped, InvertedResidual)
        expanded = tapped.expand(x)
        x = tapped.from_expanded(expanded)
        for block in self.blocks[TAPPED_BLOCK + 1 :]:
            x = block(x)
        return [expanded, self.last(x)]


def conv_bn_relu6(
    in_channels: int,
    channels: int,
    *,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Return a convolution that keeps the map's size but for its stride, with batch norm and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        norm(channels),
        nn.ReLU6(inplace=True),
    )
