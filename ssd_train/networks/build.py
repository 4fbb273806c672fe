"""Name -> network: the one place where a row of the table meets its backbone's module."""

from collections.abc import Callable

from torch import nn

from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.feature_expander import Backbone, ExpandedFeatures
from ssd_train.networks.mobilenet import MobileNet
from ssd_train.networks.pytorch_ssd import LiteFeatures, LitePredictor, PlainFeatures
from ssd_train.networks.resnet import (
    RESNET18_V1,
    RESNET50_V1,
    RESNET50_V1B,
    RESNET50_V1S,
    RESNET101_V1B,
    ResNet,
    ResNet34Features,
)
from ssd_train.networks.resnet_v2 import ResNet101V2
from ssd_train.networks.ssd import SSD, ConvPredictor
from ssd_train.networks.ssdlite import SSDliteFeatures, SSDlitePredictor
from ssd_train.networks.torchvision_backbones import MOBILENET_V3_LARGE, REGNET_X_400MF, TorchvisionBackbone
from ssd_train.networks.vgg_atrous import (
    EXTRAS_300,
    EXTRAS_512,
    EXTRAS_ANY_SIZE,
    BoundedL2Normalize,
    VGGAtrousFeatures,
)

FILTERS = (512, 512, 256, 256)
SMALL_FILTERS = (256, 256, 128, 128)

# GluonCV's last levels fit no other sizes than these: without borders they need maps of a certain size.
VGG_EXTRAS = {(300, 300): EXTRAS_300, (512, 512): EXTRAS_512}
RESNET34_LAST_PADDING = {(300, 300): 0}

# Input size (height, width) -> feature module.
BACKBONES: dict[str, Callable[[tuple[int, int]], Backbone]] = {
    "vgg16_atrous": lambda size: VGGAtrousFeatures(VGG_EXTRAS.get(size, EXTRAS_ANY_SIZE)),
    "resnet50_v1": lambda size: ExpandedFeatures(ResNet(RESNET50_V1), FILTERS),
    "resnet50_v1b": lambda size: ExpandedFeatures(ResNet(RESNET50_V1B), FILTERS),
    "resnet101_v1b": lambda size: ExpandedFeatures(ResNet(RESNET101_V1B), FILTERS),
    "resnet50_v1s": lambda size: ExpandedFeatures(ResNet(RESNET50_V1S), FILTERS),
    "resnet18_v1": lambda size: ExpandedFeatures(ResNet(RESNET18_V1), FILTERS),
    "resnet34_v1b": lambda size: ResNet34Features(RESNET34_LAST_PADDING.get(size, 1)),
    "resnet101_v2": lambda size: ExpandedFeatures(ResNet101V2(), FILTERS),
    "mobilenet1.0": lambda size: ExpandedFeatures(MobileNet(1.0), FILTERS),
    "mobilenet0.25": lambda size: ExpandedFeatures(MobileNet(0.25), SMALL_FILTERS),
    "mobilenet_v3_large": lambda size: ExpandedFeatures(TorchvisionBackbone(MOBILENET_V3_LARGE), SMALL_FILTERS),
    "regnet_x_400mf": lambda size: ExpandedFeatures(TorchvisionBackbone(REGNET_X_400MF), SMALL_FILTERS),
    "torchvision_vgg16": lambda size: VGGAtrousFeatures(EXTRAS_300, BoundedL2Normalize, scales_input=False),
    "ssdlite_mobilenet_v3_large": lambda size: SSDliteFeatures(reduced_tail=True),
    "ssdlite_mobilenet_v3_large_full_tail": lambda size: SSDliteFeatures(reduced_tail=False),
    "mb1-ssd": lambda size: PlainFeatures(MobileNet(1.0)),
    "mb2-ssd-lite": lambda size: LiteFeatures(),
    "vgg16-ssd": lambda size: VGGAtrousFeatures(EXTRAS_300, nn.BatchNorm2d, scales_input=False),
}

# Heads of another kind than a 3x3 convolution, by backbone.
PREDICTORS: dict[str, type[ConvPredictor]] = {
    "ssdlite_mobilenet_v3_large": SSDlitePredictor,
    "ssdlite_mobilenet_v3_large_full_tail": SSDlitePredictor,
    "mb2-ssd-lite": LitePredictor,
}


def build_ssd(config: NetworkConfig) -> SSD:
    """Build the network of a row, with freshly initialised parameters, in evaluation mode."""
    features = BACKBONES[config.backbone](config.input_size)
    return SSD(config, features, PREDICTORS.get(config.backbone, ConvPredictor)).eval()
