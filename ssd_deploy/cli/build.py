"""Make files of a detector: export a network, quantize a file, build an engine."""

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from export.engine.file import BuildOptions
from export.engine.flavours import FLAVOURS, TENSORRT
from export.quantize_options import QuantizeOptions
from export.step import StepResult
from export.steps import STEPS
from ssd_deploy.backends import AUTO
from ssd_deploy.cli.options import ModelArgument, OneModel
from ssd_deploy.model_source import ModelSource, export_network
from ssd_train.command_line import Result, parse_list, written
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.files import written_atomically
from ssd_train.options import option
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import PostprocessSettings

logger = logging.getLogger(__name__)

ONNX = "onnx"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrating(QuantizeOptions):
    """As everywhere, except that --data has no other meaning here."""

    calibration_data: Path | None = option(
        None, "int8: folder with images like those to be detected in.", names=("--data", "--calibration-data")
    )

    def settings(self) -> QuantizeOptions:
        """Return the settings; a layout's name stands for its usual folder."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        layout = LAYOUTS.get(str(self.calibration_data))
        if layout is not None:
            values["calibration_data"] = layout.default_root()
        return QuantizeOptions(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Out:
    out: Path = option(Path("."), "Folder to write into.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exporting(Out):
    format: str | None = option(
        None, f"{', '.join((ONNX, *FLAVOURS))}, several with commas between; without it onnx, or an engine of a file."
    )
    precision: str | None = option(
        None, "fp32, fp16 or int8, several with commas between; without it fp32; int8 needs images."
    )
    winograd: bool = option(
        False, "fp32: write a second ONNX file, with Winograd's convolutions: faster on a CPU, takes more memory."
    )
    optimize_for_cpu: bool = option(
        False, "Write one more ONNX file, for this CPU and ONNX Runtime alone: opens faster, takes less memory."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavoured:
    flavour: str = option(
        AUTO, "Of --format tensorrt: auto takes tensorrt-rtx where tensorrt is missing.", choices=(AUTO, *FLAVOURS)
    )


def export(
    ctx: typer.Context,
    named: OneModel,
    exporting: Exporting,
    thresholds: PostprocessSettings,
    calibrating: Calibrating,
    flavoured: Flavoured,
    building: BuildOptions,
    model: ModelArgument = None,
) -> Result:
    """Write one ONNX file with decode and NMS inside, checked against PyTorch, and TensorRT engines of it."""
    source = named.source(model)
    formats = parse_list(
        exporting.format or (ONNX if source.file is None else "tensorrt"), (ONNX, *FLAVOURS), "--format"
    )
    precisions = parse_list(
        exporting.precision or "fp32", [row.name for row in PRECISIONS.values() if row.in_file], "--precision"
    )
    flavours = _flavours(formats, flavoured.flavour)
    is_calibrated = any(PRECISIONS[name].needs_calibration for name in precisions)
    _refuse(ctx, (BuildOptions, Flavoured), not flavours, "an engine; add --format tensorrt or tensorrt-rtx")
    _refuse(ctx, (QuantizeOptions,), not is_calibrated, "--precision int8")
    _refuse(ctx, ("winograd", "optimize_for_cpu"), ONNX not in formats, "a network, and --format onnx")
    _refuse(ctx, ("winograd",), "fp32" not in precisions, "--precision fp32")
    if source.file is not None:
        _refuse(ctx, (PostprocessSettings, "precision"), True, f"a network; {source.file} has its own")
        if ONNX in formats:
            raise typer.BadParameter(f"{source.file} is exported already; name an engine", param_hint="'--format'")
    int8 = calibrating.settings()
    if is_calibrated:
        STEPS["int8"].check(int8)
    engines = {flavour: _engine_settings(building, flavour) for flavour in flavours}
    out, results = exporting.out, []
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as unseen:
        files = [source.file] if source.file is not None else []
        if source.file is None:
            made = _export_precisions(source, precisions, thresholds, int8, Path(unseen))
            files = [path for each in made if (path := each.path) is not None]
            if ONNX in formats:
                results = [_moved(each, out) for each in made]
                files = [path for each in results if (path := each.path) is not None]
                results += _for_cpu(files, exporting)
            else:
                # The reports on what int8 costs, without the file that they are about.
                results = [_moved(dataclasses.replace(each, path=None), out) for each in made]
        for flavour, settings in engines.items():
            results += [run_step(flavour, file, out, settings) for file in files]
    return _result(results)


def quantize(
    ctx: typer.Context,
    named: OneModel,
    to: Out,
    calibrating: Calibrating,
    thresholds: PostprocessSettings,
    model: ModelArgument = None,
) -> Result:
    """Write an int8 file of a network, or of an exported float32 file, calibrated on images."""
    source = named.source(model)
    int8 = calibrating.settings()
    STEPS["int8"].check(int8)
    if source.file is not None:
        _refuse(ctx, (PostprocessSettings,), True, f"a network; {source.file} has its own")
        return _result([run_step("int8", source.file, to.out, int8)])
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as unseen:
        made = _export_precisions(source, ["int8"], thresholds, int8, Path(unseen))
        return _result([_moved(each, to.out) for each in made])


def build(
    named: OneModel,
    to: Out,
    flavoured: Flavoured,
    building: BuildOptions,
    model: ModelArgument = None,
    format: Annotated[str, typer.Option(help=", ".join(FLAVOURS))] = TENSORRT,
) -> Result:
    """Build a TensorRT engine of an exported ONNX file."""
    source = named.source(model)
    if source.file is None:
        raise typer.BadParameter(
            f"{source.name} is a network; name its .onnx file, or export it with --format {format}"
        )
    flavours = _flavours(parse_list(format, FLAVOURS, "--format"), flavoured.flavour)
    engines = {flavour: _engine_settings(building, flavour) for flavour in flavours}
    return _result([run_step(flavour, source.file, to.out, settings) for flavour, settings in engines.items()])


def _flavours(formats: Sequence[str], flavour: str) -> list[str]:
    """Return the flavours to build with: `--format tensorrt` leaves it to `--flavour`, and that to what is installed."""
    from export.engine.bindings import choose_flavour

    asked = [each for each in formats if each != ONNX]
    return list(dict.fromkeys(choose_flavour(flavour) if each == TENSORRT else each for each in asked))


def _engine_settings(options: BuildOptions, flavour: str) -> Any:
    """Return a step's settings; raise what speaks against a build: before a network is exported for it, not after."""
    from export.engine.step import EngineSettings

    from ssd_deploy.engines import needed_gpu

    settings = EngineSettings(options=options, gpu=needed_gpu(flavour))
    STEPS[flavour].check(settings)
    return settings


def _refuse(ctx: typer.Context, what: Sequence[Any], is_refused: bool, needed: str) -> None:
    """Raise Typer's error for options that were given without what they need; `what` are names, or their dataclasses."""
    names = [
        name
        for each in what
        for name in ([each] if isinstance(each, str) else [field.name for field in dataclasses.fields(each)])
    ]
    given = [param for param in ctx.command.params if param.name in names and param.name in written(ctx)]
    if is_refused and given:
        raise typer.BadParameter(f"needs {needed}", param_hint=f"'{given[0].opts[-1]}'")


def run_step(name: str, source: Path, out: Path, settings: Any = None) -> StepResult:
    """Carry out one export step with a bar, and tell what it found."""
    from ssd_deploy.progress import stage_progress

    with stage_progress(source.name) as on_progress:
        result = STEPS[name].apply(source, out, settings, on_progress=on_progress)
    for note in result.notes:
        logger.info("note: %s", note)
    return result


def _export_precisions(
    source: ModelSource, precisions: Sequence[str], thresholds: PostprocessSettings, int8: QuantizeOptions, folder: Path
) -> list[StepResult]:
    """Export a network in every precision; what is calibrated is made of the float32 file."""
    from ssd_deploy.progress import download_progress

    with download_progress(source.name) as on_progress:
        network = source.load(on_progress)
    results = []
    for name in precisions:
        if PRECISIONS[name].needs_calibration:
            float_file = export_network(network, folder / "float32", "fp32", thresholds)
            results.append(run_step(name, float_file, folder, int8))
        else:
            path = export_network(network, folder, name, thresholds)
            results.append(StepResult(path=path, checked="beside PyTorch, raw predictions and detections"))
    return results


def _for_cpu(files: Sequence[Path], exporting: Exporting) -> list[StepResult]:
    """Make the files for CPUs that were asked for, of every exported file."""
    results = []
    for file in files:
        if exporting.winograd and ".fp32." in file.name:
            results.append(run_step("winograd", file, exporting.out))
            file = results[-1].path or file
        if exporting.optimize_for_cpu:
            results.append(run_step("cpu", file, exporting.out))
    return results


def _moved(result: StepResult, out: Path) -> StepResult:
    """Move what a step wrote to where it was asked for, each file whole or not at all."""

    def move(path: Path) -> Path:
        with written_atomically(out / path.name) as temporary:
            shutil.move(path, temporary)
        return out / path.name

    return dataclasses.replace(
        result, path=move(result.path) if result.path else None, files=tuple(map(move, result.files))
    )


def _result(results: Sequence[StepResult]) -> Result:
    """Return what was written; how large it is and what was checked goes to standard error."""
    written_files = [result for result in results if result.path is not None]
    for result in written_files:
        assert result.path is not None
        logger.info("%s: %.1f MB; checked: %s", result.path.name, result.path.stat().st_size / 1e6, result.checked)
    if written_files:
        logger.info("next: ssd-deploy eval %s --data FOLDER", written_files[-1].path)
    paths = [path for result in results for path in (result.path, *result.files) if path is not None]
    return Result(
        text="\n".join(map(str, paths)),
        data={
            "files": [
                {
                    "path": str(result.path),
                    "size_bytes": result.path.stat().st_size if result.path else None,
                    "checked": result.checked,
                    "notes": list(result.notes),
                    "further_files": [str(path) for path in result.files],
                }
                for result in results
            ]
        },
    )
