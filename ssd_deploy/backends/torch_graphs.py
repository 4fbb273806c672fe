"""A detector of PyTorch's as a CUDA graph, and the copies to a GPU and back through page-locked memory."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_train.detections import PaddedDetections
from ssd_train.preprocess import Images

# Runs before a CUDA graph is captured, as PyTorch's manual does: libraries choose their algorithms and
# allocate in the first ones, which a capture forbids.
RUNS_BEFORE_CAPTURE = 3

T = TypeVar("T")
Detect = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


class TorchGraph:
    """A CUDA graph of one batch size, the memory that it reads images from, and that which it leaves detections in.

    Args:
        detect: images on the GPU -> boxes, scores and labels there.
        shape: (N, 3, H, W) of the batches.
        pool: memory for what lies between. Graphs may share it: none is replayed before the last one's detections
            were copied out.

    Raises:
        RuntimeError: the work cannot be captured, or there is too little memory.
    """

    def __init__(
        self,
        detect: Detect,
        shape: tuple[int, ...],
        device: torch.device,
        memory_format: torch.memory_format,
        pool: Any,
    ) -> None:
        def work() -> tuple[Tensor, Tensor, Tensor]:
            # The order changes inside, so that a batch is copied as it is.
            return detect(self._images.contiguous(memory_format=memory_format))

        self._device = device
        self._images = torch.zeros(shape, device=device)
        self._graph, self._outputs = captured(work, device, pool)

    @torch.inference_mode()
    def run(self, images: Images) -> PaddedDetections:
        """Detect in a batch of the one size."""
        self._load(images)
        self._graph.replay()
        return PaddedDetections(*to_host(self._outputs))

    @torch.inference_mode()
    def times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of `runs` replays by the GPU's clock."""
        self._load(images)
        return times_ms(self._graph.replay, self._device, runs)

    def close(self) -> None:
        """Let the graph and its memory go; may be called twice."""
        for name in ("_graph", "_images", "_outputs"):
            vars(self).pop(name, None)

    def _load(self, images: Images) -> None:
        self._images.copy_(page_locked(images), non_blocking=True)


def captured(work: Callable[[], T], device: torch.device, pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """Capture work on a GPU; returns the graph, and what the work returned, which each replay writes anew.

    Args:
        pool: memory for what lies between; None for the graph's own.

    Raises:
        RuntimeError: the work cannot be captured, or there is too little memory.
    """
    with torch.cuda.device(device):
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(RUNS_BEFORE_CAPTURE):
                work()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        # Thread-local: what another thread allocates meanwhile does not break the capture.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            outputs = work()
    return graph, outputs


def page_locked(images: Images) -> Tensor:
    """Copy an array into page-locked memory, which a GPU reads by itself. PyTorch keeps such memory for the next."""
    tensor = torch.empty(images.shape, pin_memory=True)
    np.copyto(tensor.numpy(), images)
    return tensor


def to_host(values: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Return a GPU's tensors as arrays of their own, waiting for it once."""
    copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
    for copy, value in zip(copies, values, strict=True):
        copy.copy_(value, non_blocking=True)
    torch.cuda.current_stream(values[0].device).synchronize()
    # Copied once more: page-locked memory is dear, and a caller may keep thousands of answers.
    return [copy.numpy().copy() for copy in copies]


def times_ms(work: Callable[[], object], device: torch.device, runs: int) -> list[float]:
    """Return the times of work on a GPU by its own clock; it is idle before each run, as it is for a single caller."""
    times = []
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        for _ in range(runs):
            start.record()
            work()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return times
