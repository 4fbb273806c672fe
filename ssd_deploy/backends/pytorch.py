"""PyTorch: the reference that every other backend is compared with, and its faster variants."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_deploy.backends.base import CUDA_EVENTS, RawPredictions, check_images
from ssd_deploy.backends.recordings import Recordings, Way
from ssd_deploy.backends.row import RunOptions
from ssd_deploy.backends.torch_graphs import TorchGraph, page_locked, times_ms, to_host
from ssd_train.cpus import cpu_limit
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, first_line
from ssd_train.networks.detector import Detector
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import Images
from ssd_train.spec import PostprocessSettings

# Versions of one function that torch.compile keeps. Its own limit of 8 counts all networks of a process
# together, and past it everything runs uncompiled with no more than a log line.
COMPILED_VERSIONS = 64


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
        cuda_graph: on a GPU, replay network and post-processing as a CUDA graph. None: for batch sizes that come
            again, where that finds the same, see `Recordings`. True: each batch size is captured at its first call,
            and it is an error if that fails. False: never.

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
        settings: PostprocessSettings | None = None,
        *,
        device: str = "cpu",
        allow_tf32: bool = False,
        compiled: bool = False,
        channels_last: bool = False,
        cuda_graph: bool | None = None,
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
        settings = settings or network.spec.postprocess
        self.detector = Detector(compile_network(network) if compiled else network, settings)
        on_gpu = self.device.type == "cuda"
        precision = "tf32" if on_gpu and allow_tf32 and network.spec.precision == "fp32" else network.spec.precision
        self.spec = dataclasses.replace(network.spec, postprocess=settings, precision=precision)
        variants = {
            "compile": compiled,
            "channels-last": channels_last,
            "cuda-graph": cuda_graph is True,
            "eager": cuda_graph is False,
        }
        chosen = [str(self.device), *(variant for variant, is_on in variants.items() if is_on)]
        self.name = f"torch ({', '.join(chosen)})"
        self.device_clock = CUDA_EVENTS if on_gpu else None
        self.cpu_threads = torch.get_num_threads()
        self._captures = bool(cuda_graph)
        self._recordings = self._make_recordings() if on_gpu and cuda_graph is not False else None

    @torch.inference_mode()
    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`."""
        check_images(images, self.spec, self.max_batch_size)
        with self._errors_of_a_call(len(images)):
            return self._run(images) if self._recordings is None else self._recordings.run(images)

    @torch.inference_mode()
    def run_raw(self, images: Images) -> RawPredictions:
        """See `Runner.run_raw`; runs what a CUDA graph records, without the graph."""
        check_images(images, self.spec, self.max_batch_size)
        with self._errors_of_a_call(len(images)):
            cls_logits, box_offsets = self.detector.network(self._on_device(images))
            return RawPredictions(cls_logits.cpu().numpy(), box_offsets.cpu().numpy())

    @torch.inference_mode()
    def device_times_ms(self, images: Images, runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms` and `torch_graphs.times_ms`."""
        check_images(images, self.spec, self.max_batch_size)
        if self.device_clock is None:
            raise BackendError(f"{self.name} uses no GPU, so there is no time on one; open it with --cuda")
        with self._errors_of_a_call(len(images)):
            return (self._recordings.times_ms if self._recordings else self._times_ms)(images, runs)

    def close(self) -> None:
        """See `Runner.close`."""
        if self._recordings is not None:
            self._recordings.close()
        vars(self).pop("detector", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _run(self, images: Images) -> PaddedDetections:
        outputs = self._detect(self._on_device(images))
        on_gpu = self.device.type == "cuda"
        return PaddedDetections(*(to_host(outputs) if on_gpu else (output.numpy() for output in outputs)))

    def _times_ms(self, images: Images, runs: int) -> list[float]:
        on_device = self._on_device(images)
        return times_ms(lambda: self._detect(on_device), self.device, runs)

    def _on_device(self, images: Images) -> Tensor:
        if self.device.type == "cuda":
            return page_locked(images).to(self.device, non_blocking=True, memory_format=self.memory_format)
        # A copy: arrays from other libraries may be read-only, which PyTorch does not support.
        return torch.tensor(images).to(memory_format=self.memory_format)

    def _detect(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.detector(images)
        return outputs.boxes, outputs.scores, outputs.labels

    def _make_recordings(self) -> Recordings:
        pool = torch.cuda.graph_pool_handle()

        def capture(images: Images) -> TorchGraph:
            return TorchGraph(self._detect, images.shape, self.device, self.memory_format, pool)

        way = Way(name="a CUDA graph", record=capture)
        return Recordings(self.name, self.spec, self._run, self._times_ms, [way], is_asked_for=self._captures)

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
            if self.device.type == "cpu":
                raise
            if not self._captures:
                raise BackendError(f"{self.name}: a batch of {count} does not run ({first_line(error)})") from error
            raise BackendError(
                f"{self.name}: a batch of {count} cannot be captured or replayed ({first_line(error)}); "
                "run it without the CUDA graph"
            ) from error


def open_runner(model: SSD | Path | bytes | str, options: RunOptions) -> TorchRunner:
    """Open a network; see `backends.Backend.open`. The network itself is not moved or changed."""
    if isinstance(model, Path):
        raise BackendError(f"{model}: the torch backend runs a network and its weights; name them, or use onnxruntime")
    assert not isinstance(model, bytes | str)  # see `Backend.opens_bytes` and `Backend.schemes`
    if {"cuda-graph", "eager"} <= set(options.variants):
        raise BackendError("PyTorch's variants cuda-graph and eager contradict each other; leave one out")
    threads = options.threads or min(cpu_limit(), torch.get_num_threads())
    if threads:
        torch.set_num_threads(threads)
    return TorchRunner(
        copy.deepcopy(model),
        options.settings,
        device="cpu" if options.device is None else options.device,
        allow_tf32=options.allow_tf32,
        compiled="compile" in options.variants,
        channels_last="channels-last" in options.variants,
        cuda_graph=True if "cuda-graph" in options.variants else False if "eager" in options.variants else None,
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
