"""ONNX Runtime on CPU, CUDA or its TensorRT provider. No torch, no onnx."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.cpu_metadata import CPU_GRAPH_KEY, check_cpu_graph
from ssd_deploy.backends import AUTO, RunOptions
from ssd_deploy.backends.base import RawPredictions, check_images
from ssd_train.captured_stdout import captured_stdout
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.requirements import require
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES, DetectorSpec

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}

# ONNX Runtime's log level for fatal errors alone: whatever it warns of is raised here, in one sentence. Set
# for the whole process when a session opens, since providers log before they know the session's own level.
FATAL_ONLY = 4

# Device of ONNX Runtime's values in a GPU's memory.
GPU = ("cuda", 0)


class OnnxRuntimeRunner:
    """Runs an exported file; everything it needs to know is in the file.

    Args:
        path: a file that `ssd-deploy export` wrote.
        provider: key of `PROVIDERS`; it is an error if the session ends up without it.
        allow_tf32: let CUDA round float32 products to 10 bits of mantissa.
        threads: CPU threads of one operator; 0 lets ONNX Runtime choose.

    Raises:
        ModelError: the file is missing, broken, not ours, or rewritten for another CPU.
        BackendError: the provider does not exist or does not work here.
    """

    max_batch_size: int | None = None
    device_clock: str | None

    def __init__(self, path: Path, *, provider: str = "cpu", allow_tf32: bool = False, threads: int = 0) -> None:
        if path.is_dir():
            raise ModelError(f"{path}: is a folder; name the .onnx file in it")
        if not path.is_file():
            raise ModelError(f"{path}: there is no such model file; make one with `ssd-deploy export`")
        self._path = path
        self._options = session_options(threads, provider)
        self._providers = provider_list(provider, allow_tf32)
        self._session: Any = open_session(path, path.name, self._options, self._providers)
        self._raw_session: Any = None
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.spec = DetectorSpec.from_metadata(metadata, str(path))
        check_cpu_graph(metadata, str(path), onnxruntime.__version__, on_cpu=provider == "cpu")
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        if inputs != {INPUT_NAME} or not outputs.issuperset(OUTPUT_NAMES):
            raise ModelError(
                f"{path}: has inputs {sorted(inputs)} and outputs {sorted(outputs)} instead of {INPUT_NAME} -> "
                f"{', '.join(OUTPUT_NAMES)}; export it again with `ssd-deploy export`"
            )
        # A report says what was computed in; the TensorRT provider has no switch against TF32.
        if self.spec.precision == "fp32" and (provider == "tensorrt" or (provider == "cuda" and allow_tf32)):
            self.spec = dataclasses.replace(self.spec, precision="tf32")
        self.name = f"onnxruntime ({PROVIDERS[provider].removesuffix('ExecutionProvider')})"
        # Its providers keep their stream to themselves, so events of another library would not fit around a run.
        self.device_clock = None if provider == "cpu" else "host clock, outputs synchronized on the GPU"

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        """See `Runner.run`."""
        check_images(images, self.spec, self.max_batch_size)
        return PaddedDetections(*self._call(self._session, OUTPUT_NAMES, images))

    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        """See `Runner.run_raw`. Needs the onnx package, since the raw values are no outputs of the file."""
        check_images(images, self.spec, self.max_batch_size)
        if self._raw_session is None:
            self._raw_session = open_session(
                _with_raw_outputs(self._path), self._path.name, self._options, self._providers
            )
        return RawPredictions(*self._call(self._raw_session, RAW_NAMES, images))

    def device_times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`; nodes that ONNX Runtime puts on the CPU are part of the time."""
        check_images(images, self.spec, self.max_batch_size)
        if self.device_clock is None:
            raise BackendError(f"{self.name} uses no GPU, so there is no time on one; open it with --cuda")
        return self._bound_times_ms(images, runs, GPU)

    def close(self) -> None:
        """See `Runner.close`."""
        self._session = self._raw_session = None

    def _bound_times_ms(self, images: NDArray[np.float32], runs: int, device: tuple[str, int]) -> list[float]:
        """Time runs whose input and outputs stay in the memory of `device`, by the host's clock."""
        times_ms = []
        try:
            binding = self._session.io_binding()
            # Held by a name: the binding alone does not keep the memory alive.
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(images), *device)
            binding.bind_ortvalue_input(INPUT_NAME, value)
            for name in OUTPUT_NAMES:
                binding.bind_output(name, *device)
            binding.synchronize_inputs()
            for _ in range(runs):
                start = time.perf_counter()
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()
                times_ms.append((time.perf_counter() - start) * 1e3)
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise BackendError(f"{self._path}: ONNX Runtime failed to run it ({_first_line(str(error))})") from error
        return times_ms

    def _call(self, session: Any, names: tuple[str, ...], images: NDArray[np.float32]) -> list[Any]:
        try:
            return session.run(names, {INPUT_NAME: images})
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise BackendError(f"{self._path}: ONNX Runtime failed to run it ({_first_line(str(error))})") from error


def open_runner(model: Any, options: RunOptions) -> OnnxRuntimeRunner:
    """Open an exported file; see `backends.Backend.open`."""
    if not isinstance(model, Path):
        raise BackendError("the onnxruntime backend runs a .onnx file; export the network first")
    device = options.device
    if device == AUTO:
        device = "cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu"
    return OnnxRuntimeRunner(model, provider=device, allow_tf32=options.allow_tf32, threads=options.threads)


def session_options(threads: int = 0, provider: str = "cpu") -> onnxruntime.SessionOptions:
    """Return options that keep ONNX Runtime quiet and let it use `threads` CPU threads an operator."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads
    # A plan of where all activations lie, for each batch size: on the CPU 12 % more memory and no time saved.
    options.enable_mem_pattern = provider != "cpu"
    return options


def provider_list(provider: str, allow_tf32: bool) -> list[Any]:
    """Return ONNX Runtime's provider argument for one of `PROVIDERS`.

    Raises:
        BackendError: no such provider, or this build of ONNX Runtime lacks it.
    """
    if provider not in PROVIDERS:
        raise BackendError(f"provider {provider!r} does not exist; choose {', '.join(PROVIDERS)}")
    name = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} was built without {name} (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or use --provider cpu"
        )
    cuda = (PROVIDERS["cuda"], {"use_tf32": "1" if allow_tf32 else "0"})
    if provider == "cpu":
        return [name]
    return [cuda] if provider == "cuda" else [name, cuda]


def open_session(
    model: Path | bytes, model_name: str, options: onnxruntime.SessionOptions, providers: list[Any]
) -> onnxruntime.InferenceSession:
    """Open a session and make sure that it runs where it was asked to.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
        BackendError: the provider fell away, so that everything would silently run elsewhere.
    """
    onnxruntime.set_default_logger_severity(FATAL_ONLY)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    source = model if isinstance(model, bytes) else str(model)
    printed = ""
    try:
        if wanted == PROVIDERS["cpu"]:
            session = onnxruntime.InferenceSession(source, options, providers=providers)
        else:
            # ONNX Runtime prints about libraries that it misses; that belongs into the error, not on the screen.
            with captured_stdout() as text:
                # Brings in CUDA and cuDNN from their Python packages where the system has none.
                onnxruntime.preload_dlls()
                session = onnxruntime.InferenceSession(source, options, providers=providers)
            printed = text.getvalue()
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        if wanted != PROVIDERS["cpu"]:
            raise BackendError(f"{model_name}: {wanted} cannot run it ({_first_line(str(error))})") from error
        data = model if isinstance(model, bytes) else model.read_bytes()
        elsewhere = ", as it was rewritten for another CPU" if CPU_GRAPH_KEY.encode() in data else ""
        raise ModelError(
            f"{model_name}: ONNX Runtime cannot load it{elsewhere} ({_first_line(str(error))}); "
            "export it again with `ssd-deploy export`"
        ) from error
    used = session.get_providers()
    if wanted not in used:
        reason = _first_line(printed) or "its libraries or the driver are missing"
        raise BackendError(
            f"{wanted} was asked for, but the session fell back to {', '.join(used)} ({reason}); "
            "install what is missing, or use --provider cpu"
        )
    # Without this a provider that fails in a later call is replaced by the CPU with no more than a print.
    session.disable_fallback()
    return session


def _with_raw_outputs(path: Path) -> bytes:
    require("onnx", "export", "Looking at raw predictions")
    import onnx

    model = onnx.load(path)
    values = {value.name: value for value in model.graph.value_info}
    missing = [name for name in RAW_NAMES if name not in values]
    if missing:
        raise ModelError(f"{path}: has no inner value {', '.join(missing)}; export it again with `ssd-deploy export`")
    model.graph.output.extend(values[name] for name in RAW_NAMES)
    return model.SerializeToString()


def _first_line(text: str) -> str:
    """The first line that says something: not empty, not ONNX Runtime's banner between asterisks."""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("*")), "")
