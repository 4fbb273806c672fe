"""ONNX file -> TensorRT engine: parse, one profile over the batch, build, read back what was built.

    onnx file -> network definition (strongly typed) -> plan -> cache folder, with a JSON beside it

Precision is what the ONNX graph says and nothing else: networks are strongly typed in every version,
so one graph has one arithmetic in ONNX Runtime, in TensorRT 10 and 11, and in TensorRT for RTX.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime

from export.engine_file import BuildOptions, EngineInfo, TensorInfo, engine_name, read_info, write_info
from export.file_metadata import Int8Target, Quantization, check_runs_here
from export.layer_precision import count_convolutions
from export.session import open_session, quiet_options
from export.tensorrt_bindings import TENSORRT, TENSORRT_RTX, Messages, load_bindings, make_logger, starting
from ssd_train.errors import BackendError, ModelError
from ssd_train.files import sha256_of_file, written_atomically
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, DetectorSpec

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as trt_rtx

# Warnings that an engine's JSON keeps; a graph may cause one for each of its nodes.
MOST_WARNINGS = 20

# Told how much of a build is done, 0 to 1, and the name of the phase.
OnProgress = Callable[[float, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """The card that TensorRT builds on and for.

    Attributes:
        name: as the driver calls it.
        compute_capability: major and minor, "8.9" for instance.
        device_layer: package through which the card is reached.
    """

    name: str
    compute_capability: str
    device_layer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """An engine in the cache folder.

    Attributes:
        path: the plan; its JSON lies beside it.
        info: what the JSON says.
        from_cache: it was there already.
    """

    path: Path
    info: EngineInfo
    from_cache: bool


def silent(fraction: float, phase: str) -> None:
    """An `OnProgress` that shows nothing."""


def default_cache() -> Path:
    """Return the folder of engines and timing caches: SSD_DEPLOY_CACHE, else `ssd-deploy` in the user's cache."""
    named = os.environ.get("SSD_DEPLOY_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssd-deploy"


def build_engine(
    onnx: Path,
    options: BuildOptions,
    *,
    flavour: str,
    gpu: Gpu | None,
    cache: Path | None = None,
    outputs: Sequence[str] = OUTPUT_NAMES,
    on_progress: OnProgress = silent,
) -> BuiltEngine:
    """Build an engine from an exported ONNX file, or return the one that was built from the same before.

    Args:
        onnx: a file that `ssd-deploy export` wrote.
        flavour: `tensorrt` or `tensorrt-rtx`.
        gpu: the card to build on; required by `tensorrt`, of no use to `tensorrt-rtx`.
        cache: folder for engines and timing caches; None for `default_cache()`.
        outputs: the graph's values to give out; other than the file's own for parity checks.
        on_progress: told how far the build is.

    Raises:
        ModelError: the file is not ours, or TensorRT cannot parse it.
        BackendError: the flavour is not installed, an option does not belong to it, or the build fails.
        KeyboardInterrupt: Ctrl-C, after TensorRT has stopped; nothing is left behind.
    """
    check_options(options, flavour, gpu)
    trt = load_bindings(flavour)
    spec = _read_spec(onnx)
    if options.allow_tf32 and spec.precision == "fp32":
        spec = dataclasses.replace(spec, precision="tf32")
    cache = cache or default_cache()
    onnx_sha256 = sha256_of_file(onnx)
    path = cache / "engines" / _cached_name(spec, flavour, trt.__version__, gpu, options, outputs, onnx_sha256)
    cached = _read_cached(path)
    if cached is not None:
        return BuiltEngine(path=path, info=cached, from_cache=True)
    start = time.perf_counter()
    timing_cache = None
    # In TensorRT for RTX it is deprecated and does nothing.
    if flavour == TENSORRT and gpu is not None:
        timing_cache = cache / "timing" / f"{flavour}-{trt.__version__}-{_slug(gpu)}.cache"
    messages = Messages()
    plan, inputs_found, outputs_found = _build_plan(
        trt, messages, onnx, spec, options, flavour, outputs, timing_cache, on_progress
    )
    # TensorRT for RTX compiles its kernels when it loads an engine, so that its layers say nothing yet.
    layer_precisions = _check_precision(trt, messages, plan, spec, options) if flavour == TENSORRT else None
    info = EngineInfo(
        flavour=flavour,
        tensorrt_version=trt.__version__,
        spec=spec,
        options=options,
        inputs=inputs_found,
        outputs=outputs_found,
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        onnx_sha256=onnx_sha256,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        size_bytes=len(plan),
        build_seconds=round(time.perf_counter() - start, 3),
        layer_precisions=layer_precisions,
        warnings=_shortened(messages.warnings),
    )
    # The JSON goes first: a plan without one would count as built, a JSON without its plan does not.
    path.parent.mkdir(parents=True, exist_ok=True)
    write_info(path, info)
    with written_atomically(path) as temporary:
        temporary.write_bytes(plan)
    return BuiltEngine(path=path, info=info, from_cache=False)


def _shortened(warnings: list[str]) -> tuple[str, ...]:
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
    """Raise BackendError where a flavour is not installed or an option does not belong to it."""
    trt = load_bindings(flavour)
    if flavour == TENSORRT_RTX and (options.version_compatible or options.hardware_compatible):
        raise BackendError(
            "--version-compatible and --hardware-compatible are TensorRT's; an engine of TensorRT for RTX belongs to "
            "its release, and its cards are chosen with --target-sm"
        )
    if flavour == TENSORRT and options.target_sm:
        raise BackendError(
            "--target-sm is for TensorRT for RTX; TensorRT builds for the GPU that it runs on "
            "(or add --hardware-compatible for all from Ampere on)"
        )
    if flavour == TENSORRT and gpu is None:
        raise BackendError(
            "TensorRT builds on the GPU that it builds for, and there is none; use --flavour tensorrt-rtx"
        )
    if options.target_sm:
        _check_targets(trt, options.target_sm)


def _read_spec(onnx: Path) -> DetectorSpec:
    if not onnx.is_file():
        raise ModelError(f"{onnx}: there is no such model file; make one with `ssd-deploy export`")
    options = quiet_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    metadata = open_session(onnx, str(onnx), options).get_modelmeta().custom_metadata_map
    check_runs_here(metadata, str(onnx), onnxruntime.__version__, on_cpu=False)
    quantization = Quantization.from_metadata(metadata, str(onnx))
    if quantization is not None and quantization.target == Int8Target.CPU:
        raise ModelError(
            f"{onnx}: was quantized for the CPU, to uint8 activations that TensorRT refuses; export it again with "
            "--int8-target portable"
        )
    return DetectorSpec.from_metadata(metadata, str(onnx))


def _cached_name(
    spec: DetectorSpec,
    flavour: str,
    version: str,
    gpu: Gpu | None,
    options: BuildOptions,
    outputs: Sequence[str],
    onnx_sha256: str,
) -> str:
    """Name an engine by everything that decides what it is."""
    card = [gpu.name, gpu.compute_capability] if gpu else None
    decides = [onnx_sha256, flavour, version, card, dataclasses.asdict(options), list(outputs)]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]
    return engine_name(spec, flavour).replace(".engine", f".{key}.engine")


def _read_cached(path: Path) -> EngineInfo | None:
    """Return what is known of a cached engine; None where it is absent or not what its JSON says."""
    try:
        info = read_info(path)
    except ModelError:
        return None
    return info if sha256_of_file(path) == info.plan_sha256 else None


def _slug(gpu: Gpu) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in f"{gpu.name}-sm{gpu.compute_capability}")


def _make_monitor(trt: Any, on_progress: OnProgress) -> Any:
    """Return a progress monitor that reports to `on_progress` and, once `is_cancelled` is set, stops the build."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.is_cancelled = False
            # What `on_progress` raised, which must not pass through TensorRT's own code.
            self.error: BaseException | None = None
            # Phase -> steps done and in all, the outer phases first.
            self._phases: dict[str, tuple[int, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._phases[phase_name] = (0, num_steps)
            self._report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._phases:
                self._phases[phase_name] = (step + 1, self._phases[phase_name][1])
                self._report(phase_name)
            return not self.is_cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._phases.pop(phase_name, None)

        def _report(self, phase_name: str) -> None:
            fraction, share = 0.0, 1.0
            for done, steps in self._phases.values():
                fraction += share * done / max(steps, 1)
                share /= max(steps, 1)
            try:
                on_progress(min(fraction, 1.0), phase_name)
            except BaseException as error:
                self.error = error
                self.is_cancelled = True

    return Monitor()


def _build_plan(
    trt: Any,
    messages: Messages,
    onnx: Path,
    spec: DetectorSpec,
    options: BuildOptions,
    flavour: str,
    outputs: Sequence[str],
    timing_cache: Path | None,
    on_progress: OnProgress,
) -> tuple[bytes, dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Parse and build; returns the plan's bytes, the inputs and the outputs."""
    logger = make_logger(trt, messages)
    with starting(f"{flavour} {trt.__version__}", messages):
        builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        raise ModelError(f"{onnx}: TensorRT cannot parse it: {_parser_errors(parser)}")
    if tuple(outputs) != OUTPUT_NAMES:
        _give_out(network, outputs, onnx)
    config = _configure(trt, builder, spec, options)
    if options.target_sm:
        _set_targets(trt, config, options.target_sm)
    if timing_cache is not None:
        _load_timing_cache(config, timing_cache)
    monitor = _make_monitor(trt, on_progress)
    config.progress_monitor = monitor
    plan = _build_interruptibly(builder, network, config, monitor)
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise BackendError(f"{onnx}: {flavour} {trt.__version__} could not build an engine: {messages.last_errors()}")
    if timing_cache is not None:
        _save_timing_cache(config, timing_cache)
    inputs_found = _describe([network.get_input(index) for index in range(network.num_inputs)])
    outputs_found = _describe([network.get_output(index) for index in range(network.num_outputs)])
    return bytes(plan), inputs_found, outputs_found


def _describe(tensors: Sequence["trt.ITensor"]) -> dict[str, TensorInfo]:
    return {tensor.name: TensorInfo(dtype=tensor.dtype.name, shape=tuple(tensor.shape)) for tensor in tensors}


def _parser_errors(parser: "trt.OnnxParser") -> str:
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    # The description may be a bare condition of the parser's code; the code of the error says what is meant.
    return "; ".join(
        f"node {error.node_name()} ({error.node_operator()}): {error.code().name}, {' '.join(error.desc().split())}"
        for error in found
    )


def _give_out(network: "trt.INetworkDefinition", outputs: Sequence[str], onnx: Path) -> None:
    """Make inner values the network's only outputs."""
    for index in reversed(range(network.num_outputs)):
        network.unmark_output(network.get_output(index))
    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for position in range(layer.num_outputs):
            tensor = layer.get_output(position)
            if tensor is not None and tensor.name in outputs:
                network.mark_output(tensor)
                found.add(tensor.name)
    missing = [name for name in outputs if name not in found]
    if missing:
        raise ModelError(f"{onnx}: has no inner value {', '.join(missing)}; export it again with `ssd-deploy export`")


def _configure(trt: Any, builder: "trt.Builder", spec: DetectorSpec, options: BuildOptions) -> "trt.IBuilderConfig":
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    # On by default in every version; a report that says FP32 must mean it.
    if options.allow_tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    # Without it the inspector cannot say in what precision a layer computes.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    image = (3, *spec.input_size)
    profile.set_shape(INPUT_NAME, (options.min_batch, *image), (options.opt_batch, *image), (options.max_batch, *image))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses a profile of {options.min_batch} to {options.max_batch} images")
    return config


def _check_targets(trt_rtx: Any, target_sm: Sequence[int]) -> None:
    """Raise BackendError for a target that this version of TensorRT for RTX does not know."""
    known = sorted(int(name[2:]) for name in trt_rtx.ComputeCapability.__members__ if name.startswith("SM"))
    unknown = [target for target in target_sm if target not in known]
    if unknown:
        raise BackendError(
            f"tensorrt-rtx {trt_rtx.__version__} has no target {', '.join(map(str, unknown))}; "
            f"--target-sm takes {', '.join(map(str, known))}"
        )


def _set_targets(trt_rtx: Any, config: "trt_rtx.IBuilderConfig", target_sm: Sequence[int]) -> None:
    """Name the compute capabilities that TensorRT for RTX compiles for; TensorRT has no such calls."""
    config.num_compute_capabilities = len(target_sm)
    for index, target in enumerate(target_sm):
        if not config.set_compute_capability(trt_rtx.ComputeCapability.__members__[f"SM{target}"], index):
            raise BackendError(f"tensorrt-rtx {trt_rtx.__version__} does not build for {target}; change --target-sm")


def _build_interruptibly(
    builder: "trt.Builder", network: "trt.INetworkDefinition", config: "trt.IBuilderConfig", monitor: Any
) -> "trt.IHostMemory | None":
    """Build in a thread of its own, so that this one hears Ctrl-C and the monitor can pass it on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(builder.build_serialized_network, network, config).result()
        except KeyboardInterrupt:
            monitor.is_cancelled = True
            raise


def _load_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    """Give the builder its measurements of earlier builds; a file of another version or card counts as empty."""
    saved = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(saved)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _save_timing_cache(config: "trt.IBuilderConfig", path: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with written_atomically(path) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))


def try_out(flavour: str, onnx: bytes) -> None:
    """Build and load a small model of fixed shape on this machine's GPU.

    Raises:
        BackendError: TensorRT refuses, in its words; this may be all that it has to say about a GPU.
    """
    trt = load_bindings(flavour)
    messages = Messages()
    logger = make_logger(trt, messages)
    with starting(f"{flavour} {trt.__version__}", messages):
        builder, runtime = trt.Builder(logger), trt.Runtime(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    plan = None
    if trt.OnnxParser(network, logger).parse(onnx):
        plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise BackendError(f"{flavour} {trt.__version__} builds no engine here: {messages.last_errors()}")
    if runtime.deserialize_cuda_engine(plan) is None:
        raise BackendError(f"{flavour} {trt.__version__} builds engines, but loads none here: {messages.last_errors()}")


def _check_precision(
    trt: Any, messages: Messages, plan: bytes, spec: DetectorSpec, options: BuildOptions
) -> dict[str, int]:
    """Read back the precision of the convolutions that were built, and insist that it is what was asked for.

    Raises:
        BackendError: a convolution computes in another precision, or the plan cannot be loaded.
    """
    with starting(f"TensorRT {trt.__version__}", messages):
        runtime = trt.Runtime(make_logger(trt, messages))
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load the engine that it built: {messages.last_errors()}")
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None and context.set_input_shape(INPUT_NAME, (options.opt_batch, 3, *spec.input_size)):
        # Formats of a dynamic engine are known for a shape only.
        inspector.execution_context = context
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    counts = count_convolutions(layers)
    wanted = {"fp16": {"fp16"}, "tf32": {"fp32", "tf32"}}.get(spec.precision, {"fp32"})
    wrong = {precision: count for precision, count in counts.items() if precision not in (*wanted, "unknown")}
    if wrong:
        found = ", ".join(f"{count} in {precision}" for precision, count in wrong.items())
        raise BackendError(
            f"{spec.network}: asked for {spec.precision}, but TensorRT {trt.__version__} built convolutions otherwise: "
            f"{found}"
        )
    if not wanted.intersection(counts):
        messages.warnings.append("the engine inspector does not tell in which precision the convolutions compute")
    return counts
