"""Detect in pictures, videos, cameras and streams, or in parts on many machines."""

import contextlib
import dataclasses
import logging
import sys
from typing import Annotated, Any

import typer

from export.quantize_options import QuantizeOptions
from ssd_deploy.cli.options import (
    Images,
    Loading,
    OneModel,
    OnePrecision,
    Running,
    check_calibrated,
    refuse,
)
from ssd_deploy.detect_options import Outputs, Streams, Thresholds
from ssd_deploy.model_source import ModelSource
from ssd_deploy.parts.options import Parts
from ssd_deploy.tiling import Tiling
from ssd_train.command_line import USER_ERROR, Result, check_results
from ssd_train.printable import joined
from ssd_train.requirements import require_installed

_log = logging.getLogger(__name__)


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
    from ssd_deploy.parts.plan import plan
    from ssd_deploy.parts.run import detect_in_parts, formats_of
    from ssd_deploy.parts.worker import Job
    from ssd_deploy.progress import image_progress

    parts.check(loading.batch_size)
    running, source = running.for_other_processes(source)
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
        "device": running.place() or "",
        "precision": how["precision"] or "",
        "batch_size": loading.batch_size,
        "formats": list(job.formats),
        **dataclasses.asdict(thresholds),
    }
    what = plan(job.folder, words, parts.part_size, settings)
    with image_progress(f"parts on {parts.ray}", what.pictures) as on_progress:
        found = detect_in_parts(what, job, parts, device=running.place(), on_progress=on_progress)
    return Result(text=found.line(), data=found.to_dict(), exit_code=USER_ERROR if found.broken else 0)
