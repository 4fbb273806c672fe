"""ONNX file -> engine for the machine at hand: which flavour, which card, and a bar while it builds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.engine_file import BuildOptions, is_engine, read_info
from export.tensorrt_bindings import AUTO, TENSORRT, choose_flavour
from export.tensorrt_engine import BuiltEngine, Gpu, build_engine, check_options
from ssd_deploy.backends import RunOptions
from ssd_deploy.progress import build_progress, say
from ssd_train.errors import BackendError
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES

if TYPE_CHECKING:
    from ssd_deploy.backends.tensorrt import TensorRTRunner


def engine_for(
    onnx: Path, options: BuildOptions, *, flavour: str, outputs: Sequence[str] = OUTPUT_NAMES, cache: Path | None = None
) -> BuiltEngine:
    """Build an engine, or find it in the cache folder.

    Args:
        onnx, options, outputs, cache: as for `build_engine`.
        flavour: `tensorrt`, `tensorrt-rtx`, or `auto`: TensorRT where it is installed, else TensorRT for RTX.

    Raises:
        BackendError, ModelError: as `build_engine`; TensorRT finds no GPU.
    """
    flavour = choose_flavour(flavour)
    gpu = find_gpu() if flavour == TENSORRT else None
    with build_progress(f"{onnx.stem}, {flavour}") as on_progress:
        return build_engine(
            onnx, options, flavour=flavour, gpu=gpu, outputs=outputs, cache=cache, on_progress=on_progress
        )


def open_tensorrt(
    model: Path, *, flavour: str, options: BuildOptions, cuda_graph: bool = False, with_raw: bool = False
) -> "TensorRTRunner":
    """Open an engine; that of an ONNX file is built first, or found in the cache.

    Args:
        options: for an ONNX file; an engine was built with its own.
        with_raw: build a second engine that gives out the raw predictions, which are no outputs of the first.

    Raises:
        BackendError, ModelError: as `engine_for` and `TensorRTRunner`.
    """
    from ssd_deploy.backends.tensorrt import TensorRTRunner

    if is_engine(model):
        built_by = read_info(model).flavour
        if flavour not in (AUTO, built_by):
            raise BackendError(f"{model}: is an engine of {built_by}, which {flavour} does not run")
        if options.allow_tf32:
            raise BackendError(f"{model}: whether TF32 is allowed was decided when the engine was built; leave it out")
        return TensorRTRunner(model, cuda_graph=cuda_graph)
    # TensorRT for RTX would build without a GPU, for nothing.
    flavour = choose_flavour(flavour)
    find_gpu()
    built = engine_for(model, options, flavour=flavour)
    if built.from_cache:
        say(f"{model.name}: {flavour} engine from the cache, no build")
    raw = engine_for(model, options, flavour=flavour, outputs=RAW_NAMES).path if with_raw else None
    return TensorRTRunner(built.path, raw=raw, cuda_graph=cuda_graph)


def open_runner(flavour: str, model: Any, options: RunOptions) -> "TensorRTRunner":
    """Open an engine, or build one of an ONNX file; see `backends.Backend.open`."""
    if not isinstance(model, Path):
        raise BackendError(f"the {flavour} backend runs a .onnx or .engine file; export the network first")
    build = BuildOptions(opt_batch=options.batch_size, max_batch=options.batch_size, allow_tf32=options.allow_tf32)
    return open_tensorrt(
        model,
        flavour=flavour,
        options=build,
        cuda_graph="cuda-graph" in options.variants,
        with_raw=options.with_raw and not is_engine(model),
    )


def check_buildable(options: BuildOptions, flavour: str) -> None:
    """Raise BackendError where an engine cannot be built here: before its network is exported, not after."""
    flavour = choose_flavour(flavour)
    check_options(options, flavour, find_gpu() if flavour == TENSORRT else None)


def find_gpu() -> Gpu:
    """Describe the card that CUDA puts first.

    Raises:
        BackendError: there is no card or no driver, or no package to reach it through.
    """
    from ssd_deploy.backends.cuda_device import open_device

    device = open_device()
    return Gpu(name=device.name, compute_capability=device.compute_capability, device_layer=device.layer)
