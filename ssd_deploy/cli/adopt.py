"""Take over somebody else's ONNX file."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated

import typer

from export.adopt_options import AdoptOptions
from ssd_deploy.cli.build import Thresholds
from ssd_train.command_line import Result
from ssd_train.errors import ModelError
from ssd_train.paths import user_path
from ssd_train.requirements import require
from ssd_train.spec import PostprocessSettings

logger = logging.getLogger(__name__)


def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="Somebody else's ONNX file of an SSD.")],
    meant: AdoptOptions,
    thresholds: Thresholds,
    classes: Annotated[Path, typer.Option(help="Class list: a text file, a name a line, in the order of the columns.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("models"),
    name: Annotated[
        str | None, typer.Option(help="Name of the network; without it that of the file.", show_default=False)
    ] = None,
) -> Result:
    """Put decode and NMS behind the raw outputs of somebody else's ONNX file, checked against it."""
    require("torch", "export", "The post-processing")
    require("onnx", "export", "An ONNX file")
    require("onnxscript", "export", "Exporting")
    from export.adopt import adopt_onnx
    from ssd_train.class_list import read_class_list

    adopted = adopt_onnx(
        user_path(file, ModelError),
        out,
        read_class_list(classes),
        meant,
        name=name,
        settings=thresholds.over(PostprocessSettings()),
    )
    for note in adopted.notes:
        logger.info("%s", note)
    logger.info("%s: checked: %s", adopted.path.name, adopted.checked)
    logger.info("next: ssd-deploy eval %s --data FOLDER", adopted.path)
    return Result(
        text=str(adopted.path),
        data={
            "path": str(adopted.path),
            "checked": adopted.checked,
            "notes": list(adopted.notes),
            "spec": dataclasses.asdict(adopted.spec),
        },
    )
