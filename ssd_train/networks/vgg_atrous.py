"""VGG-16 atrous features: the network of the SSD paper (Liu et al., section 3 and figure 2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssd_train.spec import IMAGENET_STD

CONVS_OF_GROUP = (2, 2, 3, 3, 3)
CHANNELS_OF_GROUP = (64, 128, 256, 512, 512)

# An extra level is a 1x1 then a kxk convolution: (1x1 channels, channels, kernel, stride, padding).
Extra = tuple[int, int, int, int, int]
EXTRAS_300: tuple[Extra, ...] = ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0))
EXTRAS_512: tuple[Extra, ...] = (
    (256, 512, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 3, 2, 1),
    (128, 256, 4, 1, 1),
)
# The last kernel stays as large as at 512, so that its weights fit, and its map is halved like the others. On a map of
# two cells, which is what it sees at 512, it computes the same.
EXTRAS_ANY_SIZE: tuple[Extra, ...] = (*EXTRAS_512[:-1], (128, 256, 4, 2, 1))


class L2Normalize(nn.Module):
    """Scale every pixel's feature vector to a learned length per channel (Liu et al., ParseNet, section 3.3)."""

    def __init__(self, channels: int, initial_scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), initial_scale))

    def forward(self, features: Tensor) -> Tensor:
        if features.dtype != torch.float32 and torch.is_autocast_enabled(features.device.type):
            # Training in mixed precision: the squares leave half precision's range. (For inference see `precision`.)
            features = features.float()
        return self.unit_length(features) * self.scale

    def unit_length(self, features: Tensor) -> Tensor:
        """Divide by the length; the epsilon stands inside the root, as GluonCV has it: outside, small inputs differ."""
        return features / torch.sqrt(features.square().sum(dim=1, keepdim=True) + 1e-5)


class BoundedL2Normalize(L2Normalize):
    """The same with torchvision's epsilon: the least length that is divided by."""

    def unit_length(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features, dim=1, eps=1e-12)


def extra_levels(in_channels: int, extras: tuple[Extra, ...]) -> nn.ModuleList:
    """Return the added levels, each a 1x1 and a larger convolution with ReLU behind both."""
    levels = nn.ModuleList()
    for reduced, channels, kernel, stride, padding in extras:
        between: nn.Module = nn.ReLU(inplace=True)
        if kernel % 2 == 0 and stride == 2:
            # One more border below and to the right, so that an odd number of cells is halved upwards too.
            between = nn.Sequential(between, nn.ZeroPad2d((0, 1, 0, 1)))
        levels.append(
            nn.Sequential(
                nn.Conv2d(in_channels, reduced, 1),
                between,
                nn.Conv2d(reduced, channels, kernel, stride, padding),
                nn.ReLU(inplace=True),
            )
        )
        in_channels = channels
    return levels


def scale_to_pixels() -> Tensor:
    """Return what makes mean-subtracted RGB of 0..255, which GluonCV's weights expect, of normalised images."""
    return 255 * torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1)


class VGGAtrousFeatures(nn.Module):
    """Image -> feature maps: normalised conv4_3, fc7, then the extra levels.

    Args:
        extras: the added levels.
        norm: what conv4_3 is normalised by.
        scales_input: undo the division by the standard deviation; False where a network's is 1 / 255.

    Attributes:
        channels: channels of each returned map.
    """

    init_scale: Tensor | None

    def __init__(
        self,
        extras: tuple[Extra, ...],
        norm: Callable[[int], nn.Module] = L2Normalize,
        *,
        scales_input: bool = True,
    ) -> None:
        super().__init__()
        self.register_buffer("init_scale", scale_to_pixels() if scales_input else None)
        stages: list[nn.Module] = []
        in_channels = 3
        for convs, channels in zip(CONVS_OF_GROUP, CHANNELS_OF_GROUP, strict=True):
            layers: list[nn.Module] = []
            for _ in range(convs):
                layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
                in_channels = channels
            stages.append(nn.Sequential(*layers))
        stages.append(
            nn.Sequential(
                nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
                nn.ReLU(inplace=True),
                nn.Conv2d(1024, 1024, 1),
                nn.ReLU(inplace=True),
            )
        )
        self.stages = nn.ModuleList(stages)
        self.norm4 = norm(512)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.pool5 = nn.MaxPool2d(3, 1, padding=1)
        self.extras = extra_levels(1024, extras)
        self.channels: tuple[int, ...] = (512, 1024, *(extra[1] for extra in extras))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images
        if self.init_scale is not None:
            # The scale stays float32 in a half-precision network: its rounding would shift every pixel alike.
            x = (images * self.init_scale).to(images.dtype)
        for stage in self.stages[:3]:
            x = self.pool(stage(x))
        x = self.stages[3](x)
        features = [self.norm4(x)]
        x = self.pool5(self.stages[4](self.pool(x)))
        x = self.stages[5](x)
        features.append(x)
        for extra in self.extras:
            x = extra(x)
            features.append(x)
        return features
