"""ONNX file -> engine, as an export step. Light: a row is made without TensorRT."""

import dataclasses
from pathlib import Path
from typing import Any

from export.engine.file import BuildOptions, Gpu, info_path
from export.step import OnProgress, StepResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to build, and on which card; None where the flavour builds without one."""

    options: BuildOptions
    gpu: Gpu | None


@dataclasses.dataclass(frozen=True)
class EngineStep:
    """The row of a flavour of TensorRT, which has its name; its settings are `EngineSettings`."""

    name: str

    def check(self, settings: Any) -> None:
        """See `ExportStep.check`."""
        from export.engine.build import check_options

        check_options(settings.options, self.name, settings.gpu)

    def apply(
        self, source: Path, out_dir: Path, settings: Any = None, *, on_progress: OnProgress | None = None
    ) -> StepResult:
        """See `ExportStep.apply`."""
        from export.engine.build import build_engine, copy_engine

        def report(fraction: float, phase: str) -> None:
            if on_progress is not None:
                on_progress(phase, round(100 * fraction), 100)

        built = build_engine(source, settings.options, flavour=self.name, gpu=settings.gpu, on_progress=report)
        path, info = copy_engine(built, out_dir), built.info
        counts, options = info.layer_precisions, info.options
        layers = "layers were not read back"
        if counts is not None:
            layers = "convolutions " + ", ".join(f"{count} in {precision}" for precision, count in counts.items())
        how = "from the cache, no build" if built.from_cache else f"built in {info.build_seconds:.1f} s"
        targets = ", ".join(map(str, options.target_sm))
        cards = info.gpu or (f"compute capability {targets}" if targets else "Ampere and later")
        return StepResult(
            path=path,
            checked=f"{layers}, {how}, {info.flavour} {info.tensorrt_version}, {info.spec.precision}, batch "
            f"{options.min_batch} to {options.max_batch}, for {cards}",
            notes=info.warnings,
            files=(info_path(path),),
        )
