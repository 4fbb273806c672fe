"""ONNX file -> engine, as an export step. Light: a row is made without TensorRT."""

import dataclasses
from pathlib import Path
from typing import Any

from export.engine.file import BuildOptions, Gpu, info_path
from export.engine.flavours import FLAVOURS
from export.step import ExportStep, OnProgress, StepResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to build, and on which card; None where the flavour builds without one."""

    options: BuildOptions
    gpu: Gpu | None


def engine_step(flavour: str) -> ExportStep:
    """Make the row of a flavour of TensorRT."""

    def check(settings: EngineSettings) -> None:
        from export.engine.build import check_options

        check_options(settings.options, flavour, settings.gpu)

    def apply(
        source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        from export.engine.build import build_engine, copy_engine

        def report(fraction: float, phase: str) -> None:
            if on_progress is not None:
                on_progress(phase, round(100 * fraction), 100)

        built = build_engine(source, settings.options, flavour=flavour, gpu=settings.gpu, on_progress=report)
        path, info = copy_engine(built, out_dir), built.info
        how = "from the cache, no build" if built.from_cache else f"built in {info.build_seconds:.1f} s"
        options = info.options
        return StepResult(
            path=path,
            checked=f"{_precisions(info.layer_precisions)}, {how}, {info.flavour} {info.tensorrt_version}, "
            f"{info.spec.precision}, batch {options.min_batch} to {options.max_batch}, for {_cards(info.gpu, options)}",
            notes=info.warnings,
            files=(info_path(path),),
        )

    return ExportStep(
        name=flavour,
        suffix=f".{flavour}.engine",
        takes=None,
        gives=None,
        help=f"An engine of {flavour}.",
        settings=EngineSettings,
        check=check,
        apply=apply,
    )


def _precisions(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "inputs and outputs"
    return "convolutions " + ", ".join(f"{count} in {precision}" for precision, count in counts.items())


def _cards(gpu: str | None, options: BuildOptions) -> str:
    if gpu is not None:
        return gpu
    if options.target_sm:
        return f"compute capability {', '.join(map(str, options.target_sm))}"
    return "Ampere and later"


ENGINE_STEPS = tuple(map(engine_step, FLAVOURS))
