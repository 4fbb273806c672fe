"""A fake GPU and a fake TensorRT: what the runner uses of them, with every call on record and able to fail.

Nothing here stands for a test on a GPU. The fake GPU does its work only when a stream is waited for, so that a
missing wait shows as a wrong answer, and it knows what was taken and not given back. The fake engine's answer
is a function of each image alone, see `answer`.
"""

import contextlib
import enum
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import BackendError

Images = NDArray[np.float32]


def answer(images: Images, kept: int) -> dict[str, NDArray[Any]]:
    """The fake engine's outputs: boxes and scores grow from an image's mean, labels are 0, 1, 2, ..."""
    means = images.mean(axis=(1, 2, 3), dtype=np.float64).astype(np.float32)
    ranks = np.arange(kept, dtype=np.float32)
    scores = means[:, None] + ranks
    boxes = scores[:, :, None] + np.arange(4, dtype=np.float32)
    labels = np.broadcast_to(np.arange(kept, dtype=np.int64), scores.shape)
    return {"boxes": boxes, "scores": scores, "labels": labels, "cls_logits": boxes[:, :, :3], "box_offsets": boxes * 2}


class FakeCudaDevice:
    """A `CudaDevice` in ordinary memory.

    Attributes:
        log: names of the methods that were called, in order, and of what the fake engine did.
        held: everything that was taken and not given back, as (kind, number).
        sizes: size in bytes of every allocation that was made.
        fails: names of methods that raise.
        depth: how often the context is current on the calling thread.
    """

    layer = "fake 1.0"
    driver_version = "CUDA 13.0"

    def __init__(self, name: str = "NVIDIA L4", compute_capability: str = "8.9") -> None:
        self.name = name
        self.compute_capability = compute_capability
        self.log: list[str] = []
        self.held: set[tuple[str, int]] = set()
        self.sizes: list[int] = []
        self.host_shapes: list[tuple[tuple[int, ...], np.dtype[Any]]] = []
        self.fails: set[str] = set()
        self.pushes = self.pops = 0
        self._memory: dict[int, NDArray[np.uint8]] = {}
        self._queues: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._host: dict[int, NDArray[Any]] = {}
        self._capturing: list[Callable[[], None]] | None = None
        self._next = 1000
        self._local = threading.local()
        self._lock = threading.Lock()

    @property
    def depth(self) -> int:
        return getattr(self._local, "depth", 0)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        with self._lock:
            self.pushes += 1
        self._local.depth = self.depth + 1
        try:
            yield
        finally:
            self._local.depth -= 1
            with self._lock:
                self.pops += 1

    def memory_info(self) -> tuple[int, int]:
        self._called("memory_info")
        return 2**30, 2**31

    def create_stream(self) -> int:
        stream = self._take("create_stream", "stream")
        self._queues[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._give("destroy_stream", "stream", stream)
        assert not self._queues.pop(stream), "the stream is destroyed with work in it"

    def synchronize(self, stream: int) -> None:
        self._called("synchronize")
        work, self._queues[stream] = self._queues[stream], []
        for step in work:
            step()

    def allocate(self, size_bytes: int) -> int:
        address = self._take("allocate", "memory")
        self.sizes.append(size_bytes)
        self._memory[address] = np.full(size_bytes, 0xCD, np.uint8)
        return address

    def free(self, address: int) -> None:
        self._give("free", "memory", address)
        del self._memory[address]

    def host_array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        number = self._take("host_array", "host")
        self.host_shapes.append((shape, np.dtype(dtype)))
        self._host[number] = np.full(shape, 77, dtype)
        return self._host[number]

    def free_host_array(self, array: NDArray[Any]) -> None:
        number = next(number for number, known in self._host.items() if known is array)
        self._give("free_host_array", "host", number)
        self._host.pop(number).fill(-99)

    def copy_to_device(self, address: int, array: NDArray[Any], stream: int) -> None:
        self._called("copy_to_device")
        assert array.flags.c_contiguous and any(np.shares_memory(array, host) for host in self._host.values())
        self.queue(stream, lambda: np.copyto(self.view(address, array.shape, array.dtype), array))

    def copy_to_host(self, array: NDArray[Any], address: int, stream: int) -> None:
        self._called("copy_to_host")
        assert array.flags.c_contiguous and any(np.shares_memory(array, host) for host in self._host.values())
        self.queue(stream, lambda: np.copyto(array, self.view(address, array.shape, array.dtype)))

    def create_event(self) -> int:
        return self._take("create_event", "event")

    def destroy_event(self, event: int) -> None:
        self._give("destroy_event", "event", event)

    def record(self, event: int, stream: int) -> None:
        self._called("record")

    def elapsed_ms(self, start: int, end: int) -> float:
        self._called("elapsed_ms")
        return 1.5

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        self._called("capture")
        assert not self._queues[stream], "a capture begins with work in the stream"
        self._capturing = steps = []
        try:
            work()
        finally:
            self._capturing = None
        graph = self._take("instantiate", "graph")
        self._graphs[graph] = steps
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._called("launch")
        for step in self._graphs[graph]:
            self.queue(stream, step)

    def destroy_graph(self, graph: int) -> None:
        self._give("destroy_graph", "graph", graph)
        del self._graphs[graph]

    def queue(self, stream: int, step: Callable[[], None]) -> None:
        """Put work into a stream, or into the graph that is being captured."""
        assert self.depth > 0, "the context is not current"
        (self._queues[stream] if self._capturing is None else self._capturing).append(step)

    def view(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The start of an allocation as an array; fails where it is too small."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._memory[address][:size].view(dtype).reshape(shape)

    def _called(self, name: str) -> None:
        assert self.depth > 0, f"{name} without a current context"
        self.log.append(name)
        if name in self.fails:
            raise BackendError(f"fake: {name} failed")

    def _take(self, name: str, kind: str) -> int:
        self._called(name)
        self._next += 1
        self.held.add((kind, self._next))
        return self._next

    def _give(self, name: str, kind: str, number: int) -> None:
        assert (kind, number) in self.held, f"{kind} {number} is given back twice"
        self.held.remove((kind, number))
        self._called(name)


class FakeTensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class FakeDataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    INT64 = 8


class FakeSeverity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class FakeLogger:
    """`ILogger`."""

    Severity = FakeSeverity

    def log(self, severity: FakeSeverity, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRT:
    """The module that the runner knows as `trt`, and the one engine that it loads.

    Attributes:
        device: where the engine runs.
        tensors: the engine's tensors: name -> (mode, type, shape).
        batches: least, best and greatest batch size of the profile.
        fails: names of calls that return what they return on failure.
        live: TensorRT objects in existence that the runner has to give up.
        made: number of execution contexts that were made.
        host_code_allowed: what the runner set.
    """

    TensorIOMode = FakeTensorIOMode
    DataType = FakeDataType
    ILogger = FakeLogger

    def __init__(
        self, device: FakeCudaDevice, input_size: tuple[int, int], kept: int, version: str = "10.16.1.11"
    ) -> None:
        self.__version__ = version
        self.device = device
        self.kept = kept
        self.input_shape = (3, *input_size)
        output, real = FakeTensorIOMode.OUTPUT, FakeDataType.FLOAT
        self.tensors: dict[str, tuple[FakeTensorIOMode, FakeDataType, tuple[int, ...]]] = {
            "images": (FakeTensorIOMode.INPUT, real, (-1, *self.input_shape)),
            "labels": (output, FakeDataType.INT64, (-1, kept)),
            "boxes": (output, real, (-1, kept, 4)),
            "scores": (output, real, (-1, kept)),
        }
        self.batches = (1, 2, 4)
        self.fails: set[str] = set()
        self.live: list[str] = []
        self.made = 0
        self.host_code_allowed = False

    def Runtime(self, logger: FakeLogger) -> "FakeRuntime":
        if self.failed("Runtime", logger):
            raise TypeError("factory function returned nullptr")
        return FakeRuntime(self, logger)

    def give_raw_outputs(self) -> None:
        """Make the engine one that gives out the raw predictions."""
        self.tensors = {name: value for name, value in self.tensors.items() if name == "images"}
        for name, last in (("cls_logits", 3), ("box_offsets", 4)):
            self.tensors[name] = (FakeTensorIOMode.OUTPUT, FakeDataType.FLOAT, (-1, self.kept, last))

    def failed(self, call: str, logger: FakeLogger | None = None) -> bool:
        """Whether a call is to fail; if so, say why as TensorRT does."""
        assert self.device.depth > 0, f"{call} without a current context"
        if call not in self.fails:
            return False
        if logger is not None:
            logger.log(FakeSeverity.WARNING, "beside the point")
            logger.log(FakeSeverity.ERROR, f"fake words on\n {call}")
            logger.log(FakeSeverity.ERROR, "a consequence")
        return True


class FakeObject:
    """Counts itself in `FakeTensorRT.live` until it is collected, and logs whether the context is current then."""

    kind = ""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        trt.live.append(self.kind)

    def __del__(self) -> None:
        self.trt.live.remove(self.kind)
        self.trt.device.log.append(f"del {self.kind}" if self.trt.device.depth else f"del {self.kind} outside")


class FakeRuntime(FakeObject):
    kind = "runtime"

    def __init__(self, trt: FakeTensorRT, logger: FakeLogger) -> None:
        super().__init__(trt)
        self.logger = logger

    @property
    def engine_host_code_allowed(self) -> bool:
        return self.trt.host_code_allowed

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        self.trt.host_code_allowed = value

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        return None if self.trt.failed("deserialize_cuda_engine", self.logger) else FakeEngine(self)


class FakeEngine(FakeObject):
    kind = "engine"

    def __init__(self, runtime: FakeRuntime) -> None:
        super().__init__(runtime.trt)
        self.logger = runtime.logger
        self.names = list(self.trt.tensors)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> FakeTensorIOMode:
        return self.trt.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> FakeDataType:
        return self.trt.tensors[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.trt.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert self.trt.tensors[name][0] == FakeTensorIOMode.INPUT and profile_index == 0
        return [(batch, *self.trt.input_shape) for batch in self.trt.batches]

    def create_execution_context(self) -> "FakeExecutionContext | None":
        return None if self.trt.failed("create_execution_context", self.logger) else FakeExecutionContext(self)


class FakeExecutionContext(FakeObject):
    kind = "context"

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__(engine.trt)
        self.logger = engine.logger
        self.addresses: dict[str, int] = {}
        self.batch = 0
        self.captured = False
        engine.trt.made += 1

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return not self.trt.failed("set_tensor_address", self.logger)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images" and shape[1:] == self.trt.input_shape
        assert not self.captured, "a context is changed after its graph was captured"
        self.trt.device.log.append("set_input_shape")
        if self.trt.failed("set_input_shape", self.logger):
            return False
        self.batch = shape[0]
        return True

    def infer_shapes(self) -> list[str]:
        self.trt.device.log.append("infer_shapes")
        if self.trt.failed("infer_shapes raises", self.logger):
            raise RuntimeError("fake inference")
        return ["scores"] if self.trt.failed("infer_shapes", self.logger) else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = (self.batch, *self.trt.tensors[name][2][1:])
        return (9, *shape[1:]) if self.trt.failed("get_tensor_shape") else shape

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, device = self.trt, self.trt.device
        self.captured = self.captured or device._capturing is not None
        if self.trt.failed("execute_async_v3", self.logger):
            return False
        if device._capturing is not None and self.trt.failed("captured execution", self.logger):
            return False
        device.log.append("execute")
        batch, addresses = self.batch, dict(self.addresses)

        def work() -> None:
            images = device.view(addresses["images"], (batch, *trt.input_shape), np.float32)
            for name, value in answer(images, trt.kept).items():
                if name in addresses:
                    np.copyto(device.view(addresses[name], value.shape, value.dtype), value)

        device.queue(stream_handle, work)
        return True
