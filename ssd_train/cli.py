"""The command `train`, which `ssd-deploy train` and `torchrun -m ssd_train` share."""

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from ssd_train.command_line import Result, written
from ssd_train.cpus import cpu_threads
from ssd_train.ending_signals import heard_signals
from ssd_train.errors import BackendError
from ssd_train.training.config import FIELDS, TYPES, TrainingConfig, resolve, resolve_run
from ssd_train.training.recipes import RECIPES

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    TrainingOptions = TrainingConfig
else:
    # The same fields, none of them required, since a run folder or a file may set them.
    TrainingOptions = dataclasses.make_dataclass(
        "TrainingOptions",
        [
            (name, TYPES[name], dataclasses.field(default=field.default, metadata=field.metadata))
            if field.default is not dataclasses.MISSING
            else (name, TYPES[name] | None, dataclasses.field(default=None, metadata=field.metadata))
            for name, field in FIELDS.items()
        ],
    )


def train(
    ctx: typer.Context,
    options: TrainingOptions,
    run: Annotated[
        Path | None,
        typer.Argument(help="Run folder, the same as --out; one that exists brings its settings.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.json; options given beside it win.", show_default=False)
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="gluoncv, which the defaults are, or small: settings for a few hundred images, network included. "
            "Options given beside it win.",
            metavar="|".join(RECIPES),
            autocompletion=lambda: list(RECIPES),
            show_default=False,
        ),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write a picture of augmented training images, and stop.")
    ] = False,
) -> Result:
    """Train a detector, by GluonCV's recipe or one for small data, with checkpoints and curves in a run folder.

    `train RUN --resume` goes on with a training that was stopped.
    """
    given = {name: getattr(options, name) for name in written(ctx) & FIELDS.keys()}
    resolved = _resolved(run, config, given, recipe)
    # PyTorch's threads otherwise spin while they wait for each other. On a CPU that the loader's processes need
    # too, a step then takes up to ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ssd_train.requirements import require

    if os.environ.get("RANK", "0") == "0":
        _log.info("preparing %s on %s", resolved.network, resolved.dataset)
    with cpu_threads(resolved.threads):  # which PyTorch reads when it is loaded
        require("torch", "train", "Training")
        require("safetensors", "train", "Training")
    if preview:
        from ssd_train.training.pictures import preview as write_preview

        path = write_preview(resolved)
        return Result(text=str(path), data={"preview": str(path)})
    if resolved.gpus is not None and "RANK" not in os.environ:
        _start_torchrun(ctx, resolved, resolved.gpus)
    return _train_here(resolved)


def _resolved(run: Path | None, config: Path | None, given: dict[str, Any], recipe: str | None) -> TrainingConfig:
    resume = given.get("resume")
    if run is None and resume not in (None, "auto", "no") and Path(resume).is_dir():
        # `--resume RUN`, as one may well write it.
        run, given = Path(resume), {**given, "resume": "auto"}
    if run is None:
        return resolve(config, given, recipe)
    if "out" in given:
        raise typer.BadParameter(f"{run} and --out {given['out']} both name the run folder; leave one out")
    return resolve_run(run, given, recipe) if config is None else resolve(config, {**given, "out": run}, recipe)


def _train_here(config: TrainingConfig) -> Result:
    """Train in this process."""
    from ssd_train.training.loop import train as train_network
    from ssd_train.training.run_folder import RunFolder

    result = train_network(config)
    if os.environ.get("RANK", "0") != "0":
        # The first of several processes has the result.
        raise typer.Exit(result.exit_code)
    folder = RunFolder(result.folder)
    data = {
        "folder": str(folder.path),
        "best": result.best,
        "best_weights": str(folder.best_path) if result.best is not None else None,
        "last_weights": str(folder.last_path),
        "finished": result.exit_code == 0,
        "report": None if result.page is None else str(result.page),
    }
    if result.exit_code:
        return Result(text="", data=data, exit_code=result.exit_code)
    _log.info(f"next: ssd-deploy export {folder.path}")
    best = "" if result.best is None else f"{folder.best_path} (best validation), "
    text = f"weights: {best}{folder.last_path}"
    if result.page is not None:
        text += f"\nreport: {result.page}"
    return Result(text=text, data=data)


def _start_torchrun(ctx: typer.Context, config: TrainingConfig, gpus: int) -> NoReturn:
    """Become torchrun with so many processes of this training; signals then reach it directly.

    Nothing is written, and what is quickly known to be a mistake is told here, where torchrun would add its own lines.
    """
    import torch

    from ssd_train.networks.zoo import find_network
    from ssd_train.training.checkpoint import check_folder
    from ssd_train.training.run_lock import held_run_folder

    there = torch.cuda.device_count()
    if gpus > there:
        raise BackendError(
            f"gpus {gpus}: this machine has {there} that torch {torch.__version__} can use", arguments=("gpus",)
        )
    with held_run_folder(config.out):
        check_folder(config)
    find_network(config.network)
    config.source()
    # By default it passes on fewer signals than a training answers, and one that was to be ignored, as by nohup.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", ",".join(number.name for number in heard_signals()))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "ssd_train", *_as_written(ctx)])


def _as_written(ctx: typer.Context) -> list[str]:
    """Return the arguments that this command was given."""
    arguments = []
    for param in ctx.command.params:
        if param.name is None or param.name not in written(ctx):
            continue
        value = ctx.params[param.name]
        if param.param_type_name == "argument":
            arguments.append(str(value))
        elif isinstance(value, bool):
            arguments.append((param.opts if value else param.secondary_opts)[-1])
        else:
            arguments += [param.opts[-1], str(value)]
    return arguments
