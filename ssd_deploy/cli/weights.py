"""What there is: networks, backends, weights, files, and a generated data set."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_deploy.cli.options import ModelArgument, OneModel
from ssd_train.command_line import Result

RootOption = Annotated[Path | None, typer.Option(help="Folder of fetched weights.", show_default=False)]
NetworkArgument = Annotated[str, typer.Argument(help="Network name; see `ssd-deploy models`.")]


def models(root: RootOption = None) -> Result:
    """List the networks: size, work, published accuracy, and whether their weights are here."""
    from ssd_deploy.network_table import describe_networks, network_table
    from ssd_deploy.text_table import output_width
    from ssd_train.weights.store import default_root

    networks = describe_networks(root or default_root())
    return Result(text=network_table(networks, width=output_width()), data={"networks": networks})


def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(help="Exit with 1 where this backend does not work; may be repeated.", show_default=False),
    ] = None,
) -> Result:
    """Say which backends work on this machine, and why each other does not."""
    from ssd_deploy.doctor import examine, missing, table
    from ssd_deploy.text_table import output_width

    findings = examine()
    lacking = missing(findings, require or [])
    lines = [table(findings, width=output_width()), *(f"{name}: required, but does not work here" for name in lacking)]
    data = {name: {"works": finding.works, "detail": finding.detail} for name, finding in findings.items()}
    return Result(text="\n".join(lines), data={"backends": data, "missing": lacking}, exit_code=1 if lacking else 0)


def fetch(network: NetworkArgument, root: RootOption = None) -> Result:
    """Download a network's published weights, check and convert them."""
    from ssd_deploy.progress import download_progress
    from ssd_train.weights.load import fetch_weights

    with download_progress(network) as on_progress:
        path = fetch_weights(network, root, on_progress)
    return Result(text=str(path), data={"path": str(path), "network": network})


def convert(
    named: OneModel,
    out: Annotated[Path, typer.Option(help="The .safetensors or .pth file to write.")],
    name: ModelArgument = None,
) -> Result:
    """Convert any weight file to this project's own, which says which network and classes it is for."""
    from ssd_train.files import check_file, sha256_of_file

    check_file(out)

    network = named.source(name).load()
    from ssd_train.weights.network_file import save_network
    from ssd_train.weights.thresholds_file import write_thresholds

    save_network(network, out)
    if network.spec.working_thresholds is not None:
        write_thresholds(out, network.spec.working_thresholds)
    sha256 = sha256_of_file(out)
    names = network.config.class_names
    return Result(
        text=f"{out}  ({len(names)} classes, SHA-256 {sha256})",
        data={"path": str(out), "network": network.config.name, "class_names": list(names), "sha256": sha256},
    )


def info(
    files: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Files, run folders or networks.")],
) -> Result:
    """Say what a file is: network, classes, input, thresholds, precision, weights, calibration, GPU."""
    from ssd_deploy.describe import describe, describe_text

    described = [describe(file) for file in files]
    return Result(text="\n\n".join(map(describe_text, described)), data={"models": described})


def shapes(
    out: Annotated[Path, typer.Option(help="Folder to make, in Pascal VOC's layout.")],
    train: Annotated[int, typer.Option(min=1, help="Pictures for training.")] = 4000,
    val: Annotated[int, typer.Option(min=1, help="Pictures held out; the first ones are always the same.")] = 500,
    seed: Annotated[int, typer.Option(min=0, help="Decides every picture.")] = 1,
) -> Result:
    """Generate a data set of shapes to train, evaluate and try things on, with no download."""
    from ssd_deploy.progress import turn_progress
    from ssd_train.datasets.generated_files import write_shapes

    with turn_progress("drawing") as on_progress:
        folder = write_shapes(out, train=train, val=val, seed=seed, on_progress=on_progress)
    return Result(text=str(folder), data={"path": str(folder), "train": train, "val": val, "seed": seed})
