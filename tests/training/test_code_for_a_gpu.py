"""The code that torch.compile makes for a GPU, where there is none: it is looked at and cannot be run.

The card is described by hand (`DESCRIBED`), and the backward pass of conv4_3's norm at its real size goes through
Inductor up to its source text. These are PyTorch's inner parts; a PyTorch that has moved them is a skip.
"""

import contextlib
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ssd_train.training.compiling import MIX_ORDER_REDUCTION, compile_options

pytestmark = pytest.mark.slow

# An H200, as far as Inductor asks.
DESCRIBED = types.SimpleNamespace(
    name="described",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    total_memory=140 * 2**30,
    L2_cache_size=50 * 2**20,
    shared_memory_per_block_optin=232448,
    gcnArchName="",
)
COMMENT = "# Call mix order reduction kernel"


def backward_of_norm(features: Tensor, scale: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What autograd makes of `L2Normalize`, with a stand-in for the length that the forward pass keeps."""
    length = features[:, :1].float()
    wide = features.float()
    of_scale = (gradient * (wide / length)).sum((0, 2, 3), keepdim=True)
    scaled = gradient * scale
    of_length = (-scaled * wide / (length * length)).sum(1, keepdim=True)
    return (scaled / length + of_length * wide / length).bfloat16(), of_scale


@contextlib.contextmanager
def described_gpu() -> Iterator[None]:
    from torch._inductor import scheduler
    from torch._inductor.runtime.hints import DeviceProperties
    from torch.utils import _triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    properties = DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count=DESCRIBED.multi_processor_count,
        cc=90,
        major=9,
        regs_per_multiprocessor=DESCRIBED.regs_per_multiprocessor,
        max_threads_per_multi_processor=DESCRIBED.max_threads_per_multi_processor,
        warp_size=32,
    )
    target = types.SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_properties", lambda *_: DESCRIBED)
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(scheduler, "has_triton", lambda *_: True)
        patch.setattr(DeviceProperties, "create", staticmethod(lambda device: properties))
        patch.setattr(driver, "_active", target, raising=False)
        try:
            yield
        finally:
            for name in ("triton_backend", "triton_hash_with_backend"):
                getattr(getattr(_triton, name, None), "cache_clear", lambda: None)()


def code_for_gpu(options: dict[str, object]) -> str:
    """Return the wrapper that Inductor writes for the backward pass of the norm of 32 images at 300 pixels."""
    from torch._inductor import config
    from torch._inductor.debug import DebugContext
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    mode = FakeTensorMode()
    with mode:
        features = torch.empty(32, 512, 38, 38, device="cuda", dtype=torch.bfloat16)
        features = features.to(memory_format=torch.channels_last)
        inputs = features, torch.empty(1, 512, 1, 1, device="cuda"), torch.empty_like(features, dtype=torch.float32)
        module = make_fx(backward_of_norm, decomposition_table=select_decomp_table())(*inputs)
    with described_gpu(), config.patch(options):
        graph = GraphLowering(module, shape_env=mode.shape_env)
        with (
            V.set_debug_handler(DebugContext()),
            V.set_graph_handler(graph),
            V.set_fake_mode(mode),
            V.set_extern_kernel_nodes([]),
        ):
            graph.run(*inputs)
            return str(graph.codegen()[0].value)


def test_the_norm_is_what_the_fused_reduction_takes_and_no_more() -> None:
    if MIX_ORDER_REDUCTION not in torch._inductor.list_options():
        pytest.skip("this PyTorch has no such reduction")
    try:
        fused = code_for_gpu({MIX_ORDER_REDUCTION: True})
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:
        pytest.skip(f"this PyTorch writes no code for a card that is not there: {error}")
    assert COMMENT in fused
    assert COMMENT not in code_for_gpu(compile_options())
