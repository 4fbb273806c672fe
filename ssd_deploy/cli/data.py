"""Look at data before anything is trained on them."""

from pathlib import Path
from typing import Annotated

import typer

from ssd_train.command_line import Result, check_results
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.datasets.source import DataNames
from ssd_train.pixel_limit import ReadingPictures
from ssd_train.printable import joined


def check(
    names: DataNames,
    computing: ReadingPictures,
    data: Annotated[
        str | None,
        typer.Argument(help=f"{', '.join(LAYOUTS)}, or a folder in such a layout.", show_default=False),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="Network whose anchors are held against the objects.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures; default runs/check/ and the folder's name.", show_default=False),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Read annotations only, and write no pictures.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for any note, too.")] = False,
    workers: Annotated[
        int, typer.Option("-j", "--workers", min=1, help="Threads that read images, beside those of --threads.")
    ] = 4,
) -> Result:
    """Look through a data set before a training: every fault with its file, sizes, copies, anchors, pictures.

    Exits with 1 where a training or an evaluation would stop, or would lose or misjudge something.
    """
    from ssd_deploy.check_text import check_lines
    from ssd_deploy.progress import turn_progress
    from ssd_deploy.text_table import output_width
    from ssd_train.class_list import read_class_list
    from ssd_train.data_check.check import check_data
    from ssd_train.data_check.pictures import SHEET_NAME, write_pictures

    source = names.source_of(data)
    folder = out or Path("runs") / "check" / source.root.resolve().name
    if not quick:
        check_results(folder / SHEET_NAME)
    with turn_progress("reading images") as on_progress:
        report = check_data(
            source,
            network=network,
            class_names=read_class_list(names.classes) if names.classes else None,
            with_images=not quick,
            workers=workers,
            on_progress=on_progress,
        )
    pictures, left_out = ([], None) if quick else write_pictures(folder, report)
    about_pictures = [f"pictures: {', '.join(map(str, pictures))}"] if pictures else []
    about_pictures += [left_out] if left_out else []
    exit_code = report.exit_code(strict=strict)
    return Result(
        text=joined(check_lines(report, about_pictures, width=output_width())),
        data=report.to_dict() | {"pictures": [str(path) for path in pictures], "passed": exit_code == 0},
        exit_code=exit_code,
    )
