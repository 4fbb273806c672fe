"""Compare: backends with PyTorch in what they find, and backends with each other in speed."""

import contextlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssd_deploy.cli.fastest import Searching, find_fastest
from ssd_deploy.cli.options import (
    Calibration,
    Data,
    Images,
    Loading,
    ModelsArgument,
    OnDevice,
    SeveralModels,
    SeveralPrecisions,
    check_calibrated,
    find_reference,
    loaded,
    refuse,
)
from ssd_deploy.model_source import converted
from ssd_deploy.parity.criteria import Criteria
from ssd_train.command_line import Result, check_results
from ssd_train.command_options import parse_list, parse_numbers
from ssd_train.ending_signals import exit_code_so_far
from ssd_train.precisions import PRECISIONS
from ssd_train.temporary import temporary_folder

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

_log = logging.getLogger(__name__)


def parity(
    ctx: typer.Context,
    named: SeveralModels,
    precision: SeveralPrecisions,
    int8: Calibration,
    data: Data,
    pictures: Images,
    criteria: Criteria,
    loading: Loading,
    running: OnDevice,
    names: ModelsArgument = None,
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "--backends",
            help="Compare these alone, such as onnxruntime,openvino:bf16; without it all that work here.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder for a page with verdicts, stages, classes and the pictures that changed, and its data.",
            show_default=False,
        ),
    ] = None,
) -> Result:
    """Compare every backend that works here with PyTorch on the same images; exit 1 where one differs.

    Where no network is named, an adopted file in ONNX Runtime is what the others are held against.
    """
    if report is not None:
        from ssd_train.report.page import check_report, files_of

        check_report(report)
        check_results(ctx.params["json"], *files_of(report))
    words, patterns = pictures.split_off(names or [])
    sources = named.find([*words, *named.model])
    reference = find_reference(sources)
    files = [each for source in sources if source is not reference for each in (source.file, source.address) if each]
    if data.is_named == (bool(patterns) and data.annotations is None):
        raise typer.BadParameter("name either --data or --images to compare on")
    if (files or reference.file is not None) and precision.precision is not None:
        raise typer.BadParameter(
            "belongs to files that are exported for the comparison, not to those named", param_hint="'--precision'"
        )
    precisions = parse_list(precision.precision or "fp32", PRECISIONS, "--precision")
    check_calibrated(ctx, precisions, Calibration)
    from ssd_deploy.backends import parse_backends
    from ssd_deploy.describe import description_of
    from ssd_deploy.parity.run import run as run_parity
    from ssd_deploy.progress import image_progress
    from ssd_deploy.text_table import output_width
    from ssd_train.metrics.protocol import Protocol

    choices = parse_backends(backends) if backends is not None else None
    class_names = description_of(reference).class_names
    if data.is_named:
        # Of named annotations, the images are a folder.
        dataset, metric = data.load(class_names, Path(patterns[0]) if patterns else None)
    else:
        from ssd_deploy.parity.compare import images_as_dataset
        from ssd_train.image_files import find_images

        dataset, metric = images_as_dataset(find_images(patterns)[: data.limit], class_names), None
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        network = reference.file or loaded(reference)
        models: list[SSD | Path | str] = [*files]
        if not models and not isinstance(network, Path):
            models += [converted(network, each, folder, int8) for each in precisions]
        outcome = run_parity(
            network,
            models,
            dataset,
            metric=metric,
            backends=choices,
            protocol=Protocol(data.protocol),
            criteria=criteria,
            batch_size=batch_size,
            workers=loading.workers,
            reference_device=running.name() or "cpu",
            allow_tf32=running.allow_tf32,
            show_progress=image_progress,
        )
    text, page = outcome.text(output_width()), None
    if report is not None:
        from ssd_deploy.parity.page import write_parity_report

        page = str(write_parity_report(report, outcome))
        # The verdict stays the last line.
        _log.info("report: %s", page)
    return Result(text=text, data=outcome.to_dict() | {"report": page}, exit_code=0 if outcome.passed else 1)


def benchmark(
    ctx: typer.Context,
    named: SeveralModels,
    precision: SeveralPrecisions,
    int8: Calibration,
    pictures: Images,
    searching: Searching,
    running: OnDevice,
    names: ModelsArgument = None,
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend",
            "--backends",
            help="Such as torch,torch:compile+channels-last,onnxruntime:cuda,tensorrt:cuda-graph; without it torch "
            "and onnxruntime for a network, and for a file what runs it.",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", "--batch-size", help="Images a call.")] = "1,8,32",
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each backend gets.")] = 5,
    chart: Annotated[Path | None, typer.Option(help="Write a PNG chart here.", show_default=False)] = None,
) -> Result:
    """Measure latency and throughput of backends side by side, network alone and from JPEG file to detections.

    With --find-fastest: measure what works on this machine, and say what is fastest at an allowed loss.
    """
    refuse(ctx, (Searching,), not searching.find_fastest, "--find-fastest")
    check_results(chart, ctx.params["json"], ctx=ctx)
    words, patterns = pictures.split_off(names or [])
    sources = named.find([*words, *named.model])
    if precision.precision is not None and all(source.file is not None for source in sources):
        raise typer.BadParameter("belongs to networks; an exported model has its own", param_hint="'--precision'")
    precisions = parse_list(precision.precision or "fp32", PRECISIONS, "--precision")
    if not searching.find_fastest:
        check_calibrated(ctx, precisions, Calibration)
    from ssd_deploy.backends import parse_backends
    from ssd_deploy.benchmark.chart import write_chart
    from ssd_deploy.benchmark.measure import BenchmarkSettings
    from ssd_deploy.benchmark.run import run as run_benchmark
    from ssd_deploy.benchmark.sources import Source, exported_source, usual_choices
    from ssd_deploy.progress import turn_progress
    from ssd_deploy.text_table import output_width
    from ssd_train.image_files import find_images
    from ssd_train.requirements import require

    if chart is not None:
        require("matplotlib", "plots", "A chart")
    settings = BenchmarkSettings(batch_sizes=parse_numbers(batch_sizes, "--batch-sizes"), rounds=rounds)
    choices = parse_backends(backends) if backends is not None else None
    if searching.find_fastest:
        return find_fastest(
            ctx, searching, sources, named, int8, patterns, running, settings,
            precisions=precisions if precision.precision is not None else None, choices=choices, chart=chart,
        )  # fmt: skip
    files = find_images(patterns) if patterns else []
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        measured = [
            Source.from_file(each.file)
            if each.file is not None
            else exported_source(each.name, loaded(each), precisions, folder / str(number), int8)
            for number, each in enumerate(sources)
        ]
        report = run_benchmark(
            measured,
            usual_choices(measured) if choices is None else choices,
            settings,
            images=files,
            device=running.name() or "cpu",
            threads=running.threads,
            allow_tf32=running.allow_tf32,
            on_turn=stack.enter_context(turn_progress("measuring")),
        )
    if chart is not None:
        write_chart(report, chart)
    return Result(text=report.text(output_width()), data=report.to_dict(), exit_code=exit_code_so_far())
