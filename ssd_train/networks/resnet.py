"""ResNet v1, v1b and v1s backbones (He et al., Deep Residual Learning, section 3.3 and table 1).

GluonCV's variants differ in three places: v1 puts a bottleneck's stride on its first 1x1
convolution and gives both 1x1 convolutions a bias, v1b puts the stride on the 3x3 convolution
and has no biases, v1s is v1b with three 3x3 convolutions as its stem.
"""

import dataclasses

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetVariant:
    """What tells one ResNet from another.

    Attributes:
        blocks: residual blocks of each stage.
        bottleneck: 1x1, 3x3, 1x1 blocks instead of 3x3, 3x3.
        stride_on_1x1: a bottleneck's stride sits on its first convolution (v1), not on the 3x3 (v1b).
        bias_on_1x1: a bottleneck's 1x1 convolutions have a bias (v1).
        deep_stem: three 3x3 convolutions instead of one 7x7 (v1s).
        strides: stride of each stage.
    """

    blocks: tuple[int, ...]
    bottleneck: bool
    stride_on_1x1: bool = False
    bias_on_1x1: bool = False
    deep_stem: bool = False
    strides: tuple[int, ...] = (1, 2, 2, 2)


RESNET18_V1 = ResNetVariant(blocks=(2, 2, 2, 2), bottleneck=False)
RESNET50_V1 = ResNetVariant(blocks=(3, 4, 6, 3), bottleneck=True, stride_on_1x1=True, bias_on_1x1=True)
RESNET50_V1B = ResNetVariant(blocks=(3, 4, 6, 3), bottleneck=True)
RESNET101_V1B = ResNetVariant(blocks=(3, 4, 23, 3), bottleneck=True)
RESNET50_V1S = ResNetVariant(blocks=(3, 4, 6, 3), bottleneck=True, deep_stem=True)
# In SSD-300 the third stage keeps the resolution, so the second tap has stride 16.
RESNET34_V1B_SSD = ResNetVariant(blocks=(3, 4, 6, 3), bottleneck=False, strides=(1, 2, 1, 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, variant: ResNetVariant, is_first: bool) -> None:
        super().__init__()
        middle = channels // 4
        stride1, stride2 = (stride, 1) if variant.stride_on_1x1 else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, middle, 1, stride1, bias=variant.bias_on_1x1)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=variant.bias_on_1x1)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride) if is_first else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(nn.Module):
    """Image -> the outputs of the stages named by `taps`.

    Attributes:
        channels: channels of each returned map.
    """

    def __init__(self, variant: ResNetVariant, taps: tuple[int, ...] = (2, 3)) -> None:
        super().__init__()
        if variant.deep_stem:
            convs = [(3, 64, 2), (64, 64, 1), (64, 128, 1)]
            layers: list[nn.Module] = []
            for in_channels, channels, stride in convs:
                layers += [
                    nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
            in_channels = 128
        else:
            layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
            in_channels = 64
        self.stem = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.stages = nn.ModuleList()
        widths = [64 * 2**stage * (4 if variant.bottleneck else 1) for stage in range(4)]
        for blocks, channels, stride in zip(variant.blocks, widths, variant.strides, strict=True):
            stage = nn.Sequential()
            for index in range(blocks):
                block_stride = stride if index == 0 else 1
                if variant.bottleneck:
                    stage.append(Bottleneck(in_channels, channels, block_stride, variant, is_first=index == 0))
                else:
                    stage.append(BasicBlock(in_channels, channels, block_stride))
                in_channels = channels
            self.stages.append(stage)
        self.taps = taps
        self.channels = tuple(widths[tap] for tap in taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.pool(self.stem(images))
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self.taps:
                features.append(x)
        return features


class ResNet34Features(nn.Module):
    """Image -> feature maps of SSD-300 ResNet-34 v1b: stages 2 and 4, then four levels without batch norm.

    Args:
        last_padding: of the last level's 3x3 convolution; 0 in GluonCV, which then needs a map of 3 cells or more.

    Attributes:
        channels: channels of each returned map.
    """

    # Of each extra level.
    EXTRAS = (256, 256, 128, 128)

    def __init__(self, last_padding: int = 0) -> None:
        super().__init__()
        self.backbone = ResNet(RESNET34_V1B_SSD, taps=(1, 3))
        self.extras = nn.ModuleList()
        in_channels = self.backbone.channels[-1]
        for channels, padding in zip(self.EXTRAS, (1, 1, 1, last_padding), strict=True):
            self.extras.append(
                nn.Sequential(
                    nn.Conv2d(in_channels, max(128, channels), 1),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(max(128, channels), channels, 3, 2, padding),
                    nn.ReLU(inplace=True),
                )
            )
            in_channels = channels
        self.channels = (*self.backbone.channels, *self.EXTRAS)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.backbone(images)
        for extra in self.extras:
            features.append(extra(features[-1]))
        return features
