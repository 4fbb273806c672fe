"""ONNX file -> plan: TensorRT parses it, one profile spans the batch, and its builder can be watched and stopped.

Precision is what the ONNX graph says and nothing else: networks are strongly typed in every version, so one graph has
one arithmetic in ONNX Runtime, in TensorRT 10 and 11, and in TensorRT for RTX.
"""

import concurrent.futures
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from export.engine.bindings import Messages, load_bindings, make_logger, starting
from export.engine.cache import EngineRequest, load_timing_cache, save_timing_cache
from export.engine.file import BuildOptions, TensorInfo
from ssd_train.errors import BackendError, ModelError
from ssd_train.spec import OUTPUT_NAMES, DetectorSpec

if TYPE_CHECKING:
    import tensorrt as trt
    import tensorrt_rtx as trt_rtx

# Told how much of a build is done, 0 to 1, and the name of the phase.
OnProgress = Callable[[float, str], None]


class Plan(NamedTuple):
    """A plan's bytes, its tensors by name, and what TensorRT warned of."""

    data: bytes
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    warnings: list[str]


def build_plan(trt: Any, request: EngineRequest, timing_cache: Path | None, on_progress: OnProgress) -> Plan:
    """Parse and build, on the card that is current on this thread.

    Args:
        trt: the module of the flavour.
        timing_cache: file of measurements to use and to keep; None for none.

    Raises:
        ModelError: TensorRT cannot parse the file, or it lacks one of the outputs.
        BackendError: TensorRT does not start, or the build fails.
    """
    messages = Messages()
    logger = make_logger(trt, messages)
    version = f"{request.flavour} {request.version}"
    with starting(version, messages):
        builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(request.onnx.read_bytes()):
        raise ModelError(f"{request.onnx}: TensorRT cannot parse it: {parser_errors(parser)}")
    if request.outputs != OUTPUT_NAMES:
        mark_outputs(network, request.outputs, request.onnx)
    config = configure_builder(trt, builder, request.spec, request.options)
    if request.options.target_sm:
        set_targets(trt, config, request.options.target_sm)
    if timing_cache is not None:
        load_timing_cache(config, timing_cache)
    monitor = make_monitor(trt, on_progress)
    config.progress_monitor = monitor

    def build() -> "trt.IHostMemory | None":
        # Which GPU is used is a thread's own affair.
        with request.on_gpu():
            return builder.build_serialized_network(network, config)

    # In a thread of its own, so that this one hears Ctrl-C and the monitor can pass it on.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        try:
            plan = pool.submit(build).result()
        except KeyboardInterrupt:
            monitor.is_cancelled = True
            raise
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise BackendError(f"{request.onnx}: {version} could not build an engine: {messages.last_errors()}")
    if timing_cache is not None:
        save_timing_cache(config, timing_cache)
    return Plan(
        data=bytes(plan),
        inputs=describe_tensors([network.get_input(index) for index in range(network.num_inputs)]),
        outputs=describe_tensors([network.get_output(index) for index in range(network.num_outputs)]),
        warnings=messages.warnings,
    )


def describe_tensors(tensors: Sequence["trt.ITensor"]) -> dict[str, TensorInfo]:
    """Return inputs or outputs by name."""
    return {tensor.name: TensorInfo(dtype=tensor.dtype.name, shape=tuple(tensor.shape)) for tensor in tensors}


def parser_errors(parser: "trt.OnnxParser") -> str:
    """Return all that the parser complained of, as text."""
    # The description may be a bare condition of the parser's code; the code of the error says what is meant.
    return "; ".join(
        f"node {error.node_name()} ({error.node_operator()}): {error.code().name}, {' '.join(error.desc().split())}"
        for error in (parser.get_error(index) for index in range(parser.num_errors))
    )


def mark_outputs(network: "trt.INetworkDefinition", outputs: Sequence[str], onnx: Path) -> None:
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


def configure_builder(
    trt: Any, builder: "trt.Builder", spec: DetectorSpec, options: BuildOptions
) -> "trt.IBuilderConfig":
    """Return the builder's configuration, with one profile over the batch."""
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
    sizes = (options.min_batch, options.opt_batch, options.max_batch)
    profile.set_shape(spec.input.tensor, *((size, *spec.image_shape) for size in sizes))
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses a profile of {options.min_batch} to {options.max_batch} images")
    return config


def check_targets(trt_rtx: Any, target_sm: Sequence[int]) -> None:
    """Raise BackendError for a target that this version of TensorRT for RTX does not know."""
    known = sorted(int(name[2:]) for name in trt_rtx.ComputeCapability.__members__ if name.startswith("SM"))
    unknown = [target for target in target_sm if target not in known]
    if unknown:
        raise BackendError(
            f"tensorrt-rtx {trt_rtx.__version__} has no target {', '.join(map(str, unknown))}; "
            f"target_sm takes {', '.join(map(str, known))}",
            arguments=("target_sm",),
        )


def set_targets(trt_rtx: Any, config: "trt_rtx.IBuilderConfig", target_sm: Sequence[int]) -> None:
    """Name the compute capabilities that TensorRT for RTX compiles for; TensorRT has no such calls."""
    config.num_compute_capabilities = len(target_sm)
    for index, target in enumerate(target_sm):
        if not config.set_compute_capability(trt_rtx.ComputeCapability.__members__[f"SM{target}"], index):
            raise BackendError(
                f"tensorrt-rtx {trt_rtx.__version__} does not build for {target}", arguments=("target_sm",)
            )


def make_monitor(trt: Any, on_progress: OnProgress) -> Any:
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


def try_out(flavour: str, onnx: bytes) -> None:
    """Build and load a small model of fixed shape on this machine's GPU; raise BackendError with TensorRT's words."""
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
