"""The command line: parse, call one library function, return its result.

A file a group of commands. Whatever is heavy is imported inside its command, so that `--help` answers at once.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from ssd_deploy.cli import adopt, build, bundle, compare, data, detect, evaluate, ship, weights
from ssd_train.cli import train
from ssd_train.command_line import Result, add_command, run

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain text: boxes break long messages and paths apart.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Take an SSD detector from its weights to a deployed model, and prove that nothing was lost.",
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        import ssd_deploy

        print(f"ssd-deploy {ssd_deploy.__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and stop.")
    ] = False,
) -> None:
    pass


# In the order of a detector's life.
COMMANDS: dict[str, Callable[..., Result]] = {
    "models": weights.models,
    "doctor": weights.doctor,
    "fetch": weights.fetch,
    "shapes": weights.shapes,
    "check": data.check,
    "train": train,
    "convert": weights.convert,
    "export": build.export,
    "adopt": adopt.adopt,
    "quantize": build.quantize,
    "build": build.build,
    "bundle": bundle.bundle,
    "info": weights.info,
    "eval": evaluate.evaluate,
    "parity": compare.parity,
    "benchmark": compare.benchmark,
    "ship": ship.ship,
    "verify": ship.verify,
    "detect": detect.detect,
}
for name, function in COMMANDS.items():
    add_command(app, function, name)


def main() -> None:
    """Entry point of the `ssd-deploy` script."""
    run(app)
