"""ONNX file -> TensorRT engine in the cache folder, with a JSON beside it; built once, by one process."""

import dataclasses
import hashlib
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from export.engine.bindings import load_bindings
from export.engine.cache import (
    BuiltEngine,
    EngineRequest,
    building,
    default_cache,
    find_engine,
    timing_cache_path,
    writable_cache,
    write_engine,
)
from export.engine.file import BuildOptions, EngineInfo, Gpu, engine_name, write_info
from export.engine.flavours import FLAVOURS
from export.engine.inspector import count_convolutions, precision_problems, read_layers
from export.engine.plan import OnProgress, build_plan, check_targets
from export.file_metadata import Int8Target, Quantization, check_runs_here
from export.session import describe_exported
from ssd_train.errors import BackendError, ModelError
from ssd_train.files import sha256_of_file, written_atomically
from ssd_train.spec import OUTPUT_NAMES, RAW, RAW_NAMES, DetectorSpec

# Warnings that an engine's JSON keeps; a graph may cause one for each of its nodes.
MOST_WARNINGS = 20

_log = logging.getLogger(__name__)


def build_engine(
    onnx: Path,
    options: BuildOptions,
    *,
    flavour: str,
    gpu: Gpu | None,
    cache: Path | None = None,
    outputs: Sequence[str] = OUTPUT_NAMES,
    on_progress: OnProgress = lambda fraction, phase: None,
) -> BuiltEngine:
    """Build an engine from an exported ONNX file, or return the one that was built from the same before.

    Where another process builds the same, it is waited for. Layers in other precisions than asked for are a warning.

    Args:
        onnx: a file that `ssd-deploy export` wrote.
        flavour: a row of `FLAVOURS`.
        gpu: the card to build on; of no use to a flavour that builds without one.
        cache: folder for engines and timing caches; None for `default_cache()`.
        outputs: the graph's values to make outputs; other than the file's own for parity checks.
        on_progress: told how far the build is.

    Raises:
        ModelError: the file is not ours, or TensorRT cannot parse it.
        BackendError: the flavour is not installed, an option does not belong to it, the build fails, or with
            `options.strict` the layers are not as asked for; the engine is in the cache all the same.
        KeyboardInterrupt: Ctrl-C, after TensorRT has stopped; no engine is left behind.
    """
    check_options(options, flavour, gpu)
    trt = load_bindings(flavour)
    spec = read_spec(onnx)
    if spec.batch_size is not None:
        # The file leaves no choice.
        options = dataclasses.replace(
            options, min_batch=spec.batch_size, opt_batch=spec.batch_size, max_batch=spec.batch_size
        )
    if options.allow_tf32 and spec.precision == "fp32":
        spec = dataclasses.replace(spec, precision="tf32")
    request = EngineRequest(
        onnx=onnx,
        onnx_sha256=sha256_of_file(onnx),
        spec=spec,
        options=options,
        flavour=flavour,
        version=trt.__version__,
        gpu=gpu,
        outputs=RAW_NAMES if spec.outputs == RAW else tuple(outputs),
    )
    cache = cache or default_cache()
    engine = find_engine(cache, request)
    if engine is None:
        cache = writable_cache(cache, request.name)
        with building(cache, request.name):
            engine = find_engine(cache, request) or _build(trt, request, cache, on_progress)
    if FLAVOURS[flavour].tells_layers:
        # Also of an engine from the cache.
        for problem in precision_problems(spec.precision, engine.info.layer_precisions):
            if options.strict:
                raise BackendError(f"{spec.network}: {problem}", arguments=("strict",))
            _log.warning("%s: %s", spec.network, problem)
    return engine


def _build(trt: Any, request: EngineRequest, cache: Path, on_progress: OnProgress) -> BuiltEngine:
    gpu = request.gpu
    _log.info("building %s with %s %s", request.spec.network, request.flavour, request.version)
    start = time.perf_counter()
    with request.on_gpu():
        plan = build_plan(trt, request, timing_cache_path(cache, request), on_progress)
    info = EngineInfo(
        flavour=request.flavour,
        tensorrt_version=request.version,
        spec=request.spec,
        options=request.options,
        inputs=plan.inputs,
        outputs=plan.outputs,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        onnx_sha256=request.onnx_sha256,
        plan_sha256=hashlib.sha256(plan.data).hexdigest(),
        size_bytes=len(plan.data),
        build_seconds=round(time.perf_counter() - start, 3),
        layer_precisions=None,
        warnings=_shortened(plan.warnings),
    )
    path = write_engine(cache, request.name, plan.data, info)
    # Asked once the engine is safe, whatever the inspector does.
    if FLAVOURS[request.flavour].tells_layers:
        counts, warnings = _read_precisions(trt, request, plan.data)
        info = dataclasses.replace(info, layer_precisions=counts, warnings=_shortened([*warnings, *plan.warnings]))
        write_info(path, info)
    return BuiltEngine(path=path, info=info, from_cache=False)


def _read_precisions(trt: Any, request: EngineRequest, plan: bytes) -> tuple[dict[str, int] | None, tuple[str, ...]]:
    """Return the convolutions of a new engine by precision, and what they give cause to warn of."""
    try:
        with request.on_gpu():
            counts = count_convolutions(read_layers(trt, plan, request.spec, request.options))
    except Exception as error:  # whatever it is, an engine that took minutes is not lost to it
        reason = " ".join(str(error).split())
        return None, (f"the precisions of the layers cannot be read back ({type(error).__name__}: {reason})",)
    return counts, precision_problems(request.spec.precision, counts)


def _shortened(warnings: Sequence[str]) -> tuple[str, ...]:
    """Each warning once, and no more of them than a person reads."""
    distinct = list(dict.fromkeys(warnings))
    rest = len(distinct) - MOST_WARNINGS
    return (*distinct[:MOST_WARNINGS], *([f"and {rest} more"] if rest > 0 else []))


def copy_engine(engine: BuiltEngine, out_dir: Path) -> Path:
    """Copy an engine and its JSON from the cache to `out_dir/<network>.<precision>.<flavour>.engine`."""
    path = out_dir / engine_name(engine.info.spec, engine.info.flavour)
    with written_atomically(path) as temporary:
        shutil.copyfile(engine.path, temporary)
    write_info(path, engine.info)
    return path


def check_options(options: BuildOptions, flavour: str, gpu: Gpu | None) -> None:
    """Raise BackendError where a flavour is not installed, an option belongs to another one, or it needs a GPU."""
    trt = load_bindings(flavour)
    row, usual = FLAVOURS[flavour], BuildOptions()
    others = [name for other in FLAVOURS.values() for name in other.own_options if name not in row.own_options]
    foreign = tuple(name for name in others if getattr(options, name) != getattr(usual, name))
    if foreign:
        raise BackendError(f"{' and '.join(foreign)}: not for {flavour}, which {row.instead}", arguments=foreign)
    if gpu is None and not row.builds_without_gpu:
        able = ", ".join(other.name for other in FLAVOURS.values() if other.builds_without_gpu)
        raise BackendError(
            f"{flavour} builds on the GPU that it builds for, and there is none; {able} builds without one"
        )
    if options.target_sm:
        check_targets(trt, options.target_sm)


def read_spec(onnx: Path) -> DetectorSpec:
    """Return the description inside an exported file; raise ModelError where it is not ours, or was made for a CPU."""
    exported = describe_exported(onnx)
    metadata = exported.metadata
    check_runs_here(metadata, str(onnx), onnxruntime.__version__, on_cpu=False)
    quantization = Quantization.from_metadata(metadata, str(onnx))
    if quantization is not None and quantization.target == Int8Target.CPU:
        raise ModelError(
            f"{onnx}: was quantized for the CPU, to uint8 activations that TensorRT refuses; quantize it again for "
            "the portable target"
        )
    return exported.spec
