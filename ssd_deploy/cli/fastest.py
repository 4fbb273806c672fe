"""`benchmark --find-fastest`: the fastest way to run a detector on this machine at an allowed loss."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ssd_deploy.cli.options import Calibration, Data, Naming, OnDevice, loaded
from ssd_deploy.model_source import ModelSource
from ssd_train.command_line import Result, written
from ssd_train.ending_signals import exit_code_so_far
from ssd_train.errors import DatasetError
from ssd_train.options import about, option
from ssd_train.temporary import temporary_folder

if TYPE_CHECKING:
    from ssd_deploy.backends import BackendChoice
    from ssd_deploy.benchmark.fastest.commands import Named
    from ssd_deploy.benchmark.fastest.run import Calibrating
    from ssd_deploy.benchmark.measure import BenchmarkSettings
    from ssd_train.datasets.dataset import Dataset

# Losses are counted on so many images where no number is asked for: a minute's work for a middling network.
USUAL_IMAGES = 100

# Of each candidate, and once more of the fastest.
ROUNDS, TURN_SECONDS = 3, 0.3

# Pictures of shapes that are drawn where none are named.
DRAWN = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searching(Data):
    """Options of --find-fastest alone."""

    find_fastest: bool = option(
        False, "Find the fastest backend, precision, file and threads at an allowed loss, and the command for them."
    )
    max_drop: float | None = option(
        None,
        "Points of the metric of --data that may be lost; without it what parity lets each precision lose.",
        least=0,
        most=100,
    )
    score_threshold: float = option(0.3, "Detections of at least this score are compared.", least=0, below=1)
    out: Path | None = option(None, "Keep the file that is needed in this folder.")


def find_fastest(
    ctx: typer.Context,
    searching: Searching,
    sources: Sequence[ModelSource],
    named: Naming,
    calibration: Calibration,
    patterns: Sequence[str],
    running: OnDevice,
    settings: "BenchmarkSettings",
    *,
    precisions: Sequence[str] | None,
    choices: "Sequence[BackendChoice] | None",
    chart: Path | None,
) -> Result:
    """See `benchmark`."""
    from ssd_deploy.benchmark.fastest.chart import write_chart
    from ssd_deploy.benchmark.fastest.losses import Losses
    from ssd_deploy.benchmark.fastest.run import check_float
    from ssd_deploy.benchmark.fastest.run import run as run_search
    from ssd_deploy.describe import description_of
    from ssd_deploy.parity.criteria import Criteria
    from ssd_deploy.progress import image_progress, turn_progress
    from ssd_deploy.text_table import output_width
    from ssd_train.files import check_writable
    from ssd_train.metrics.protocol import Protocol

    if len(sources) > 1:
        raise typer.BadParameter(f"{sources[0].name} and {sources[1].name} are two models; name one")
    (source,) = sources
    # Of everything one by one, unless it is said otherwise.
    sizes = settings.batch_sizes if "batch_sizes" in written(ctx) else (1,)
    if len(sizes) > 1:
        raise typer.BadParameter("names several sizes; --find-fastest takes one", param_hint="'--batch-size'")
    rounds = settings.rounds if "rounds" in written(ctx) else ROUNDS
    settings = dataclasses.replace(settings, batch_sizes=sizes, rounds=rounds, turn_seconds=TURN_SECONDS)
    if searching.max_drop is not None and not searching.is_named:
        raise typer.BadParameter("needs --data, whose metric it is about", param_hint="'--max-drop'")
    if searching.is_named and patterns and searching.annotations is None:
        raise typer.BadParameter("name either --data or --images to compare on")
    if source.file is not None:
        check_float(source.file)
    if searching.out is not None:
        check_writable(searching.out / "model.onnx")
    class_names = description_of(source).class_names
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        dataset, metric, text = _images(searching, patterns, class_names, folder)
        calibrating = calibrating_for(searching, calibration, dataset, class_names, folder, precisions)
        network = None if source.file is not None else loaded(source)
        report = run_search(
            _named(ctx, source, named),
            network,
            lambda reference: Losses(
                reference,
                dataset,
                metric=metric,
                protocol=Protocol(searching.protocol),
                criteria=Criteria(score_threshold=searching.score_threshold, max_drop=searching.max_drop),
                show_progress=image_progress,
            ),
            [sample.path for sample in dataset.samples],
            settings,
            calibrating,
            data=text,
            precisions=precisions,
            choices=choices,
            device=running.name() or "cpu",
            threads=running.threads,
            allow_tf32=running.allow_tf32,
            out=searching.out,
            on_turn=stack.enter_context(turn_progress("the fastest once more")),
        )
    if chart is not None:
        write_chart(report, chart)
    return Result(text=report.text(output_width()), data=report.to_dict(), exit_code=exit_code_so_far())


def _images(
    searching: Searching, patterns: Sequence[str], class_names: tuple[str, ...], folder: Path
) -> "tuple[Dataset, str | None, str]":
    """Return the images to compare on, the metric where they have ground truth, and what to call them."""
    from ssd_deploy.parity.compare import images_as_dataset
    from ssd_train.datasets.generated_files import write_shapes
    from ssd_train.image_files import find_images

    metric, limit = None, searching.limit or USUAL_IMAGES
    if searching.is_named:
        # Of named annotations, the images are a folder.
        unlimited = dataclasses.replace(searching, limit=None)
        whole, metric = unlimited.load(class_names, Path(patterns[0]) if patterns else None)
        dataset = whole.limited(limit)
        count, what = len(whole.samples), whole.name
    else:
        drawn = not patterns
        if drawn:
            shapes = write_shapes(folder / "shapes", train=1, val=DRAWN - 1, seed=1)
            patterns = [str(shapes / "JPEGImages" / "*")]
        paths = find_images(patterns)
        dataset = images_as_dataset(paths[:limit], class_names)
        count, what = len(paths), "generated pictures of shapes" if drawn else "image files"
    used = len(dataset.samples)
    text = f"{used} images" if used == count else f"the first {used} of {count} images; --limit takes more"
    return dataset, metric, f"{what}, {text}"


def calibrating_for(
    searching: Data,
    calibration: Calibration,
    dataset: "Dataset",
    class_names: tuple[str, ...],
    folder: Path,
    precisions: Sequence[str] | None,
) -> "Calibrating":
    """Return how to calibrate: on the images that were named, or on a training split; never on the compared ones."""
    from export.quantize_options import image_files
    from export.steps import STEPS
    from ssd_deploy.benchmark.fastest.run import Calibrating

    compared = {sample.path.resolve() for sample in dataset.samples}
    if calibration.calibration_data is not None:
        STEPS["int8"].check(calibration)
        both = [path for path in image_files(calibration.calibration_data, None) if path.resolve() in compared]
        if both:
            raise DatasetError(
                f"{calibration.calibration_data}: has {both[0].name}, which is compared on too; calibrate on other "
                "images",
                arguments=("calibration_data",),
            )
        return Calibrating(int8=calibration)
    if precisions is not None and "int8" not in precisions:
        return Calibrating(int8=calibration)
    why_not = "int8, without images to calibrate on; name a folder of other ones with --calibration-data"
    if not searching.is_named or searching.annotations is not None:
        return Calibrating(int8=calibration, why_not=why_not)
    try:
        source = searching.source()
        split = source.train_split
        paths = [sample.path for sample in source.load(split, class_names).samples]
    except DatasetError as error:
        return Calibrating(int8=calibration, why_not=f"{why_not} ({error})")
    others = [path for path in paths if path.resolve() not in compared]
    if not others:
        return Calibrating(int8=calibration, why_not=f"{why_not} (all images of the split {split} are compared on)")
    links = folder / "calibration"
    links.mkdir()
    for number, path in enumerate(others):
        (links / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
    return Calibrating(
        int8=dataclasses.replace(calibration, calibration_data=links),
        of_split=f"int8 was calibrated on images of the split {split}",
    )


def _named(ctx: typer.Context, source: ModelSource, named: Naming) -> "Named":
    """Return the detector as words of a command and as arguments of Python."""
    from ssd_deploy.benchmark.fastest.commands import Named

    words, options = [source.name], written(ctx)
    for field in dataclasses.fields(Naming):
        known = about(field)
        value = getattr(named, field.name)
        # A network that is named by its option alone is MODEL here.
        if known is not None and field.name in options and str(value) != source.name:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    arguments = [repr(source.name)]
    if source.network is not None and named.weights is not None:
        arguments.append(f"weights={named.weights!r}")
    if source.network is not None and source.classes is not None:
        arguments.append(f"classes={list(source.classes)!r}")
    return Named(words=tuple(words), file=source.file, arguments=tuple(arguments))
