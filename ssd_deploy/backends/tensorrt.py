"""TensorRT and TensorRT for RTX: runs an engine that `ssd-deploy export` built. No torch, no onnx.

images -> page-locked memory -> GPU -> engine -> GPU -> page-locked memory -> detections
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.engine_file import EngineInfo, read_info
from export.tensorrt_bindings import TENSORRT, TENSORRT_RTX, Messages, load_bindings, make_logger
from ssd_deploy.backends.base import CUDA_EVENTS, RawPredictions, check_images
from ssd_deploy.backends.cuda_device import CudaDevice, open_device
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES, DetectorSpec

if TYPE_CHECKING:
    import tensorrt as trt

REBUILD = "build it again with `ssd-deploy export --format tensorrt`"

# The first compute capability of Ampere, the oldest generation of hardware-compatible and portable engines.
AMPERE = (8, 0)

# How an engine's types are called -> NumPy's.
DTYPES: dict[str, np.dtype[Any]] = {"FLOAT": np.dtype(np.float32), "INT64": np.dtype(np.int64)}


class TensorRTRunner:
    """Runs an engine; what it needs to know is in the JSON beside it.

    May be used from several threads, one call at a time. Each call makes the GPU's primary context current
    on its thread and afterwards the one that was.

    Args:
        path: a plan that `ssd-deploy export` wrote, with its JSON beside it.
        raw: an engine of the same ONNX file with the raw predictions as outputs, for `run_raw`.
        cuda_graph: capture the work of each batch size at its first call and replay it afterwards. Each
            batch size then has an execution context of its own, and so its own scratch memory.
        device: the GPU; None for the first.

    Attributes:
        device: the GPU that is used; its `layer` and `driver_version` belong into reports.
        device_clock: what measures `device_times_ms`.
        max_batch_size: images that a call takes; below the profile's least a batch is filled up.

    Raises:
        ModelError: the engine is missing, changed, or not a detector of ours.
        BackendError: TensorRT, a CUDA package or the GPU is missing, or not what the engine was built for.
    """

    def __init__(
        self, path: Path, *, raw: Path | None = None, cuda_graph: bool = False, device: CudaDevice | None = None
    ) -> None:
        self._path = path
        self._raw_path = raw
        self._lock = threading.Lock()
        info, plan = read_plan(path)
        trt = load_bindings(info.flavour)
        check_version(path, info, trt.__version__)
        self.device = device or open_device()
        check_gpu(path, info, self.device)
        self._info = info
        self.spec = info.spec
        self.max_batch_size: int | None = info.options.max_batch
        self.device_clock: str | None = CUDA_EVENTS
        short_version = ".".join(trt.__version__.split(".")[:3])
        variant = ", CUDA graph" if cuda_graph else ""
        self.name = f"{info.flavour} {short_version} ({self.device.name}, {self.device.layer}{variant})"
        self._session = EngineSession(trt, path, plan, info, self.device, OUTPUT_NAMES, cuda_graph)
        self._raw_session: EngineSession | None = None
        # Also gives back what a forgotten runner holds, so the list must not refer to the runner.
        self._sessions = [self._session]
        self._finalizer = weakref.finalize(self, _close_sessions, self._sessions)

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        """See `Runner.run`."""
        with self._lock:
            self._check(images, self._session)
            boxes, scores, labels = self._session.run(images)
        return PaddedDetections(boxes, scores, labels)

    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        """See `Runner.run_raw`. Needs the second engine."""
        with self._lock:
            session = self._open_raw()
            self._check(images, session)
            cls_logits, box_offsets = session.run(images)
        return RawPredictions(cls_logits, box_offsets)

    def device_times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`."""
        with self._lock:
            self._check(images, self._session)
            return self._session.times_ms(images, runs)

    def close(self) -> None:
        """See `Runner.close`."""
        with self._lock:
            self._finalizer()

    def _check(self, images: NDArray[np.float32], session: "EngineSession") -> None:
        if not self._finalizer.alive:
            raise BackendError(f"{self._path}: the runner was closed; open the engine again")
        check_images(images, self.spec, None)
        session.check_batch(len(images))

    def _open_raw(self) -> "EngineSession":
        if not self._finalizer.alive:
            raise BackendError(f"{self._path}: the runner was closed; open the engine again")
        if self._raw_path is None:
            raise BackendError(
                f"{self._path}: the engine has no raw outputs; `ssd-deploy parity --model FILE.onnx` builds one"
            )
        if self._raw_session is None:
            info, plan = read_plan(self._raw_path)
            if info.onnx_sha256 != self._info.onnx_sha256:
                raise ModelError(f"{self._raw_path}: was built from another ONNX file than {self._path}; {REBUILD}")
            trt = load_bindings(info.flavour)
            check_version(self._raw_path, info, trt.__version__)
            check_gpu(self._raw_path, info, self.device)
            self._raw_session = EngineSession(trt, self._raw_path, plan, info, self.device, RAW_NAMES, False)
            self._sessions.append(self._raw_session)
        return self._raw_session


def _close_sessions(sessions: list["EngineSession"]) -> None:
    with contextlib.ExitStack() as stack:
        for session in sessions:
            stack.callback(session.close)


# --- Checks before TensorRT sees the plan: its own answers to these would be hard to read, or a crash ---


def read_plan(path: Path) -> tuple[EngineInfo, bytes]:
    """Return an engine's description and its plan.

    Raises:
        ModelError: one of them is missing, or the plan is not the one that the description is about.
    """
    info = read_info(path)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if len(plan) != info.size_bytes:
        raise ModelError(
            f"{path}: has {len(plan)} bytes instead of the {info.size_bytes} in its description, so a copy was cut "
            f"short or the two files do not belong together; copy both again, or {REBUILD}"
        )
    if hashlib.sha256(plan).hexdigest() != info.plan_sha256:
        raise ModelError(
            f"{path}: was changed since it was built (its SHA-256 is not the one in its description); copy both files "
            f"again, or {REBUILD}"
        )
    return info, plan


def check_version(path: Path, info: EngineInfo, installed: str) -> None:
    """Raise BackendError where another version of TensorRT built an engine, unless it may run in others."""
    if installed != info.tensorrt_version and not info.options.version_compatible:
        raise BackendError(
            f"{path}: was built by {info.flavour} {info.tensorrt_version} and runs in no other version, but "
            f"{installed} is installed; {REBUILD}, or install {info.flavour}=={info.tensorrt_version}"
        )


def check_gpu(path: Path, info: EngineInfo, device: CudaDevice) -> None:
    """Raise BackendError where an engine was not built for the GPU.

    A card that TensorRT for RTX does not support at all is left for it to refuse, in its own words.
    """
    here = f"this is {device.name} with compute capability {device.compute_capability}"
    major, minor = map(int, device.compute_capability.split("."))
    if info.flavour == TENSORRT_RTX and info.options.target_sm:
        if major * 10 + minor not in info.options.target_sm:
            built_for = ", ".join(f"{target // 10}.{target % 10}" for target in info.options.target_sm)
            raise BackendError(
                f"{path}: was built for compute capability {built_for}, but {here}; build it again with "
                f"--target-sm {major * 10 + minor}"
            )
    elif info.flavour == TENSORRT_RTX or info.options.hardware_compatible:
        if (major, minor) < AMPERE:
            cure = f"with --target-sm {major}{minor}" if info.flavour == TENSORRT_RTX else "on this GPU"
            raise BackendError(
                f"{path}: runs on Ampere (compute capability 8.0) and later, but {here}; build it again {cure}"
            )
    elif (info.gpu, info.compute_capability) != (device.name, device.compute_capability):
        raise BackendError(
            f"{path}: was built on {info.gpu} with compute capability {info.compute_capability} and runs on no other "
            f"GPU, but {here}; build it again here, or there with --hardware-compatible"
        )


# --- What an engine takes and gives ---


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """An input or output as the engine itself describes it.

    Attributes:
        name: as in the ONNX file.
        is_input: rather than an output.
        dtype: TensorRT's name, for example `FLOAT`.
        shape: -1 where it depends on the input.
        batches: least and greatest batch size of the profile, of inputs only.
    """

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    batches: tuple[int, int] | None


def read_tensors(trt: Any, engine: "trt.ICudaEngine") -> list[EngineTensor]:
    """Return an engine's inputs and outputs."""
    tensors = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        batches = None
        if is_input:
            profile = engine.get_tensor_profile_shape(name, 0)
            batches = (int(profile[0][0]), int(profile[2][0]))
        tensors.append(
            EngineTensor(
                name=name,
                is_input=is_input,
                dtype=engine.get_tensor_dtype(name).name,
                shape=tuple(engine.get_tensor_shape(name)[:]),
                batches=batches,
            )
        )
    return tensors


def check_tensors(
    path: Path, info: EngineInfo, tensors: list[EngineTensor], outputs: tuple[str, ...]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each output of one image, without the batch.

    Raises:
        ModelError: names, types or shapes are not a detector's, or the batch sizes are not those of `info`.
    """
    names = sorted(tensor.name for tensor in tensors)
    if names != sorted((INPUT_NAME, *outputs)):
        raise ModelError(
            f"{path}: the engine has the tensors {', '.join(names)} instead of {INPUT_NAME}, {', '.join(outputs)}; "
            f"{REBUILD}"
        )
    wanted = expected_shapes(info.spec)
    batches = (info.options.min_batch, info.options.max_batch)
    for tensor in tensors:
        dtype = "INT64" if tensor.name == "labels" else "FLOAT"
        shape = wanted[tensor.name]
        fits = len(tensor.shape) == len(shape) + 1 and all(
            size in (None, found) and found > 0 for size, found in zip(shape, tensor.shape[1:], strict=True)
        )
        fits = fits and tensor.shape[0] in (-1, info.options.max_batch)
        if not fits or tensor.dtype != dtype or tensor.is_input != (tensor.name == INPUT_NAME):
            text = ", ".join("any" if size is None else str(size) for size in shape)
            raise ModelError(
                f"{path}: the engine's {'input' if tensor.is_input else 'output'} {tensor.name} is {tensor.dtype} of "
                f"shape {tensor.shape} instead of {dtype} of shape (batch, {text}); {REBUILD}"
            )
        if tensor.batches not in (None, batches):
            raise ModelError(
                f"{path}: the engine takes batches of {tensor.batches} images at least and at most, its description "
                f"says {batches}; {REBUILD}"
            )
    return {tensor.name: tensor.shape[1:] for tensor in tensors if not tensor.is_input}


def expected_shapes(spec: DetectorSpec) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of one image's tensors, None where the description does not say (the number of anchors)."""
    kept = spec.postprocess.max_detections
    return {
        INPUT_NAME: (3, *spec.input_size),
        "boxes": (kept, 4),
        "scores": (kept,),
        "labels": (kept,),
        "cls_logits": (None, len(spec.class_names) + 1),
        "box_offsets": (None, 4),
    }


# --- An engine at work ---


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Buffer:
    """Room for one tensor of the largest batch.

    Attributes:
        host: (max batch, ...) in page-locked memory.
        address: of as many bytes in the GPU's memory.
    """

    host: NDArray[Any]
    address: int


class EngineSession:
    """An engine that is ready to run: execution contexts, buffers for its largest batch, and a stream of its own.

    Not for several threads at a time. Methods make the device's context current themselves.

    Args:
        trt: the module of the engine's flavour.
        path: the plan's file, for errors.
        plan: its bytes.
        info: its description.
        device: the GPU.
        outputs: names of the outputs in the order in which `run` returns them.
        cuda_graph: see `TensorRTRunner`.

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
                shapes = check_tensors(path, info, tensors, outputs)
                self._stream = device.create_stream()
                self._held.callback(device.destroy_stream, self._stream)
                dtypes = {tensor.name: DTYPES[tensor.dtype] for tensor in tensors}
                for name, shape in {INPUT_NAME: (3, *info.spec.input_size), **shapes}.items():
                    self._buffers[name] = self._allocate((info.options.max_batch, *shape), dtypes[name])
                self._held.callback(device.synchronize, self._stream)
                self._held.callback(self._drop_graphs)
                if not cuda_graph:
                    self._ready_context(0)
        except BaseException:
            # Whatever goes wrong now is a consequence of the error that is being raised.
            with contextlib.suppress(BackendError):
                self.close()
            raise

    def check_batch(self, count: int) -> None:
        """Raise BackendError where the engine does not take a batch of `count` images."""
        high = self._info.options.max_batch
        if count > high:
            raise BackendError(
                f"{self._path}: a batch of {count} images, but the engine takes at most {high}; build it again with "
                f"--max-batch {count}, or send smaller batches"
            )

    def run(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return the outputs for a checked batch, in new arrays."""
        wanted, images = len(images), self._filled(images)
        count = len(images)
        with self._at_work():
            self._compute(self._prepare(images))
            for name in self._outputs:
                buffer = self._buffers[name]
                self._device.copy_to_host(buffer.host[:count], buffer.address, self._stream)
            self._device.synchronize(self._stream)
            return [self._buffers[name].host[:wanted].copy() for name in self._outputs]

    def _filled(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Repeat the last image of a batch that is smaller than the engine takes: the last of a data set may be."""
        missing = self._info.options.min_batch - len(images)
        return images if missing <= 0 else np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])

    def times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        """Return the times of `runs` computations on the GPU in milliseconds, without the copies."""
        images = self._filled(images)
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
        self._held.callback(self._drop, "logger")
        try:
            self.runtime = trt.Runtime(self.logger)
        except TypeError as error:  # that is how a null pointer from TensorRT arrives
            raise self._failed("TensorRT does not start") from error
        self._held.callback(self._drop, "runtime")
        if self._info.options.version_compatible:
            # Such a plan brings code of the version that built it, which has to be allowed.
            self.runtime.engine_host_code_allowed = True
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            cure = (
                "see `ssd-deploy doctor`"
                if self._info.flavour == TENSORRT
                else "use a GPU that TensorRT for RTX supports"
            )
            raise self._failed(f"TensorRT cannot load the engine; {REBUILD}, or {cure}")
        self.engine = engine
        self._held.callback(self._drop, "engine")
        # Pushed here, so that contexts go before the engine that they belong to.
        self._held.callback(self._contexts.clear)

    def _drop(self, name: str) -> None:
        delattr(self, name)

    def _drop_graphs(self) -> None:
        with contextlib.ExitStack() as stack:
            for graph in self._graphs.values():
                stack.callback(self._device.destroy_graph, graph)
            self._graphs.clear()

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        address = self._device.allocate(math.prod(shape) * dtype.itemsize)
        self._held.callback(self._device.free, address)
        host = self._device.host_array(shape, dtype)
        self._held.callback(self._device.free_host_array, host)
        return Buffer(host=host, address=address)

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
                "engine with a smaller --max-batch"
            )
        self._contexts[key] = context
        # Contexts are used by key from here on: one in a local variable would outlive the engine in a traceback.
        del context
        for name, buffer in self._buffers.items():
            if not self._contexts[key].set_tensor_address(name, buffer.address):
                del self._contexts[key]
                raise self._failed(f"TensorRT refuses the address of {name}")

    def _prepare(self, images: NDArray[np.float32]) -> int:
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
        buffer = self._buffers[INPUT_NAME]
        np.copyto(buffer.host[:count], images)
        self._device.copy_to_device(buffer.address, buffer.host[:count], self._stream)
        return key

    def _set_batch(self, key: int, count: int) -> None:
        if not self._contexts[key].set_input_shape(INPUT_NAME, (count, *self._buffers[INPUT_NAME].host.shape[1:])):
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

    def _enqueue(self, key: int) -> None:
        if not self._contexts[key].execute_async_v3(self._stream):
            raise self._failed("TensorRT does not run the engine")

    def _failed(self, what: str) -> BackendError:
        """Return an error with what TensorRT said about it, the first of which is the cause of the rest."""
        said = " ".join(self._messages.errors[0].split()) if self._messages.errors else "no reason given"
        self._messages.errors.clear()
        return BackendError(f"{self._path}: {what} ({self._info.flavour}: {said})")
