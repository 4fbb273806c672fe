"""Ship a detector as a folder with a certificate, and hold such a folder to it."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ssd_deploy.cli.fastest import calibrating_for
from ssd_deploy.cli.options import Calibration, Data, ModelArgument, OnDevice, OneModel, loaded
from ssd_deploy.parity.criteria import Criteria
from ssd_train.command_line import Result
from ssd_train.errors import DatasetError
from ssd_train.options import option
from ssd_train.printable import joined
from ssd_train.temporary import temporary_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading(OnDevice):
    """Its images are loaded one by one, beside the network."""

    workers: int = option(
        2, "Threads that load and pre-process, beside those of --threads.", names=("-j", "--workers"), least=1
    )


def ship(
    named: OneModel,
    data: Data,
    int8: Calibration,
    criteria: Criteria,
    running: Reading,
    out: Annotated[Path, typer.Option(help="Folder to write into; one that was interrupted is gone on with.")],
    name: ModelArgument = None,
    targets: Annotated[
        str,
        typer.Option(help="What to make: onnx, cpu, tensorrt, tensorrt-rtx:75+89 and bundles, with commas between."),
    ] = "onnx,cpu",
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend", "--backends", help="Judge in these alone; without it all that work here.", show_default=False
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Scored images that travel along, for `verify` elsewhere.")] = 8,
    strict: Annotated[bool, typer.Option("--strict", help="What could not be run is a failure.")] = False,
) -> Result:
    """Make the files of a detector, prove each against PyTorch, time them, and certify it; exit 1 where one fails.

    An adopted file in ONNX Runtime takes the place of PyTorch.
    """
    from export.steps import STEPS
    from ssd_deploy.backends import parse_backends
    from ssd_deploy.describe import description_of
    from ssd_deploy.parity.reference import is_adopted
    from ssd_deploy.progress import image_progress, turn_progress
    from ssd_deploy.ship.certificate import JSON_NAME, PAGE_NAME, PASS
    from ssd_deploy.ship.run import check_out
    from ssd_deploy.ship.run import ship as run_ship
    from ssd_deploy.ship.settings import Shipping
    from ssd_deploy.ship.targets import parse_targets
    from ssd_deploy.ship.text import certificate_text
    from ssd_deploy.text_table import output_width
    from ssd_train.metrics.protocol import Protocol
    from ssd_train.report.page import check_packages

    asked = parse_targets(targets)
    choices = parse_backends(backends) if backends is not None else None
    check_packages()
    check_out(out)
    source = named.source(name)
    if source.network is None and not (source.file is not None and is_adopted(source.file)):
        raise typer.BadParameter(
            f"{source.name} is a file already; name the network, run folder or weight file that it was made of"
        )
    class_names = description_of(source).class_names
    dataset, metric = data.load(class_names)
    if not dataset.samples:
        raise DatasetError(f"{dataset.name}: has no images to score", arguments=("split",))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        calibrating = calibrating_for(data, int8, dataset, class_names, folder, None)
        calibration = None
        if calibrating.int8.calibration_data is not None:
            from export.calibration import find_calibration_images

            STEPS["int8"].check(calibrating.int8)
            found = find_calibration_images(calibrating.int8.calibration_data, int8.calibration_images)
            calibration = (len(found.paths), found.sha256)
        made = run_ship(
            source.file or loaded(source),
            dataset,
            out,
            Shipping(
                asked=asked,
                metric=metric,
                calibrating=calibrating,
                calibration=calibration,
                protocol=Protocol(data.protocol),
                criteria=criteria,
                backends=choices,
                samples=samples,
                strict=strict,
                device=running.name() or "cpu",
                threads=running.threads,
                workers=running.workers,
                allow_tf32=running.allow_tf32,
            ),
            show_progress=image_progress,
            on_turn=stack.enter_context(turn_progress("timing")),
        )
    text = certificate_text(made, output_width())
    return Result(
        text=joined([*text.splitlines(), str(out / PAGE_NAME)]),
        data={"certificate": str(out / JSON_NAME), **dataclasses.asdict(made)},
        exit_code=0 if made.verdict == PASS else 1,
    )


def verify(
    running: OnDevice,
    folder: Annotated[Path, typer.Argument(help="A folder that `ssd-deploy ship` wrote.")],
    backends: Annotated[
        str | None,
        typer.Option(
            "--backend", "--backends", help="Run in these alone; without it all that work here.", show_default=False
        ),
    ] = None,
) -> Result:
    """Hold a shipped folder to its certificate, and run its files again on this machine; exit 1 at any fault."""
    from ssd_deploy.backends import parse_backends
    from ssd_deploy.ship.verify import verify as run_verify

    found = run_verify(folder, parse_backends(backends) if backends is not None else None)
    return Result(text=found.text(), data=dataclasses.asdict(found), exit_code=0 if found.passed else 1)
