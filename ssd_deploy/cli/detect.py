"""Use a detector: score it on a data set, or detect in pictures."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from export.quantize_options import QuantizeOptions
from ssd_deploy.cli.options import (
    Images,
    Loading,
    ModelArgument,
    OneModel,
    OnePrecision,
    Running,
    ScoredData,
    check_calibrated,
)
from ssd_deploy.cli.report_options import Reporting
from ssd_train.command_line import Result, check_results


def evaluate(
    ctx: typer.Context,
    named: OneModel,
    data: ScoredData,
    running: Running,
    precision: OnePrecision,
    int8: QuantizeOptions,
    loading: Loading,
    reporting: Reporting,
    name: ModelArgument = None,
    data_shape: Annotated[
        int | None, typer.Option(help="Side that the detector's square input must have.", show_default=False)
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Write the detections here, in COCO's result format.", show_default=False)
    ] = None,
) -> Result:
    """Score a detector on a data set: VOC07 mAP, or COCO's twelve numbers."""
    check_results(detections, ctx.params["json"])
    reporting.check()
    from ssd_deploy.describe import description_of
    from ssd_deploy.progress import image_progress
    from ssd_train.datasets.coco_results import write_results
    from ssd_train.evaluation.evaluate import score
    from ssd_train.evaluation.loop import run_detector
    from ssd_train.metrics.protocol import Protocol
    from ssd_train.networks.config import size_name
    from ssd_train.report.evaluation import collect
    from ssd_train.report.provenance import describe_run
    from ssd_train.report.write import write_report

    source = named.source(name)
    check_calibrated(ctx, [precision.precision or "fp32"])
    known = description_of(source)
    if data_shape is not None and known.input_size != (data_shape, data_shape):
        raise typer.BadParameter(
            f"{data_shape} does not fit {known.network}, whose input is {size_name(known.input_size)} pixels",
            param_hint="'--data-shape'",
        )
    # Before anything is opened, which may take an export or the building of an engine.
    dataset, metric = data.load(known.class_names, data.images)
    evaluator = reporting.evaluator_of(metric)
    runner = running.open(source, batch_size=loading.batch_size, precision=precision.precision, int8=int8)
    try:
        spec, backend = runner.spec, runner.name
        with image_progress(backend, len(dataset.samples)) as on_progress:
            found = run_detector(
                dataset.samples,
                runner.run,
                spec,
                batch_size=min(loading.batch_size, runner.max_batch_size or loading.batch_size),
                workers=loading.workers,
                on_progress=on_progress,
            )
    finally:
        runner.close()
    # Written before the metric is computed: hours of detections outlive whatever goes wrong after them.
    if detections is not None:
        write_results(detections, dataset, found)
    report = score(dataset, found, spec, metric=metric, protocol=Protocol(data.protocol), evaluator=evaluator)
    lines = [f"backend: {backend}, {spec.precision}, weights: {spec.weights}", *report.lines()]
    extra = {}
    if reporting.report is not None:
        ran = describe_run(dataset, spec, backend=backend, model_file=source.file)
        page = write_report(reporting.report, collect(dataset, found, spec, report, ran, evaluator=reporting.evaluator))
        lines.append(f"report: {page}")
        extra["report"] = str(page)
    return Result(
        text="\n".join(lines),
        data=report.to_dict() | {"backend": backend, "detector": dataclasses.asdict(spec)} | extra,
    )


def detect(
    ctx: typer.Context,
    named: OneModel,
    pictures: Images,
    running: Running,
    precision: OnePrecision,
    int8: QuantizeOptions,
    loading: Loading,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL] [IMAGE]...", help="A model as everywhere, then images.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for annotated pictures and detections.json.")] = Path("detections"),
    threshold: Annotated[
        float, typer.Option("--score-threshold", "--threshold", help="Lowest score that is shown.")
    ] = 0.5,
) -> Result:
    """Detect in pictures: write annotated copies and a JSON file."""
    from ssd_deploy.detect_files import detect_files
    from ssd_deploy.detector import Detector
    from ssd_deploy.progress import image_progress
    from ssd_train.image_files import find_images

    given = list(words or [])
    name = given.pop(0) if given and named.model is None and named.network is None else None
    source = named.source(name)
    check_calibrated(ctx, [precision.precision or "fp32"])
    patterns = [*pictures.images, *given]
    if not patterns:
        raise typer.BadParameter("name images behind the model: files, folders or patterns")
    paths = find_images(patterns, leave_out=out)
    runner = running.open(source, batch_size=loading.batch_size, precision=precision.precision, int8=int8)
    try:
        detector = Detector(runner, batch_size=loading.batch_size)
        with image_progress(runner.name, len(paths)) as on_progress:
            found = detect_files(
                detector, paths, out, threshold=threshold, workers=loading.workers, on_progress=on_progress
            )
    finally:
        runner.close()
    for error in found.errors:
        typer.echo(f"Error: {error}", err=True)
    lines = [
        f"{picture}  {count} detections of at least {found.threshold:g}"
        for picture, count in zip(found.pictures, found.counts, strict=True)
    ]
    return Result(
        text="\n".join([*lines, str(found.json_path)]),
        data={
            "json": str(found.json_path),
            "pictures": [{"path": str(p), "detections": c} for p, c in zip(found.pictures, found.counts, strict=True)],
            "threshold": found.threshold,
            "errors": list(found.errors),
        },
        exit_code=2 if found.errors else 0,
    )
