"""TensorRT and TensorRT for RTX: runs an engine that `ssd-deploy export` built. No torch, no onnx."""

import contextlib
import functools
import threading
import weakref
from pathlib import Path
from typing import Any

from export.engine.bindings import load_bindings
from export.engine.check import check_gpu, check_version, read_plan
from export.engine.file import AGAIN, BuildOptions, EngineInfo, is_engine, read_info
from ssd_deploy.backends.base import CUDA_EVENTS, RawPredictions, check_detects, check_images
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.backends.cuda_open import device_index, open_device
from ssd_deploy.backends.row import RunOptions
from ssd_deploy.backends.tensorrt_session import EngineSession
from ssd_deploy.engines import engine_for
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.preprocess import Images
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES


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
        info, plan = _read(path)
        self.device = device or open_device()
        self._info = info
        self.spec = info.spec
        self.max_batch_size: int | None = info.options.max_batch
        self.device_clock: str | None = CUDA_EVENTS
        short_version = ".".join(load_bindings(info.flavour).__version__.split(".")[:3])
        variant = ", CUDA graph" if cuda_graph else ""
        self.name = f"{info.flavour} {short_version} ({self.device.name}, {self.device.layer}{variant})"
        self._raw_session: EngineSession | None = None
        # Also gives back what a forgotten runner holds, so it must not refer to the runner.
        self._sessions = contextlib.ExitStack()
        self._session = self._open(path, info, plan, OUTPUT_NAMES, cuda_graph)
        self._finalizer = weakref.finalize(self, self._sessions.close)

    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`."""
        with self._lock:
            return PaddedDetections(*self._checked(images).run(images))

    def run_raw(self, images: Images) -> RawPredictions:
        """See `Runner.run_raw`. Needs the second engine."""
        with self._lock:
            return RawPredictions(*self._checked(images, raw=True).run(images))

    def device_times_ms(self, images: Images, runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`."""
        with self._lock:
            return self._checked(images).times_ms(images, runs)

    def close(self) -> None:
        """See `Runner.close`."""
        with self._lock:
            self._finalizer()

    def _checked(self, images: Images, *, raw: bool = False) -> EngineSession:
        """Return what computes a batch, when it is one that it takes."""
        if not self._finalizer.alive:
            raise BackendError(f"{self._path}: the runner was closed; open the engine again")
        session = self._open_raw() if raw else self._session
        check_images(images, self.spec, None)
        session.check_batch(len(images))
        return session

    def _open(
        self, path: Path, info: EngineInfo, plan: bytes, outputs: tuple[str, ...], cuda_graph: bool
    ) -> EngineSession:
        check_gpu(path, info, self.device.name, self.device.compute_capability)
        trt = load_bindings(info.flavour)
        session = EngineSession(trt, path, plan, info, self.device, outputs, cuda_graph)
        self._sessions.callback(session.close)
        return session

    def _open_raw(self) -> EngineSession:
        if self._raw_path is None:
            raise BackendError(
                f"{self._path}: the engine has no raw outputs; `ssd-deploy parity --model FILE.onnx` builds one"
            )
        if self._raw_session is None:
            info, plan = _read(self._raw_path)
            if info.onnx_sha256 != self._info.onnx_sha256:
                raise ModelError(f"{self._raw_path}: was built from another ONNX file than {self._path}; {AGAIN}")
            self._raw_session = self._open(self._raw_path, info, plan, RAW_NAMES, False)
        return self._raw_session


def _read(path: Path) -> tuple[EngineInfo, bytes]:
    """Return the description and the plan of an engine that the installed TensorRT runs."""
    info, plan = read_plan(path)
    check_detects(info.spec, str(path))
    check_version(path, info, load_bindings(info.flavour).__version__)
    return info, plan


def open_runner(flavour: str, model: Any, options: RunOptions) -> TensorRTRunner:
    """Open an engine; that of an ONNX file is built first, or found in the cache. See `backends.Backend.open`.

    Args:
        options: `batch_size` is what the engine of an ONNX file is tuned for, and the most that it takes; with
            `with_raw` a second one is built that gives the raw predictions, which are no outputs of the first.
    """
    if not isinstance(model, Path):
        raise BackendError(f"the {flavour} backend runs a .onnx or .engine file; export the network first")
    built_by = read_info(model).flavour if is_engine(model) else flavour
    if built_by != flavour:
        raise BackendError(f"{model}: is an engine of {built_by}, which {flavour} does not run")
    if is_engine(model) and options.allow_tf32:
        raise BackendError(
            f"{model}: whether TF32 is allowed was decided when the engine was built; leave it out",
            arguments=("allow_tf32",),
        )
    load_bindings(flavour)
    index = device_index(options.device or "cuda")
    # Also where the flavour would build without a GPU: it would build for nothing.
    device = open_device(index)
    cuda_graph = "cuda-graph" in options.variants
    if is_engine(model):
        return TensorRTRunner(model, cuda_graph=cuda_graph, device=device)
    build = BuildOptions(opt_batch=options.batch_size, max_batch=options.batch_size, allow_tf32=options.allow_tf32)
    engine_of = functools.partial(engine_for, model, build, flavour=flavour, device_index=index)
    path, raw = engine_of().path, engine_of(outputs=RAW_NAMES).path if options.with_raw else None
    return TensorRTRunner(path, raw=raw, cuda_graph=cuda_graph, device=device)
