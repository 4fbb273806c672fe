"""ONNX Runtime on CPU, CUDA or its TensorRT provider. No torch, and onnx for `run_raw` alone."""

import dataclasses
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from export.exported import read_exported
from export.file_metadata import check_runs_here
from export.session import open_session, quiet_options
from ssd_deploy.backends.base import RawPredictions, check_images
from ssd_deploy.backends.row import IN_MEMORY, RunOptions
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError, first_line
from ssd_train.requirements import require
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES

log = logging.getLogger(__name__)

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntimeRunner:
    """Runs an exported file; everything it needs to know is in the file.

    Args:
        model: a file that `ssd-deploy export` wrote, or what is in one.
        device: key of `PROVIDERS`, for a GPU perhaps with its number, such as `cuda:1`; it is an error if the session
            ends up without it.
        allow_tf32: let CUDA round float32 products to 10 bits of mantissa.
        threads: CPU threads of one operator; 0 for `cpus.default_threads`.
        spinning: see `quiet_options`.
        with_raw: `run_raw` is to come, so its session is opened at once.

    Raises:
        ModelError: the file is missing, broken, not ours, or rewritten for another CPU.
        BackendError: the device does not exist or does not work here.
    """

    max_batch_size: int | None = None
    device_clock: str | None

    def __init__(
        self,
        model: Path | bytes,
        *,
        device: str = "cpu",
        allow_tf32: bool = False,
        threads: int = 0,
        spinning: bool = True,
        with_raw: bool = False,
    ) -> None:
        if isinstance(model, Path) and model.is_dir():
            raise ModelError(f"{model}: is a folder; name the .onnx file in it")
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{model}: there is no such model file; make one with `ssd-deploy export`")
        provider, number = _parse_device(device)
        self._model = model
        self._called = IN_MEMORY if isinstance(model, bytes) else str(model)
        self._providers = provider_list(device, allow_tf32)
        self._options = quiet_options(threads=threads, spinning=spinning, plans_memory=provider != "cpu")
        # Looked at before the file is opened, so that one that is replaced meanwhile is noticed too.
        self._identity = _identity(model)
        self._session: Any = open_session(model, self._called, self._options, self._providers)
        self._raw_session: Any = None
        # Of ONNX Runtime's values in the GPU's memory.
        self._gpu = ("cuda", number)
        exported = read_exported(model, self._called)
        self.spec = exported.spec
        check_runs_here(exported.metadata, self._called, onnxruntime.__version__, on_cpu=provider == "cpu")
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        if inputs != {INPUT_NAME} or not outputs.issuperset(OUTPUT_NAMES):
            raise ModelError(
                f"{self._called}: has inputs {sorted(inputs)} and outputs {sorted(outputs)} instead of {INPUT_NAME} -> "
                f"{', '.join(OUTPUT_NAMES)}; export it again with `ssd-deploy export`"
            )
        # A report says what was computed in; the TensorRT provider has no switch against TF32.
        if self.spec.precision == "fp32" and (provider == "tensorrt" or (provider == "cuda" and allow_tf32)):
            self.spec = dataclasses.replace(self.spec, precision="tf32")
        place = PROVIDERS[provider].removesuffix("ExecutionProvider") + (f":{number}" if number else "")
        self.name = f"onnxruntime ({place})"
        # Its providers keep their stream to themselves, so events of another library would not fit around a run.
        self.device_clock = None if provider == "cpu" else "host clock, outputs synchronized on the GPU"
        if with_raw:
            self._open_raw()

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        """See `Runner.run`."""
        check_images(images, self.spec, self.max_batch_size)
        return PaddedDetections(*self._call(self._session, OUTPUT_NAMES, images))

    def run_raw(self, images: NDArray[np.float32]) -> RawPredictions:
        """See `Runner.run_raw`. Needs the onnx package, since the raw values are no outputs of the file.

        Raises:
            ModelError: the file was replaced since it was opened, or has no such values.
        """
        check_images(images, self.spec, self.max_batch_size)
        return RawPredictions(*self._call(self._open_raw(), RAW_NAMES, images))

    def _open_raw(self) -> Any:
        """Return the session that gives out the raw predictions; it reads the file once more."""
        if self._raw_session is None:
            require("onnx", "export", "Looking at raw predictions")
            from export.graph import graph_of_bytes, with_raw_outputs

            data = self._model if isinstance(self._model, bytes) else _content(self._model)
            if _identity(self._model) != self._identity:
                raise ModelError(
                    f"{self._called}: was replaced or removed since it was opened, so its raw predictions would be "
                    "another model's; open it again"
                )
            model = with_raw_outputs(graph_of_bytes(data, Path(self._called)).model, self._called)
            self._raw_session = open_session(model.SerializeToString(), self._called, self._options, self._providers)
        return self._raw_session

    def device_times_ms(self, images: NDArray[np.float32], runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`; nodes that ONNX Runtime puts on the CPU are part of the time."""
        check_images(images, self.spec, self.max_batch_size)
        if self.device_clock is None:
            raise BackendError(f"{self.name} uses no GPU, so there is no time on one; open it on the device cuda")
        return self._bound_times_ms(images, runs, self._gpu)

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
            raise BackendError(f"{self._called}: ONNX Runtime failed to run it ({first_line(error)})") from error
        return times_ms

    def _call(self, session: Any, names: tuple[str, ...], images: NDArray[np.float32]) -> list[Any]:
        try:
            return session.run(names, {INPUT_NAME: images})
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise BackendError(f"{self._called}: ONNX Runtime failed to run it ({first_line(error)})") from error


def open_runner(model: Any, options: RunOptions) -> OnnxRuntimeRunner:
    """Open an exported file, or what is in one; see `backends.Backend.open`."""
    if not isinstance(model, Path | bytes):
        raise BackendError("the onnxruntime backend runs a .onnx file; export the network first")
    return OnnxRuntimeRunner(
        model,
        device="cpu" if options.device is None else options.device,
        allow_tf32=options.allow_tf32,
        threads=options.threads,
        spinning=not options.beside_readers,
        with_raw=options.with_raw,
    )


def provider_list(device: str, allow_tf32: bool) -> list[Any]:
    """Return ONNX Runtime's provider argument for a device of `OnnxRuntimeRunner`.

    Raises:
        BackendError: no such device, or this build of ONNX Runtime lacks it.
    """
    provider, number = _parse_device(device)
    name = PROVIDERS[provider]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise BackendError(
            f"onnxruntime {onnxruntime.__version__} was built without {name} (it has {', '.join(available)}); "
            "install onnxruntime-gpu, or choose the device cpu",
            arguments=("device",),
        )
    which = {"device_id": str(number)} if number else {}
    cuda = (PROVIDERS["cuda"], {"use_tf32": "1" if allow_tf32 else "0"} | which)
    if provider == "cpu":
        return [name]
    return [cuda] if provider == "cuda" else [(name, which) if which else name, cuda]


def _parse_device(device: str) -> tuple[str, int]:
    """Split `cuda:1` into key of `PROVIDERS` and number of the GPU."""
    provider, colon, number = device.partition(":")
    has_number = number.isascii() and number.isdigit() and provider != "cpu"
    if provider not in PROVIDERS or (colon and not has_number):
        raise BackendError(
            f"ONNX Runtime's device {device!r} does not exist; choose {', '.join(PROVIDERS)}, or with a GPU's number "
            "cuda:1 and so on",
            arguments=("device",),
        )
    return provider, int(number or 0)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _identity(model: Path | bytes) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced or written to; None where there is none, as for bytes."""
    if isinstance(model, bytes):
        return None
    try:
        stat = model.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
