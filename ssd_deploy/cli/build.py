"""Make files of a detector: export a network, quantize a file, build an engine."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import typer
from export.engine.file import BuildOptions
from export.engine.flavours import AUTO, FLAVOURS
from export.quantize_options import QuantizeOptions

from ssd_deploy.cli.options import ModelArgument, OneModel
from ssd_deploy.making import Made, make_engine, make_file, make_onnx
from ssd_train.command_line import Result, parse_list, written
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.options import option
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import PostprocessSettings

ONNX = "onnx"


def _field_names(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


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
class Exporting:
    out: Path = option(Path("."), "Folder to write into.")
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
    flavour: str = option(
        AUTO, "Of --format tensorrt: auto takes tensorrt-rtx where tensorrt is missing.", choices=(AUTO, *FLAVOURS)
    )


def export(
    ctx: typer.Context,
    named: OneModel,
    exporting: Exporting,
    thresholds: PostprocessSettings,
    calibrating: Calibrating,
    building: BuildOptions,
    model: ModelArgument = None,
) -> Result:
    """Write one ONNX file with decode and NMS inside, checked against PyTorch, and TensorRT engines of it."""
    given = written(ctx)
    source = named.source(model)
    usual_format = ONNX if source.file is None else "tensorrt"
    formats = parse_list(exporting.format or usual_format, (ONNX, *FLAVOURS), "--format")
    exported = [row.name for row in PRECISIONS.values() if row.in_file]
    precisions = parse_list(exporting.precision or "fp32", exported, "--precision")
    needs_images = [name for name in precisions if PRECISIONS[name].needs_calibration]
    flavours = _flavours(formats, exporting.flavour)
    _refuse(given & (_field_names(BuildOptions) | {"flavour"}), not flavours, "--format tensorrt or tensorrt-rtx")
    _refuse(given & _field_names(Calibrating), not needs_images, "--precision int8")
    _refuse(given & {"winograd", "optimize_for_cpu"}, ONNX not in formats, "a network and --format onnx")
    _refuse(given & {"winograd"}, precisions != ["fp32"], "--precision fp32")
    if source.file is not None:
        _refuse(given & {"precision", *_field_names(PostprocessSettings)}, True, "a network: a file has its own")
        if ONNX in formats:
            raise typer.BadParameter(f"{source.file} is exported already; name an engine", param_hint="'--format'")
    int8 = calibrating.settings()
    made: list[Made] = []
    _check_buildable(building, flavours)
    with tempfile.TemporaryDirectory(prefix="ssd-deploy-") as unseen:
        files = [source.file]
        if source.file is None:
            folder = exporting.out if ONNX in formats else Path(unseen)
            onnx = make_onnx(source, folder, precisions, thresholds, int8, reports=exporting.out)
            made += onnx if ONNX in formats else []
            files = [each.path for each in onnx]
        for step in ("winograd", "cpu"):
            if (exporting.winograd, exporting.optimize_for_cpu)[step == "cpu"]:
                # The CPU's own graph is made of the fastest file there is.
                newest = made[-1].path
                made.append(make_file(step, newest, exporting.out))
        for flavour in flavours:
            made += [make_engine(file, building, flavour, exporting.out) for file in files if file is not None]
    return _result(made)
