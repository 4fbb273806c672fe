"""`python -m ssd_train` is `ssd-deploy train`, and what torchrun starts: `torchrun --nproc-per-node 4 -m ssd_train`."""

import typer

from ssd_train.cli import train
from ssd_train.command_line import add_command, run


def main() -> None:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    add_command(app, train)
    run(app)


main()
