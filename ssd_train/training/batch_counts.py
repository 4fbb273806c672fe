"""The counters of batch norms, all of which a training counts up in one operation."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

COUNTER = "num_batches_tracked"


def counting_norms(network: nn.Module) -> list[nn.Module]:
    """Return the batch norms that have a counter and go without it; those of several GPUs insist on theirs."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not isinstance(module, nn.SyncBatchNorm)
        and module._buffers.get(COUNTER) is not None
    ]


@contextlib.contextmanager
def counted_at_once(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Within the block, let no batch norm count the batch by itself; at its end count it for all that train.

    The counters decide nothing, but PyTorch's weights have them. Each is an operation on a single number, and a network
    has dozens: on a GPU each takes as long to start as a convolution does.

    Args:
        norms: as `counting_norms` gives them.
    """
    training = [norm for norm in norms if norm.training]
    counters = [norm.get_buffer(COUNTER) for norm in training]
    for norm in training:
        norm._buffers[COUNTER] = None
    try:
        yield
    finally:
        for norm, counter in zip(training, counters, strict=True):
            norm._buffers[COUNTER] = counter
    if counters:
        torch._foreach_add_(counters, 1)
