"""How many floating-point operations a training needs: convolutions and matrix products, forward and backward."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssd_train.networks.build import build_ssd
from ssd_train.networks.config import NetworkConfig


def counted_flops(loss: Callable[[], Tensor]) -> int:
    """Return the operations of computing a scalar and its gradients; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    with counter:
        loss().backward()
    return counter.get_total_flops()


def training_gflops(config: NetworkConfig) -> float:
    """Return 1e9 operations an image, counted on the meta device, where tensors have shapes and no values."""
    with torch.device("meta"):
        network = build_ssd(config).to("meta")
        image = torch.empty(1, 3, *config.input_size)

        def loss() -> Tensor:
            cls_logits, box_offsets = network(image)
            return cls_logits.sum() + box_offsets.sum()

        return counted_flops(loss) / 1e9
