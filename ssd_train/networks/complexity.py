"""How large a network is and how much it computes, without running it."""

import dataclasses
import functools

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssd_train.networks.build import build_ssd
from ssd_train.networks.config import NetworkConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complexity:
    """Size and work of one network, decode and NMS apart.

    Attributes:
        parameters: values of all parameters, fixed gammas included; anchors and running
            statistics do not count.
        gflops: 1e9 floating-point operations an image, a multiply-add being two; convolutions only.
    """

    parameters: int
    gflops: float


@functools.cache  # takes a fifth of a second, mostly in the counter
def measure(config: NetworkConfig) -> Complexity:
    """Count a network on PyTorch's meta device, where tensors have shapes and no values."""
    with torch.device("meta"):
        network = build_ssd(config).to("meta")
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, 3, *config.input_size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Complexity(parameters=parameters, gflops=counter.get_total_flops() / 1e9)
