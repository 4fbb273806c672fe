"""PyTorch: the reference that every other backend is compared with, and its faster variants."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_deploy.backends.base import CUDA_EVENTS, RawPredictions, check_images
from ssd_deploy.backends.row import RunOptions
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, first_line
from ssd_train.networks.detector import Detector
from ssd_train.networks.ssd import SSD
from ssd_train.spec import PostprocessSettings

# Runs before a CUDA graph is captured, as PyTorch's manual does: libraries choose their algorithms and
# allocate in the first ones, which a capture forbids.
RUNS_BEFORE_CAPTURE = 3

# Versions of one function that torch.compile keeps. Its own limit of 8 counts all networks of a process
# together, and past it everything runs uncompiled with no more than a log line.
COMPILED_VERSIONS = 64


class CapturedGraph(NamedTuple):
    """A CUDA graph, the memory that it reads its images from, and that which it leaves its detections in."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    outputs: tuple[Tensor, Tensor, Tensor]


class TorchRunner:
    """Runs the very module that is exported.

    Args:
        network: in evaluation mode; moved to `device`. It computes in the precision that its `spec` says.
        settings: thresholds and counts.
        device: `cpu`, `cuda` or `cuda:N`.
        allow_tf32: let the GPU round float32 products to 10 bits of mantissa. Off by default; see `prepare_gpu`.
        compiled: run the network through torch.compile; the first call of every batch size takes up to a
            minute. Needs a C++ compiler on the CPU, Triton on a GPU.
        channels_last: keep the network's tensors in N, H, W, C order.
        cuda_graph: record network and post-processing once for every batch size, and replay them. GPU only.

    Attributes:
        detector: the module that runs.
        cpu_threads: that PyTorch uses for an operator.

    Raises:
        BackendError: there is no such device, or a variant does not work on it.
    """

    max_batch_size: int | None = None
    device_clock: str | None

    def __init__(
        self,
        network: SSD,
        settings: PostprocessSettings = PostprocessSettings(),
        *,
        device: str = "cpu",
        allow_tf32: bool = False,
        compiled: bool = False,
        channels_last: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendError(f"torch {torch.__version__} finds no CUDA device; use --cpu, or see `ssd-deploy doctor`")
        if cuda_graph and not device.startswith("cuda"):
            raise BackendError(f"a CUDA graph runs on a GPU, not on device {device!r}; add --cuda, or leave it out")
        prepare_gpu(allow_tf32)
        try:
            self.device = torch.device(device)
            network.eval().to(self.device)
        except RuntimeError as error:
            raise BackendError(
                f"torch {torch.__version__} cannot use device {device!r} ({str(error).splitlines()[0]}); "
                "use cpu or cuda, or see `ssd-deploy doctor`"
            ) from error
        # The order of the images decides that of the feature maps, see `_on_device`; weights in it spare a copy.
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        network.to(memory_format=self.memory_format)
        self._is_compiled = compiled
        self.detector = Detector(compile_network(network) if compiled else network, settings)
        self._graphs: dict[int, CapturedGraph] | None = {} if cuda_graph else None
        on_gpu = self.device.type == "cuda"
        precision = "tf32" if on_gpu and allow_tf32 and network.spec.precision == "fp32" else network.spec.precision
        self.spec = dataclasses.replace(network.spec, postprocess=settings, precision=precision)
        variants = {"compile": compiled, "channels-last": channels_last, "cuda-graph": cuda_graph}
        chosen = [str(self.device), *(variant for variant, is_on in variants.items() if is_on)]
        self.name = f"torch ({', '.join(chosen)})"
        self.device_clock = CUDA_EVENTS if on_gpu else None
        self.cpu_threads = torch.get_num_threads()

    @torch.inference_mode()
    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        """See `Runner.run`."""
        check_images(images, self.spec, self.max_batch_size)
        with self._errors_of_a_call(len(images)):
            if self._graphs is None:
                outputs = self._detect(self._on_device(images))
            else:
                captured = self._captured(images.shape)
                captured.images.copy_(torch.tensor(images))
                captured.graph.replay()
                outputs = captured.outputs
            boxes, scores, labels = (output.cpu().numpy() for output in outputs)
        return PaddedDetections(boxes, scores, labels)

    @torch.inference_mode()
    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        """See `Runner.run_raw`; runs what a CUDA graph records, without the graph."""
        check_images(images, self.spec, self.max_batch_size)
        with self._errors_of_a_call(len(images)):
            cls_logits, box_offsets = self.detector.network(self._on_device(images))
            return RawPredictions(cls_logits.cpu().numpy(), box_offsets.cpu().numpy())

    @torch.inference_mode()
    def device_times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`. The GPU is idle before each run, as it is for a single caller."""
        check_images(images, self.spec, self.max_batch_size)
        if self.device_clock is None:
            raise BackendError(f"{self.name} uses no GPU, so there is no time on one; open it with --cuda")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times_ms = []
        with self._errors_of_a_call(len(images)), torch.cuda.device(self.device):
            on_device = self._on_device(images)
            captured = None if self._graphs is None else self._captured(images.shape)
            if captured is not None:
                captured.images.copy_(on_device)
            torch.cuda.synchronize()
            for _ in range(runs):
                start.record()
                if captured is None:
                    self._detect(on_device)
                else:
                    captured.graph.replay()
                end.record()
                end.synchronize()
                times_ms.append(start.elapsed_time(end))
        return times_ms

    def close(self) -> None:
        """See `Runner.close`."""
        for name in ("detector", "_graphs"):
            vars(self).pop(name, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _on_device(self, images: NDArray[np.float32]) -> Tensor:
        # A copy: arrays from other libraries may be read-only, which PyTorch does not support.
        return torch.tensor(images).to(self.device, memory_format=self.memory_format)

    def _detect(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.detector(images)
        return outputs.boxes, outputs.scores, outputs.labels

    def _captured(self, shape: tuple[int, ...]) -> CapturedGraph:
        """Return the graph of a batch size, which is captured in its first call."""
        assert self._graphs is not None
        if shape[0] not in self._graphs:
            with torch.cuda.device(self.device):
                self._graphs[shape[0]] = self._capture(shape)
        return self._graphs[shape[0]]

    def _capture(self, shape: tuple[int, ...]) -> CapturedGraph:
        images = torch.zeros(shape, device=self.device).to(memory_format=self.memory_format)
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(RUNS_BEFORE_CAPTURE):
                self._detect(images)
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = self._detect(images)
        return CapturedGraph(graph, images, outputs)

    @contextlib.contextmanager
    def _errors_of_a_call(self, count: int) -> Iterator[None]:
        """Turn what a machine can fail of into one sentence: memory, a compiler, a capture."""
        # What torch.compile raises, without importing it for those who do not compile.
        compiler_error = torch._dynamo.exc.TorchDynamoException if self._is_compiled else ()
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise BackendError(f"{self.name}: a batch of {count} does not fit into memory; use smaller ones") from error
        except compiler_error as error:
            raise BackendError(
                f"{self.name}: torch.compile failed ({first_line(error)}); install a C++ compiler such as g++ "
                "(on a GPU Triton too), or run it without compile"
            ) from error
        except RuntimeError as error:
            if self._graphs is None and self.device.type == "cpu":
                raise
            if self._graphs is None:
                raise BackendError(f"{self.name}: a batch of {count} does not run ({first_line(error)})") from error
            raise BackendError(
                f"{self.name}: a batch of {count} cannot be captured or replayed ({first_line(error)}); "
                "run it without the CUDA graph"
            ) from error


def open_runner(model: SSD | Path | bytes, options: RunOptions) -> TorchRunner:
    """Open a network; see `backends.Backend.open`. The network itself is not moved or changed."""
    if isinstance(model, Path):
        raise BackendError(f"{model}: the torch backend runs a network and its weights; name them, or use onnxruntime")
    assert not isinstance(model, bytes)  # see `Backend.opens_bytes`
    if options.threads:
        torch.set_num_threads(options.threads)
    return TorchRunner(
        copy.deepcopy(model),
        options.settings or model.spec.postprocess,
        device="cpu" if options.device is None else options.device,
        allow_tf32=options.allow_tf32,
        compiled="compile" in options.variants,
        channels_last="channels-last" in options.variants,
        cuda_graph="cuda-graph" in options.variants,
    )


def prepare_gpu(allow_tf32: bool) -> None:
    """Set how PyTorch computes on a GPU, for the whole process, since it knows no narrower switch.

    cuDNN tries its algorithms at the first call of every shape and keeps the fastest: a detector's input has one.
    """
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    torch.backends.cudnn.benchmark = True


def compile_network(network: SSD) -> Any:
    """Return a network as torch.compile makes it: for fixed shapes, in one piece, compiled at its first call.

    The post-processing is not compiled with it. Its rounds of suppression are unrolled: on a CPU that took
    as long to compile as the network and then ran 8 times slower than uncompiled (117 instead of 15 ms).
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_VERSIONS)
    return torch.compile(network, dynamic=False, fullgraph=True)
