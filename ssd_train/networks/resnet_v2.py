"""ResNet-101 v2 backbone (He et al., Identity Mappings in Deep Residual Networks, figure 1b).

GluonCV's SSD taps it inside two residual blocks, so the network ends in the middle of the first
block of stage 4: what follows exists neither in the graph nor in the weight files.
"""

import torch
from torch import Tensor, nn

BLOCKS = (3, 4, 23)
CHANNELS = (256, 512, 1024)
# Stage 3's tap sits in this block, between its second batch norm and the 3x3 convolution.
TAP_BLOCK = 7


class PreActivationBottleneck(nn.Module):
    """Batch norm and ReLU before each of the 1x1, 3x3, 1x1 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int, is_first: bool) -> None:
        super().__init__()
        middle = channels // 4
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, middle, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, channels, 1, bias=False)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if is_first else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output and the activation in front of its 3x3 convolution."""
        activated = torch.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        middle = torch.relu(self.bn2(self.conv1(activated)))
        out = torch.relu(self.bn3(self.conv2(middle)))
        return self.conv3(out) + shortcut, middle


class Stage4Head(nn.Module):
    """The part of stage 4's first block that leads to the second tap."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(1024)
        self.conv1 = nn.Conv2d(1024, 512, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(512)
        self.conv2 = nn.Conv2d(512, 512, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn2(self.conv1(torch.relu(self.bn1(x)))))
        return torch.relu(self.bn3(self.conv2(x)))


class ResNet101V2(nn.Module):
    """Image -> the two tapped activations: 256 channels at stride 16, 512 at stride 32."""

    channels: tuple[int, ...] = (256, 512)

    def __init__(self) -> None:
        super().__init__()
        # MXNet fixes this batch norm's gamma to 1, which the converter writes here, and trains no beta.
        self.input_bn = nn.BatchNorm2d(3)
        self.input_bn.requires_grad_(False)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.stages = nn.ModuleList()
        in_channels = 64
        for index, (blocks, channels) in enumerate(zip(BLOCKS, CHANNELS, strict=True)):
            stage = nn.ModuleList()
            for block in range(blocks):
                stride = 2 if block == 0 and index > 0 else 1
                stage.append(PreActivationBottleneck(in_channels, channels, stride, is_first=block == 0))
                in_channels = channels
            self.stages.append(stage)
        self.stage4 = Stage4Head()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(self.input_bn(images))
        taps = []
        for index, stage in enumerate(self.stages):
            for number, block in enumerate(stage.children()):
                x, middle = block(x)
                if index == 2 and number == TAP_BLOCK:
                    taps.append(middle)
        return [*taps, self.stage4(x)]
