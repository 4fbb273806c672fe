"""A TensorRT engine at work: what it holds on the GPU, and one batch after the other.

images -> page-locked memory -> GPU -> engine -> GPU -> page-locked memory -> outputs
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.engine.bindings import Messages, make_logger
from export.engine.check import check_tensors, read_tensors
from export.engine.file import AGAIN, EngineInfo
from export.engine.flavours import FLAVOURS
from ssd_deploy.backends.base import filled
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_train.errors import BackendError
from ssd_train.preprocess import Images

if TYPE_CHECKING:
    import tensorrt as trt

# How an engine's types are called -> NumPy's.
DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
}


class Buffer(NamedTuple):
    """Room for one tensor of the largest batch: page-locked memory, and the address of as many bytes on the GPU."""

    host: NDArray[Any]
    address: int


class EngineSession:
    """An engine that is ready to run: execution contexts, buffers for its largest batch, and a stream of its own.

    Not for several threads at a time. Methods make the device's context current themselves.

    Args:
        trt: the module of the engine's flavour.
        path: the plan's file, for errors.
        outputs: names of the outputs in the order in which `run` returns them.
        cuda_graph: capture the work of each batch size at its first call and replay it afterwards.

    Raises:
        BackendError: TensorRT or CUDA refuses; nothing stays behind.
        ModelError: see `check_tensors`.
    """

    logger: "trt.ILogger"
    runtime: "trt.Runtime"
    engine: "trt.ICudaEngine"

    def __init__(
        self,
        trt: Any,
        path: Path,
        plan: bytes,
        info: EngineInfo,
        device: CudaDevice,
        outputs: tuple[str, ...],
        cuda_graph: bool,
    ) -> None:
        self._path = path
        self._info = info
        self._device = device
        self._input = info.spec.input.tensor
        self._outputs = outputs
        self._cuda_graph = cuda_graph
        self._messages = Messages()
        # Batch size -> its context and its graph; without CUDA graphs one context, under 0, takes all sizes.
        self._contexts: dict[int, trt.IExecutionContext] = {}
        self._graphs: dict[int, int] = {}
        self._batches: dict[int, int] = {}
        self._buffers: dict[str, Buffer] = {}
        # Gives back in the reverse order: TensorRT's objects go after the memory and the stream that they used.
        self._held = contextlib.ExitStack()
        try:
            with device.current():
                self._load(trt, plan)
                tensors = read_tensors(trt, self.engine)
                check_tensors(path, info, tensors, outputs)
                self._stream = device.create_stream()
                self._held.callback(device.destroy_stream, self._stream)
                for name, tensor in tensors.items():
                    self._allocate(name, (info.options.max_batch, *tensor.shape[1:]), DTYPES[tensor.dtype])
                self._held.callback(device.synchronize, self._stream)
                if not cuda_graph:
                    self._ready_context(0)
        except BaseException:
            # Whatever goes wrong now is a consequence of the error that is being raised.
            with contextlib.suppress(BackendError):
                self.close()
            raise

    def check_batch(self, count: int) -> None:
        """Raise BackendError where the engine does not take a batch of `count` images."""
        if count > (high := self._info.options.max_batch):
            raise BackendError(
                f"{self._path}: a batch of {count} images, but the engine takes at most {high}; build it again with "
                f"max_batch {count}, or send smaller batches"
            )

    def run(self, images: Images) -> list[NDArray[Any]]:
        """Return the outputs for a checked batch, in new arrays."""
        wanted, images = len(images), filled(images, self._info.options.min_batch)
        buffers = [self._buffers[name] for name in self._outputs]
        with self._at_work():
            self._compute(self._prepare(images))
            for host, address in buffers:
                self._device.copy_to_host(host[: len(images)], address, self._stream)
            self._device.synchronize(self._stream)
            return [host[:wanted].copy() for host, _ in buffers]

    def times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of `runs` computations on the GPU in milliseconds, without the copies."""
        images = filled(images, self._info.options.min_batch)
        times = []
        with self._at_work(), contextlib.ExitStack() as events:
            start, end = self._device.create_event(), self._device.create_event()
            events.callback(self._device.destroy_event, start)
            events.callback(self._device.destroy_event, end)
            key = self._prepare(images)
            self._ready_graph(key)
            for _ in range(runs):
                self._device.record(start, self._stream)
                self._compute(key)
                self._device.record(end, self._stream)
                times.append(self._device.elapsed_ms(start, end))
        return times

    def close(self) -> None:
        """Give everything back; may be called twice."""
        with self._device.current():
            self._held.close()

    def _load(self, trt: Any, plan: bytes) -> None:
        """Deserialise the plan. Only attributes hold TensorRT's objects, so that an error's traceback does not."""
        self.logger = make_logger(trt, self._messages)
        self._held.callback(delattr, self, "logger")
        try:
            self.runtime = trt.Runtime(self.logger)
        except TypeError as error:  # that is how a null pointer from TensorRT arrives
            raise self._failed("TensorRT does not start") from error
        self._held.callback(delattr, self, "runtime")
        if self._info.options.version_compatible:
            # Such a plan brings code of the version that built it, which has to be allowed.
            self.runtime.engine_host_code_allowed = True
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            cure = FLAVOURS[self._info.flavour].when_not_loaded
            raise self._failed(f"TensorRT cannot load the engine; {AGAIN}, or {cure}")
        self.engine = engine
        self._held.callback(delattr, self, "engine")
        # Pushed here, so that contexts go before the engine that they belong to.
        self._held.callback(self._contexts.clear)

    def _allocate(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        address = self._device.allocate(math.prod(shape) * dtype.itemsize)
        self._held.callback(self._device.free, address)
        host = self._device.host_array(shape, dtype)
        self._held.callback(self._device.free_host_array, host)
        self._buffers[name] = Buffer(host, address)

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Make the device current; after an error, wait for what is still queued before the buffers are used again."""
        self._messages.errors.clear()
        with self._device.current():
            try:
                yield
            except BaseException:
                with contextlib.suppress(BackendError):
                    self._device.synchronize(self._stream)
                raise

    def _ready_context(self, key: int) -> None:
        """Create the execution context of a key of `_contexts`, with every tensor's address set, unless it is there."""
        if key in self._contexts:
            return
        context = self.engine.create_execution_context()
        if context is None:
            raise self._failed(
                "TensorRT cannot create an execution context; close other programs that use the GPU, or build the "
                "engine with a smaller max_batch"
            )
        self._contexts[key] = context
        # Contexts are used by key from here on: one in a local variable would outlive the engine in a traceback.
        del context
        for name, buffer in self._buffers.items():
            if not self._contexts[key].set_tensor_address(name, buffer.address):
                del self._contexts[key]
                raise self._failed(f"TensorRT refuses the address of {name}")

    def _prepare(self, images: Images) -> int:
        """Set the batch size and queue the copy of the images to the GPU; returns the key of the context."""
        count = len(images)
        # A context must not change after a graph was captured from it, so that each batch size has its own.
        key = count if self._cuda_graph else 0
        self._ready_context(key)
        if self._batches.get(key) != count:
            # Forgotten first: if it is refused, the next call must not take the shape for set.
            self._batches.pop(key, None)
            self._set_batch(key, count)
            self._batches[key] = count
        buffer = self._buffers[self._input]
        np.copyto(buffer.host[:count], images)
        self._device.copy_to_device(buffer.address, buffer.host[:count], self._stream)
        return key

    def _set_batch(self, key: int, count: int) -> None:
        if not self._contexts[key].set_input_shape(self._input, (count, *self._buffers[self._input].host.shape[1:])):
            raise self._failed(f"TensorRT refuses a batch of {count} images")
        try:
            missing = self._contexts[key].infer_shapes()
        except RuntimeError as error:
            raise self._failed(f"TensorRT cannot tell the shapes for {count} images ({error})") from error
        if missing:
            raise self._failed(f"TensorRT cannot tell the shape of {', '.join(missing)} for {count} images")
        for name in self._outputs:
            shape = tuple(self._contexts[key].get_tensor_shape(name)[:])
            # A larger output would be written beyond the end of its buffer.
            if shape != (count, *self._buffers[name].host.shape[1:]):
                raise self._failed(f"TensorRT makes {name} of shape {shape} for {count} images")

    def _compute(self, key: int) -> None:
        """Queue the computation."""
        if self._cuda_graph:
            self._ready_graph(key)
            self._device.launch(self._graphs[key], self._stream)
        else:
            self._enqueue(key)

    def _ready_graph(self, key: int) -> None:
        """Capture a context's computation, unless that is done or there is to be no graph."""
        if not self._cuda_graph or key in self._graphs:
            return
        # After a change of shape TensorRT does work at the next execution that must not be captured.
        self._enqueue(key)
        self._device.synchronize(self._stream)
        self._graphs[key] = self._device.capture(self._stream, functools.partial(self._enqueue, key))
        self._held.callback(self._device.destroy_graph, self._graphs[key])

    def _enqueue(self, key: int) -> None:
        if not self._contexts[key].execute_async_v3(self._stream):
            raise self._failed("TensorRT does not run the engine")

    def _failed(self, what: str) -> BackendError:
        """Return an error with what TensorRT said about it, the first of which is the cause of the rest."""
        said = self._messages.errors[0] if self._messages.errors else "no reason given"
        self._messages.errors.clear()
        return BackendError(f"{self._path}: {what} ({self._info.flavour}: {said})")
