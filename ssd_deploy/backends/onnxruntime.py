"""ONNX Runtime on CPU, CUDA or its TensorRT provider. No torch, and onnx for `run_raw` alone."""

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import onnxruntime

from export.exported import read_exported
from export.file_metadata import check_runs_here
from export.session import open_session, quiet_options
from ssd_deploy.backends import onnxruntime_options as options_of
from ssd_deploy.backends.base import RawPredictions, check_images, check_model_file, check_values, filled
from ssd_deploy.backends.onnxruntime_bound import BoundSession
from ssd_deploy.backends.recordings import Recordings, Way
from ssd_deploy.backends.row import IN_MEMORY, RunOptions
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError, first_line
from ssd_train.preprocess import Images
from ssd_train.requirements import require
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES

# Batch sizes that have a session of their own, with a copy of the weights each.
MOST_SESSIONS = 4

T = TypeVar("T")


class OnnxRuntimeRunner:
    """Runs an exported file; everything it needs to know is in the file.

    Args:
        model: a file that `ssd-deploy export` wrote, or what is in one.
        device: key of `onnxruntime_options.PROVIDERS`, for a GPU perhaps with its number, such as `cuda:1`; it is an
            error if the session ends up without it.
        variants: on `cuda`: `cuda-graph` captures each batch size at its first call, `nhwc` computes in N, H, W, C
            order. Without any, what `onnxruntime_options.TRIED` names is tried for batch sizes that come again, and
            kept where it finds the same; `plain` does without.
        allow_tf32: let CUDA round float32 products to 10 bits of mantissa.
        threads: CPU threads of one operator; 0 for `cpus.default_threads`.
        spinning: see `quiet_options`.
        with_raw: `run_raw` is to come, so its session is opened at once.

    Raises:
        ModelError: the file is missing, broken, not ours, or rewritten for another CPU.
        BackendError: the device does not exist or does not work here, or a variant does not fit it.
    """

    max_batch_size: int | None
    device_clock: str | None

    def __init__(
        self,
        model: Path | bytes,
        *,
        device: str = "cpu",
        variants: tuple[str, ...] = (),
        allow_tf32: bool = False,
        threads: int = 0,
        spinning: bool = True,
        with_raw: bool = False,
    ) -> None:
        if isinstance(model, Path):
            check_model_file(model)
        options_of.check_variants(device, variants)
        provider, number = options_of.parse_device(device)
        self._model = model
        self._called = IN_MEMORY if isinstance(model, bytes) else str(model)
        # Looked at before the file is read, so that one that is replaced meanwhile is noticed too.
        self._identity = _identity(model)
        exported = read_exported(model, self._called)
        self.spec = exported.spec
        self.max_batch_size = self.spec.batch_size
        self._providers = functools.partial(
            options_of.provider_list,
            device,
            tensor_cores=options_of.may_use_tensor_cores(self.spec.precision, allow_tf32),
        )
        self._options = quiet_options(threads=threads, spinning=spinning, plans_memory=provider != "cpu")
        self._session: Any = self._open(variants)
        # A session that captures has to be run at fixed addresses.
        self._raw_variants = tuple(variant for variant in variants if variant != "cuda-graph")
        self._raw_session: Any = None
        # Of ONNX Runtime's values in the device's memory.
        self._place = ("cpu" if provider == "cpu" else "cuda", number)
        check_runs_here(exported.metadata, self._called, onnxruntime.__version__, on_cpu=provider == "cpu")
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        check_values(inputs, outputs, self.spec, self._called)
        # A report says what was computed in; the TensorRT provider has no switch against TF32.
        if self.spec.precision == "fp32" and (provider == "tensorrt" or (provider == "cuda" and allow_tf32)):
            self.spec = dataclasses.replace(self.spec, precision="tf32")
        place = options_of.PROVIDERS[provider].removesuffix("ExecutionProvider") + (f":{number}" if number else "")
        self.name = f"onnxruntime ({', '.join((place, *variants))})"
        # Its providers keep their stream to themselves, so events of another library would not fit around a run.
        self.device_clock = None if provider == "cpu" else "host clock, outputs synchronized on the GPU"
        is_asked_for = "cuda-graph" in variants
        ways = (variants,) if is_asked_for else options_of.variants_to_try(provider, variants, self.spec.precision)
        # A session that captures is opened for each batch size; the one that was opened to look at is the first.
        self._spare = self._session if is_asked_for else None
        self._recordings: Recordings | None = None
        self._worker: ThreadPoolExecutor | None = None
        if ways:
            self._recordings = Recordings(
                self.name,
                self.spec,
                self._run,
                self._times_ms,
                [Way(name="+".join(way), record=functools.partial(self._record, way)) for way in ways],
                is_asked_for=is_asked_for,
                most=MOST_SESSIONS,
            )
            # ONNX Runtime keeps a CUDA graph with the thread that captured it, so one runs them all.
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime")
        if with_raw:
            self._open_raw()

    def run(self, images: Images) -> PaddedDetections:
        """See `Runner.run`."""
        run = self._recordings.run if self._recordings else self._run
        return self._in_order(run, self._checked(images)).first(len(images))

    def run_raw(self, images: Images) -> RawPredictions:
        """See `Runner.run_raw`. Needs the onnx package, since the raw values are no outputs of the file.

        Raises:
            ModelError: the file was replaced since it was opened, or has no such values.
        """
        found = self._in_order(self._call, self._open_raw(), RAW_NAMES, self._checked(images))
        return RawPredictions(*(values[: len(images)] for values in found))

    def _open_raw(self) -> Any:
        """Return the session that gives out the raw predictions; it reads the file once more."""
        if self._raw_session is None:
            require("onnx", "export", "Looking at raw predictions")
            from export.graph import graph_of_bytes, with_raw_outputs

            data = self._model if isinstance(self._model, bytes) else _content(self._model)
            self._check_unchanged("its raw predictions would be")
            model = with_raw_outputs(graph_of_bytes(data, Path(self._called)).model, self._called)
            self._raw_session = open_session(
                model.SerializeToString(), self._called, self._options, self._providers(variants=self._raw_variants)
            )
        return self._raw_session

    def device_times_ms(self, images: Images, runs: int) -> list[float]:
        """See `DeviceTimed.device_times_ms`; nodes that ONNX Runtime puts on the CPU are part of the time."""
        batch = self._checked(images)
        if self.device_clock is None:
            raise BackendError(f"{self.name} uses no GPU, so there is no time on one; open it on the device cuda")
        return self._in_order((self._recordings.times_ms if self._recordings else self._times_ms), batch, runs)

    def close(self) -> None:
        """See `Runner.close`."""
        if self._recordings is not None and self._worker is not None:
            self._recordings.close()
            self._worker.shutdown()
        self._session = self._raw_session = self._spare = None

    def _checked(self, images: Images) -> Images:
        """Return a batch of a size that the file takes."""
        check_images(images, self.spec, self.max_batch_size)
        return filled(images, self.spec.batch_size)

    def _in_order(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do work on the one thread that belongs to the runner, if it has one; otherwise here."""
        return work(*arguments) if self._worker is None else self._worker.submit(work, *arguments).result()

    def _open(self, variants: tuple[str, ...]) -> Any:
        return open_session(self._model, self._called, self._options, self._providers(variants=variants))

    def _run(self, images: Images) -> PaddedDetections:
        return PaddedDetections(*self._call(self._session, OUTPUT_NAMES, images))

    def _times_ms(self, images: Images, runs: int) -> list[float]:
        bound = BoundSession(self._session, images.shape, self._place, self._called)
        try:
            return bound.times_ms(images, runs)
        finally:
            bound.close()

    def _check_unchanged(self, what: str) -> None:
        if _identity(self._model) != self._identity:
            raise ModelError(
                f"{self._called}: was replaced or removed since it was opened, so {what} another model's; open it again"
            )

    def _record(self, variants: tuple[str, ...], images: Images) -> BoundSession:
        """Return a session of its own for a batch size, which has captured its CUDA graph if it is to have one."""
        session, self._spare = self._spare or self._open(variants), None
        self._check_unchanged("a CUDA graph would be")
        recording = BoundSession(session, images.shape, self._place, self._called)
        # With other images than those that are asked about, so that nothing of the capture passes for an answer.
        recording.run(images[:, :, ::-1])
        return recording

    def _call(self, session: Any, names: tuple[str, ...], images: Images) -> list[Any]:
        try:
            return session.run(names, {self.spec.input.tensor: images})
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise BackendError(f"{self._called}: ONNX Runtime failed to run it ({first_line(error)})") from error


def open_runner(model: Any, options: RunOptions) -> OnnxRuntimeRunner:
    """Open an exported file, or what is in one; see `backends.Backend.open`."""
    if not isinstance(model, Path | bytes):
        raise BackendError("the onnxruntime backend runs a .onnx file; export the network first")
    return OnnxRuntimeRunner(
        model,
        device="cpu" if options.device is None else options.device,
        variants=options.variants,
        allow_tf32=options.allow_tf32,
        threads=options.threads,
        spinning=not options.beside_readers,
        with_raw=options.with_raw,
    )


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
