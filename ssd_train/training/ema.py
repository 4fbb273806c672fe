"""An exponential moving average of a network's weights (Tarvainen and Valpola, Mean teachers, section 2)."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssd_train.networks.ssd import SSD


class MovingAverage:
    """A second network that follows the first; its batch norm statistics are averaged too.

    PyTorch's `AveragedModel` around the same function copies a counter to the GPU in every step, and waits there for
    all work that was given before.

    Args:
        network: copied as it is.
        decay: share of the average that a step leaves; less in the first steps, so that it starts quickly.

    Attributes:
        network: the average, in evaluation mode.
    """

    def __init__(self, network: SSD, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: SSD, step: int) -> None:
        """Average a step's weights in; `step` counts from 0."""
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(averages, values, step)
        # Counters of batches, which are whole numbers.
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        if counters:
            torch._foreach_copy_([average for average, _ in counters], [value for _, value in counters])
