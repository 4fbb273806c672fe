"""Score a detector on a data set."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from export.quantize_options import QuantizeOptions
from ssd_deploy.cli.options import (
    Loading,
    ModelArgument,
    OneModel,
    OnePrecision,
    Running,
    ScoredData,
    check_calibrated,
    refuse,
)
from ssd_deploy.cli.report_options import Reporting
from ssd_deploy.model_source import ModelSource
from ssd_deploy.parts.options import Parts
from ssd_train.command_line import Result, check_results
from ssd_train.printable import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssd_deploy.parts.samples import DetectedSamples
    from ssd_train.datasets.dataset import Sample


def evaluate(
    ctx: typer.Context,
    named: OneModel,
    data: ScoredData,
    running: Running,
    precision: OnePrecision,
    int8: QuantizeOptions,
    loading: Loading,
    reporting: Reporting,
    parts: Parts,
    name: ModelArgument = None,
    data_shape: Annotated[
        int | None, typer.Option(help="Side that the detector's square input must have.", show_default=False)
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="Write the detections here, in COCO's result format.", show_default=False)
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Also find the thresholds of precision=P or recall=R, such as precision=0.9."),
    ] = None,
    save_thresholds: Annotated[
        bool,
        typer.Option("--save-thresholds", help="Keep the thresholds (--at's, else of the best F1) with the detector."),
    ] = False,
) -> Result:
    """Score a detector on a data set, VOC07 mAP or COCO's twelve numbers, and find the thresholds to use it at."""
    reporting.check()
    refuse(ctx, ("part_size", "actors"), parts.ray is None, "--ray")
    check_results(detections, ctx.params["json"], *reporting.files(), ctx=ctx)
    from ssd_deploy.describe import description_of
    from ssd_deploy.operating_text import operating_lines
    from ssd_deploy.saved_thresholds import keep_thresholds, thresholds_place
    from ssd_train.datasets.coco_results import write_results
    from ssd_train.evaluation.evaluate import has_objects, score
    from ssd_train.metrics.matching import match_dataset
    from ssd_train.metrics.operating_point import BEST_F1, Goal, curves_of, find_points
    from ssd_train.metrics.protocol import Protocol
    from ssd_train.networks.config import size_name

    goals = [BEST_F1] if at is None else [BEST_F1, Goal.parse(at)]
    source = named.source(name)
    if save_thresholds:
        thresholds_place(source)
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
    if save_thresholds and not has_objects(dataset.samples):
        raise typer.BadParameter(f"{dataset.name} has no objects to find them by", param_hint="'--save-thresholds'")
    ran = _detect_samples(dataset.samples, source, running, loading, parts, precision, int8)
    found, spec, backend = ran.detections, ran.spec, ran.backend
    # Written before the metric is computed: hours of detections outlive whatever goes wrong after them.
    if detections is not None:
        write_results(detections, dataset, found)
    report = score(dataset, found, spec, metric=metric, protocol=Protocol(data.protocol), evaluator=evaluator)
    lines = [f"backend: {backend}, {spec.precision}, weights: {spec.weights}", *report.lines()]
    matches = match_dataset(dataset, found)
    curves = curves_of(dataset, found, matches, lowest=spec.postprocess.score_threshold)
    points = [find_points(curves, goal) for goal in goals] if has_objects(dataset.samples) else []
    lines += [line for each in points for line in operating_lines(each)]
    thresholds = points[-1].working_thresholds(f"{dataset.name}, {report.images} images") if save_thresholds else None
    saved = None if thresholds is None else str(keep_thresholds(source, thresholds))
    if saved is not None:
        lines.append(f"thresholds for {goals[-1].text} saved in {saved}")
    elif save_thresholds:
        lines.append("no thresholds were saved, since nothing that is right was found")
    page = None
    if reporting.report is not None:
        from ssd_train.report.evaluation import collect
        from ssd_train.report.provenance import describe_run
        from ssd_train.report.write import write_report

        run = describe_run(dataset, spec, backend=backend, model_file=source.file)
        goal = goals[-1] if at is not None or save_thresholds else None
        collected = collect(
            dataset, found, spec, report, run,
            matches=matches, curves=curves, evaluator=reporting.evaluator, goal=goal,
        )  # fmt: skip
        page = str(write_report(reporting.report, collected))
        lines.append(f"report: {page}")
    return Result(
        text=joined(lines),
        data=report.to_dict()
        | {
            "backend": backend,
            "detector": dataclasses.asdict(spec),
            "operating_points": {each.goal.text: each.to_dict() for each in points},
            "thresholds_saved_in": saved,
            "report": page,
        },
        exit_code=1 if save_thresholds and saved is None else 0,
    )


def _detect_samples(
    samples: "Sequence[Sample]",
    source: ModelSource,
    running: Running,
    loading: Loading,
    parts: Parts,
    precision: OnePrecision,
    int8: QuantizeOptions,
) -> "DetectedSamples":
    """Run a detector over a data set, in this process or on a cluster."""
    from ssd_deploy.parts.samples import DetectedSamples, SampleWorker, detect_samples
    from ssd_deploy.progress import image_progress
    from ssd_train.evaluation.loop import run_detector

    how: dict[str, Any] = {"batch_size": loading.batch_size, "precision": precision.precision, "int8": int8}
    if parts.ray is not None:
        from ssd_deploy.parts.ray_data import shared_out

        running, source = running.for_other_processes(source)
        parts.check(loading.batch_size)
        make = functools.partial(
            SampleWorker, running.opener(source, **how), loading.batch_size, loading.workers, running.threads
        )
        with (
            shared_out(parts, threads=running.threads, device=running.place()) as share,
            image_progress(f"parts on {parts.ray}", len(samples)) as on_progress,
        ):
            return detect_samples(samples, make, share, part_size=parts.part_size, on_progress=on_progress)
    runner = running.open(source, **how)
    try:
        with image_progress(runner.name, len(samples)) as on_progress:
            found = run_detector(
                samples,
                runner.run,
                runner.spec,
                batch_size=min(loading.batch_size, runner.max_batch_size or loading.batch_size),
                workers=loading.workers,
                on_progress=on_progress,
            )
        return DetectedSamples(start=0, detections=found, backend=runner.name, spec=runner.spec)
    finally:
        runner.close()
