"""Make a folder that another program serves a detector from."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_deploy.bundles import BUNDLES
from ssd_deploy.cli.options import ModelArgument, OneModel
from ssd_train.command_line import Result
from ssd_train.printable import joined

FORMAT_HELP = "; ".join(f"{row.name}: {row.title}" for row in BUNDLES.values())


def bundle(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{FORMAT_HELP}.")],
    named: OneModel,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; other files in it stay.")],
    name: ModelArgument = None,
) -> Result:
    """Make the folder that a server takes, of an exported file or an engine."""
    row = BUNDLES.find(format)
    source = named.source(name)
    if source.file is None:
        raise typer.BadParameter(f"{source.name} is no file; name an .onnx or .engine file, exported of a network")
    from ssd_deploy.bundles.folder import write_bundle

    files = write_bundle(row, source.file, out)
    return Result(
        text=joined(map(str, files)),
        data={"bundle": row.name, "path": str(out), "files": list(map(str, files))},
    )
