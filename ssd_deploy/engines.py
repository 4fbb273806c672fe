"""ONNX file -> engine for the machine at hand: which flavour, which card, and a bar while it builds."""

from collections.abc import Sequence
from pathlib import Path

from export.engine.bindings import choose_flavour
from export.engine.build import BuiltEngine, build_engine
from export.engine.file import BuildOptions, Gpu
from export.engine.flavours import FLAVOURS
from export.exported import read_exported
from ssd_deploy.backends.base import check_detects
from ssd_deploy.backends.cuda_open import open_device
from ssd_deploy.progress import build_progress
from ssd_train.spec import OUTPUT_NAMES


def engine_for(
    onnx: Path,
    options: BuildOptions,
    *,
    flavour: str,
    outputs: Sequence[str] = OUTPUT_NAMES,
    cache: Path | None = None,
    device_index: int = 0,
) -> BuiltEngine:
    """Build an engine to run, or find it in the cache folder.

    Args:
        onnx, options, outputs, cache: as for `build_engine`.
        flavour: a row of `FLAVOURS`, or `auto` for the first that is installed.
        device_index: CUDA's number of the card to build on.

    Raises:
        BackendError, ModelError: as `build_engine`; the flavour needs a GPU and there is none.
    """
    # Before minutes go into an engine that is not run.
    check_detects(read_exported(onnx, str(onnx)).spec, str(onnx))
    flavour = choose_flavour(flavour)
    with build_progress(f"{onnx.stem}, {flavour}") as on_progress:
        return build_engine(
            onnx,
            options,
            flavour=flavour,
            gpu=needed_gpu(flavour, device_index),
            outputs=outputs,
            cache=cache,
            on_progress=on_progress,
        )


def find_gpu(index: int = 0) -> Gpu:
    """Describe a card.

    Args:
        index: CUDA's number of it.

    Raises:
        BackendError: there is no such card or no driver, or no package to reach it through.
    """
    device = open_device(index)
    return Gpu(
        name=device.name,
        compute_capability=device.compute_capability,
        device_layer=device.layer,
        current=device.current,
    )


def needed_gpu(flavour: str, index: int = 0) -> Gpu | None:
    """Describe the card that a flavour builds on; None where it builds without one.

    Raises:
        BackendError: as `find_gpu`.
    """
    return None if FLAVOURS[flavour].builds_without_gpu else find_gpu(index)
