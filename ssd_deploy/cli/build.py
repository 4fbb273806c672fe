"""Make files of a detector: export a network, quantize a file, build an engine."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.engine.file import BuildOptions
from export.engine.flavours import FLAVOURS, TENSORRT
from export.file_metadata import LEAST_OPSET, Int8Target
from export.quantize_options import QuantizeOptions
from ssd_deploy.backends import AUTO
from ssd_deploy.cli.options import ModelArgument, OneModel, check_calibrated, loaded, refuse
from ssd_train.command_line import Result
from ssd_train.command_options import parse_list
from ssd_train.cpus import Computing
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.input_kinds import FLOAT, INPUT_KINDS
from ssd_train.options import left_open, option
from ssd_train.pixel_limit import ReadingPictures
from ssd_train.precisions import PRECISIONS
from ssd_train.printable import joined
from ssd_train.spec import DETECTIONS, MOST_FIXED_BATCH, RAW, PostprocessSettings

if TYPE_CHECKING:
    from export.step import StepResult

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
        if str(self.calibration_data) in LAYOUTS:
            values["calibration_data"] = LAYOUTS[str(self.calibration_data)].default_root()
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
        False, "fp32: write one more ONNX file, with Winograd's convolutions: faster on a CPU, takes more memory."
    )
    input_kind: str = option(
        FLOAT,
        "What the ONNX file takes: normalised float32, or 8-bit pixels, which it then normalises itself.",
        names=("--input",),
        choices=tuple(INPUT_KINDS),
    )
    outputs: str = option(
        DETECTIONS, "What the ONNX file gives: detections, or raw predictions to decode.", choices=(DETECTIONS, RAW)
    )
    batch_size: int | None = option(
        None,
        "Images of every call, fixed in the ONNX file; without it any number.",
        least=1,
        most=MOST_FIXED_BATCH,
    )
    opset: int | None = option(None, f"ONNX's opset of the ONNX file; without it {LEAST_OPSET}.", least=LEAST_OPSET)
    optimize_for_cpu: bool = option(
        False, "Write one more ONNX file, for this CPU and ONNX Runtime alone: opens faster, takes less memory."
    )

    def changes(self) -> list[tuple[str, int | None]]:
        """Return the export steps that change what a file takes and gives, with their settings."""
        asked = (
            (self.input_kind, None, self.input_kind != FLOAT),
            (self.outputs, None, self.outputs != DETECTIONS),
            ("batch", self.batch_size, self.batch_size is not None),
            ("opset", self.opset, self.opset not in (None, LEAST_OPSET)),
        )
        return [(name, settings) for name, settings, is_asked in asked if is_asked]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flavoured:
    flavour: str = option(
        AUTO, "Of --format tensorrt: auto takes tensorrt-rtx where tensorrt is missing.", choices=(AUTO, *FLAVOURS)
    )

    def names(self, formats: Sequence[str]) -> list[str]:
        """Return the flavours to build with."""
        from export.engine.bindings import choose_flavour

        asked = [each for each in formats if each != ONNX]
        return list(dict.fromkeys(choose_flavour(self.flavour) if each == TENSORRT else each for each in asked))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """`PostprocessSettings` of which those that are left out are the network's own."""

    score_threshold: float | None = left_open(PostprocessSettings, "score_threshold")
    nms_iou_threshold: float | None = left_open(PostprocessSettings, "nms_iou_threshold")
    pre_nms_top_k: int | None = left_open(PostprocessSettings, "pre_nms_top_k")
    max_detections: int | None = left_open(PostprocessSettings, "max_detections")
    clip_boxes: bool | None = left_open(PostprocessSettings, "clip_boxes")

    def over(self, own: PostprocessSettings) -> PostprocessSettings:
        """Return a network's settings with those that were given; raise SpecError where they contradict each other."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(own, **given)


def export(
    ctx: typer.Context,
    named: OneModel,
    exporting: Exporting,
    thresholds: Thresholds,
    calibrating: Calibrating,
    flavoured: Flavoured,
    building: BuildOptions,
    computing: ReadingPictures,
    name: ModelArgument = None,
) -> Result:
    """Write one ONNX file with decode and NMS inside, checked against PyTorch, and TensorRT engines of it."""
    source = named.source(name)
    changes = exporting.changes()
    rewrites = exporting.winograd or exporting.optimize_for_cpu or changes
    usual_format = ONNX if source.file is None or rewrites else TENSORRT
    formats = parse_list(exporting.format or usual_format, (ONNX, *FLAVOURS), "--format")
    exported = [row.name for row in PRECISIONS.values() if row.in_file]
    precisions = parse_list(exporting.precision or "fp32", exported, "--precision")
    is_calibrated = check_calibrated(ctx, precisions)
    needs_engine = "an engine: --format tensorrt or tensorrt-rtx"
    refuse(ctx, (BuildOptions, Flavoured), formats == [ONNX], needs_engine)
    refuse(ctx, ("winograd", "optimize_for_cpu"), ONNX not in formats, "--format onnx")
    refuse(ctx, ("winograd",), "fp32" not in precisions, "--precision fp32")
    if source.file is not None:
        refuse(ctx, (Thresholds, "precision"), True, f"a network; {source.file} has its own")
        if ONNX in formats and not rewrites:
            raise typer.BadParameter(f"{source.file} is exported already; name an engine", param_hint="'--format'")
    if formats != [ONNX] and calibrating.target == Int8Target.CPU:
        raise typer.BadParameter(
            "cpu is for ONNX Runtime; TensorRT takes the portable graph", param_hint="'--int8-target'"
        )
    from ssd_deploy import exporting as make

    int8 = calibrating.settings()
    if is_calibrated:
        make.STEPS["int8"].check(int8)
    engines = {flavour: make.engine_settings(building, flavour) for flavour in flavoured.names(formats)}
    if source.file is not None:
        results = make.rewrite_file(
            source.file,
            exporting.out,
            changes=changes,
            keeps_onnx=ONNX in formats,
            winograd=exporting.winograd,
            optimize=exporting.optimize_for_cpu,
            engines=engines,
        )
        return _result(results)
    network = loaded(source)
    results = make.export_files(
        network,
        exporting.out,
        precisions=precisions,
        settings=thresholds.over(network.spec.postprocess),
        int8=int8,
        changes=changes,
        keeps_onnx=ONNX in formats,
        winograd=exporting.winograd,
        optimize=exporting.optimize_for_cpu,
        engines=engines,
    )
    return _result(results)


def quantize(
    ctx: typer.Context,
    named: OneModel,
    to: Out,
    calibrating: Calibrating,
    thresholds: Thresholds,
    computing: ReadingPictures,
    name: ModelArgument = None,
) -> Result:
    """Write an int8 file of a network, or of an exported float32 file, calibrated on images."""
    source = named.source(name)
    from ssd_deploy import exporting as make

    int8 = calibrating.settings()
    make.STEPS["int8"].check(int8)
    if source.file is not None:
        refuse(ctx, (Thresholds,), True, f"a network; {source.file} has its own")
        return _result([make.run_step("int8", source.file, to.out, int8)])
    network = loaded(source)
    settings = thresholds.over(network.spec.postprocess)
    return _result(make.export_precisions(network, ["int8"], settings, int8, to.out))


def build(
    named: OneModel,
    to: Out,
    flavoured: Flavoured,
    building: BuildOptions,
    computing: Computing,
    name: ModelArgument = None,
    format: Annotated[str, typer.Option(help=f"{', '.join(FLAVOURS)}, or both.")] = TENSORRT,
) -> Result:
    """Build a TensorRT engine of an exported ONNX file."""
    source = named.source(name)
    if source.file is None:
        raise typer.BadParameter(f"{source.name} is a network; name its .onnx file, or use export --format {format}")
    from ssd_deploy import exporting as make

    flavours = flavoured.names(parse_list(format, FLAVOURS, "--format"))
    engines = {flavour: make.engine_settings(building, flavour) for flavour in flavours}
    return _result(make.build_engines([source.file], to.out, engines))


def _result(results: "Sequence[StepResult]") -> Result:
    """Return what was written; how large it is and what was checked goes to standard error."""
    files = []
    for each in results:
        size = None if each.path is None else each.path.stat().st_size
        if each.path is not None and size is not None:
            logger.info("%s: %.1f MB; checked: %s", each.path.name, size / 1e6, each.checked)
        files.append(dataclasses.asdict(each) | {"path": str(each.path), "size_bytes": size})
        files[-1]["files"] = list(map(str, each.files))
    paths = [path for each in results for path in (each.path, *each.files) if path is not None]
    if paths:
        logger.info("next: ssd-deploy eval %s --data FOLDER", paths[0])
    return Result(text=joined(map(str, paths)), data={"files": files})
