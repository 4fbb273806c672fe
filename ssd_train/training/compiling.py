"""torch.compile for a training: which of its options, and one sentence where a machine cannot."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ssd_train.errors import BackendError, first_line

# A fused reduction over rows and columns at once, which only a GPU's code has. From PyTorch 2.10 on it is on, and the
# gradient of a scale such as `L2Normalize`'s comes out as [512] instead of [1, 512, 1, 1], which ends the training
# (pytorch/pytorch#178080); others of its faults give wrong gradients without a word (#190796, #193061).
MIX_ORDER_REDUCTION = "triton.mix_order_reduction"


def compile_options(*, cuda_graphs: bool = False) -> dict[str, Any]:
    """Return the options for torch.compile, of those that this PyTorch knows."""
    import torch._inductor

    options: dict[str, Any] = {}
    if MIX_ORDER_REDUCTION in torch._inductor.list_options():
        options[MIX_ORDER_REDUCTION] = False
    if cuda_graphs:
        options["triton.cudagraphs"] = True
    return options


def compiled(network: nn.Module, *, cuda_graphs: bool = False) -> nn.Module:
    """Return a network as torch.compile makes it, at its first call and with the same weights.

    Args:
        cuda_graphs: record forward and backward pass as CUDA graphs and replay them. Each step then begins with
            `torch.compiler.cudagraph_mark_step_begin()`, and what it computed before is lost.
    """
    return torch.compile(network, options=compile_options(cuda_graphs=cuda_graphs))  # type: ignore[return-value]


@contextlib.contextmanager
def compiler_errors() -> Iterator[None]:
    """Within the block, raise BackendError where torch.compile does not work on this machine."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise BackendError(
            f"torch.compile failed ({first_line(error)}); install a C++ compiler such as g++ (on a GPU Triton too), or "
            "leave compile out",
            arguments=("compile",),
        ) from error
