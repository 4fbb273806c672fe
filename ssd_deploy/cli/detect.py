"""Use a detector: score it on a data set, or detect in pictures."""

import contextlib
import dataclasses
import functools
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ssd_deploy.parts.samples import DetectedSamples
    from ssd_train.datasets.dataset import Sample

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
    refuse,
)
from ssd_deploy.cli.report_options import Reporting
from ssd_deploy.detect_options import Outputs, Streams, Thresholds
from ssd_deploy.model_source import ModelSource
from ssd_deploy.parts.options import Parts
from ssd_deploy.tiling import Tiling
from ssd_train.command_line import USER_ERROR, Result, check_results
from ssd_train.printable import joined
from ssd_train.requirements import require_installed

_log = logging.getLogger(__name__)


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

        running, source = _for_other_processes(running, source)
        parts.check(loading.batch_size)
        make = functools.partial(
            SampleWorker, running.opener(source, **how), loading.batch_size, loading.workers, running.threads
        )
        with (
            shared_out(parts, threads=running.threads, on_gpu=running.cuda) as share,
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


def _for_other_processes(running: Running, source: ModelSource) -> tuple[Running, ModelSource]:
    """Return how a detector runs where several share a machine, and where another process finds it."""
    file = None if source.file is None else source.file.absolute()
    weights = source.weights.absolute() if isinstance(source.weights, Path) else source.weights
    return (
        dataclasses.replace(running, threads=running.threads or 1),
        dataclasses.replace(source, file=file, weights=weights),
    )


def detect(
    ctx: typer.Context,
    named: OneModel,
    pictures: Images,
    running: Running,
    precision: OnePrecision,
    int8: QuantizeOptions,
    loading: Loading,
    streams: Streams,
    tiling: Tiling,
    thresholds: Thresholds,
    outputs: Outputs,
    parts: Parts,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [SOURCE]...",
            help="A model as everywhere, then pictures, folders, patterns, videos, the number of a camera, or "
            "addresses of streams.",
            show_default=False,
        ),
    ] = None,
) -> Result:
    """Detect in pictures, videos, cameras and streams."""
    from ssd_deploy.detecting import check_request, detect_sources
    from ssd_deploy.detector import Detector
    from ssd_deploy.progress import image_progress
    from ssd_deploy.results.table import RESULTS, choose
    from ssd_deploy.show import Window
    from ssd_deploy.sources.base import Reconnect
    from ssd_deploy.sources.open import open_sources

    given = list(words or [])
    name = given.pop(0) if given and named.model is None and named.network is None else None
    source = named.source(name)
    check_calibrated(ctx, [precision.precision or "fp32"])
    if not [*pictures.images, *given]:
        raise typer.BadParameter("name a source behind the model: pictures, folders, videos, a camera or a stream")
    refuse(ctx, ("part_size", "actors"), parts.ray is None, "--ray")
    if parts.ray is not None:
        refuse(ctx, (Streams, Tiling, "track", "show"), True, "one process: leave out --ray")
        runner_options = {"batch_size": loading.batch_size, "precision": precision.precision, "int8": int8}
        return _detect_by_parts(
            [*pictures.images, *given], source, running, loading, thresholds, outputs, parts, runner_options
        )
    with contextlib.ExitStack() as stack:
        # Before the model is opened, which may take an export or the building of an engine.
        viewer = stack.enter_context(Window("ssd-deploy detect")) if outputs.show else None
        sources = open_sources(
            [*pictures.images, *given],
            leave_out=outputs.out,
            reconnect=Reconnect() if streams.reconnect else None,
        )
        for each in sources:
            stack.enter_context(each)
        infos = [each.info for each in sources]
        check_request(infos, outputs.out, save=outputs.names(), track=outputs.track)
        files = [RESULTS[name].file for name in choose(outputs.names(), infos)]
        check_results(ctx.params["json"], *(outputs.out / file for file in files if file is not None))
        runner = running.open(source, batch_size=loading.batch_size, precision=precision.precision, int8=int8)
        stack.callback(runner.close)
        frames = [each.info.frames for each in sources]
        total = None if None in frames else sum(count or 0 for count in frames)
        with image_progress(runner.name, total) as on_progress:
            found = detect_sources(
                Detector(runner, batch_size=loading.batch_size),
                sources,
                outputs.out,
                save=outputs.names(),
                kept=thresholds.keeping(runner.spec),
                tiling=tiling,
                track=outputs.track,
                viewer=viewer,
                workers=loading.workers,
                on_progress=on_progress,
            )
    for error in found.unsaid:
        print(f"Error: {error}", file=sys.stderr)
    if found.hint:
        _log.info("nothing found: %s", found.hint)
    return Result(text=joined(found.lines()), data=found.to_dict(), exit_code=USER_ERROR if found.is_lossy else 0)


def _detect_by_parts(
    words: list[str],
    source: ModelSource,
    running: Running,
    loading: Loading,
    thresholds: Thresholds,
    outputs: Outputs,
    parts: Parts,
    how: dict[str, Any],
) -> Result:
    """Detect on a Ray cluster."""
    require_installed("pyarrow", "ray", "--ray")
    from ssd_deploy.describe import description_of
    from ssd_deploy.parts.run import detect_in_parts, formats_of
    from ssd_deploy.parts.worker import Job
    from ssd_deploy.progress import image_progress

    running, source = _for_other_processes(running, source)
    spec = description_of(source)
    thresholds.keeping(spec)  # what is wrong with them is said before a cluster is asked
    job = Job(
        folder=outputs.out.absolute(),
        open_runner=running.opener(source, **how),
        formats=formats_of(outputs.names()),
        thresholds=thresholds,
        batch_size=loading.batch_size,
        workers=loading.workers,
        threads=running.threads,
        max_pixels=running.max_pixels,
    )
    settings = {
        "model": source.name,
        "detector": spec.to_metadata(),
        "backend": running.backend,
        "device": running.name(running.provider) or "",
        "precision": how["precision"] or "",
        "batch_size": loading.batch_size,
        **dataclasses.asdict(thresholds),
    }
    with image_progress(f"parts on {parts.ray}", None) as on_progress:
        found = detect_in_parts(
            words, job, parts, json.loads(json.dumps(settings)), on_gpu=running.cuda, on_progress=on_progress
        )
    return Result(text=found.line(), data=found.to_dict(), exit_code=USER_ERROR if found.broken else 0)
