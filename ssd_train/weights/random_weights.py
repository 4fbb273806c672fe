"""Seeded random weights whose scores look like a trained detector's, for latency work and demonstrations.

Plain initial weights score all classes alike, which is no work load that a deployed detector has:
every candidate passes the threshold, or none does.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from ssd_train.networks.build import build_ssd
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.mobilenet_v2 import InvertedResidual
from ssd_train.networks.resnet_v2 import PreActivationBottleneck
from ssd_train.networks.ssd import SSD, ConvPredictor
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.spec import IMAGENET_STD

# Spread of logits and offsets, and the background's lead, that leave a few hundred candidates an image.
LOGIT_STD = 1.6
OFFSET_STD = 0.8
BACKGROUND_LEAD = 6.0

# Pixels of an input of which several are held at a time.
LARGEST_BATCHED_INPUT = 512 * 512

# The last convolution of a pre-activation block adds to a sum that nothing normalises: unscaled, 30 blocks
# double its variance 30 times, past what half precision can hold and what a trained network has.
RESIDUAL_SCALE = 0.25
# No activation halves what a linear projection gives, as He et al. count on.
LINEAR_SCALE = math.sqrt(1 / 2)


def untrained_network(config: NetworkConfig, seed: int | None) -> SSD:
    """Build a network with PyTorch's initial weights, or with those that `randomise` draws from a seed."""
    network = build_ssd(config)
    provenance = "initial, untrained"
    if seed is not None:
        randomise(network, seed)
        provenance = f"random, seed {seed}"
    network.spec = dataclasses.replace(network.spec, weights=provenance, weights_sha256=_state_sha256(network))
    return network


@torch.no_grad()
def randomise(network: SSD, seed: int) -> None:
    """Replace a network's weights in place, the same for the same seed; anchors stay.

    Convolutions are drawn as in He et al., Delving Deep into Rectifiers, section 2.2; then each
    predictor is scaled by what it gives for random images. Pictures that look nothing like those may
    still have no candidate, or one in every place.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, L2Normalize):
            module.scale.fill_(20.0)
    for projection, is_residual in _projections(network):
        projection.weight.mul_(RESIDUAL_SCALE if is_residual else LINEAR_SCALE)
    images = _noise_images(network.config.input_size, generator) * spread_of_images(network)
    features = network.features(images)
    for heads, std in ((network.class_predictors, LOGIT_STD), (network.box_predictors, OFFSET_STD)):
        for head, feature in zip(heads, features, strict=True):
            _scale_output(cast(ConvPredictor, head), feature, std)
    for head in network.class_predictors:
        assert isinstance(head, ConvPredictor) and head.predictor.bias is not None
        head.predictor.bias.view(-1, head.values)[:, 0] = BACKGROUND_LEAD + 0.5 * math.log(head.values)


def _projections(network: SSD) -> Iterator[tuple[nn.Conv2d, bool]]:
    """Yield each convolution that no activation follows, and whether the block's input is added to what it gives."""
    for module in network.modules():
        if isinstance(module, PreActivationBottleneck):
            yield module.conv3, True
        elif isinstance(module, InvertedResidual):
            yield cast(nn.Conv2d, module.project[0]), module.is_residual
        # torchvision's, which is not imported for networks without it.
        elif isinstance(is_residual := getattr(module, "use_res_connect", None), bool):
            block = cast(nn.Sequential, module.block)
            yield cast(nn.Conv2d, cast(nn.Sequential, block[-1])[0]), is_residual


def spread_of_images(network: SSD) -> Tensor:
    """Return the (3, 1, 1) spread of a network's normalised images: 1 where it divides by ImageNet's deviation."""
    return (torch.tensor(IMAGENET_STD) / torch.tensor(network.config.std)).reshape(3, 1, 1)


def _scale_output(head: ConvPredictor, feature: Tensor, std: float) -> None:
    # The mean square and not the deviation: the last map has one cell, too few to measure a spread by.
    spread = float(head(feature).square().mean().sqrt().clamp(min=1e-6))
    # Rounded, since the last bits depend on the machine and its threads, and weights of a seed should not.
    head.predictor.weight.mul_(std / float(f"{spread:.3g}"))


def _noise_images(input_size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Noise with the same power in every octave, the constant one too, as natural images roughly have it.

    Returns (M, 3, H, W) with a variance of about 1, like normalised images; M is 4, or 1 where memory would run short
    and the last map has several cells to measure.
    """
    count = 4 if math.prod(input_size) <= LARGEST_BATCHED_INPUT else 1
    octaves = []
    for octave in range(max(input_size).bit_length()):
        noise = torch.randn(count, 3, 2**octave, 2**octave, generator=generator)
        octaves.append(nn.functional.interpolate(noise, size=input_size))
    return torch.stack(octaves).sum(dim=0) / len(octaves) ** 0.5


def _state_sha256(network: SSD) -> str:
    """Return a SHA-256 over names and values of a network's tensors, for weights that came from no file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
