"""The SSD network: feature maps -> class logits and box offsets (Liu et al., SSD, section 2.1).

Dimension letters here and in `postprocess`: N images, A anchors, C classes without background, H and W of the input.
"""

from typing import cast

import torch
from torch import Tensor, nn

from ssd_train.errors import NetworkError
from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.feature_expander import Backbone
from ssd_train.spec import DetectorSpec


class ConvPredictor(nn.Module):
    """A 3x3 convolution whose channels are `values` numbers for every anchor of a cell.

    A predictor of another kind is a subclass, whose last layer is `predictor`.
    """

    def __init__(self, in_channels: int, anchors_per_cell: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.predictor = nn.Conv2d(in_channels, anchors_per_cell * values, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, H * W * anchors per cell, values), row by row."""
        predictions = self.predictor(features).permute(0, 2, 3, 1)
        return predictions.flatten(1).unflatten(1, (-1, self.values))


class SSD(nn.Module):
    """Single-shot detector without its decoding and NMS (see `postprocess.Postprocess`).

    Attributes:
        config: its row of the table, or that of its size, class list included.
        spec: what it expects and where its weights came from; travels with an exported model.
        anchors: (A, 4) float32 cx, cy, w, h in input pixels.
    """

    anchors: Tensor

    def __init__(
        self, config: NetworkConfig, features: Backbone, predictor: type[ConvPredictor] = ConvPredictor
    ) -> None:
        super().__init__()
        self.config = config
        self.spec = DetectorSpec(
            network=config.name,
            class_names=config.class_names,
            input_size=config.input_size,
            mean=config.mean,
            std=config.std,
            resize=config.resize,
            postprocess=config.postprocess,
        )
        self.features = features
        levels = list(zip(features.channels, config.anchors_per_cell, strict=True))
        num_columns = len(config.class_names) + 1
        self.class_predictors = nn.ModuleList(predictor(channels, count, num_columns) for channels, count in levels)
        self.box_predictors = nn.ModuleList(predictor(channels, count, 4) for channels, count in levels)
        # GluonCV keeps anchors in its weight files, so they are part of the state and loading replaces them.
        self.register_buffer("anchors", torch.from_numpy(generate_anchors(config)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network.

        Args:
            images: (N, 3, H, W) float32, RGB, normalised as `preprocess` does.

        Returns:
            cls_logits: (N, A, C + 1), column 0 is background.
            box_offsets: (N, A, 4), order dx, dy, dw, dh.

        Raises:
            NetworkError: the images do not have this network's size.
        """
        height, width = self.config.input_size
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, height, width):
            raise NetworkError(
                f"{self.config.name} takes images of shape (N, 3, {height}, {width}), not {tuple(images.shape)}"
            )
        features = self.features(images.to(self.dtype))
        cls_logits = torch.cat([head(x) for head, x in zip(self.class_predictors, features, strict=True)], dim=1)
        box_offsets = torch.cat([head(x) for head, x in zip(self.box_predictors, features, strict=True)], dim=1)
        return cls_logits.float(), box_offsets.float()

    @property
    def backbone(self) -> nn.Module:
        """The module that holds the backbone: of VGG all features, which are one module there."""
        return cast(nn.Module, getattr(self.features, "backbone", self.features))

    @property
    def dtype(self) -> torch.dtype:
        """What the convolutions compute in; images and predictions are float32 in any case."""
        return next(self.box_predictors.parameters()).dtype
