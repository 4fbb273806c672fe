"""The command `train`, which `ssd-deploy train` and `torchrun -m ssd_train` share."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.training.config import FIELDS, TrainingConfig, resolve


def train(
    ctx: typer.Context,
    network: Annotated[str | None, typer.Option(help="Network name; see `ssd-deploy models`.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="voc, coco, or a folder of your own in either layout.", show_default=False)
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of voc or coco; default ~/.torch/datasets/voc or coco.")
    ] = None,
    train_split: Annotated[
        str | None, typer.Option(help="Default 2007_trainval,2012_trainval, train2017, or a folder's own train.")
    ] = None,
    val_split: Annotated[str | None, typer.Option(help="Default 2007_test, val2017, or a folder's own val.")] = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class list of a _custom network; default the data set's own classes.")
    ] = None,
    data_shape: Annotated[int | None, typer.Option(help="Input size that the network must have, 300 or 512.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step and GPU.")] = TrainingConfig.batch_size,
    test_batch_size: Annotated[int, typer.Option(help="Images a call in validation.")] = TrainingConfig.test_batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = TrainingConfig.lr,
    lr_mode: Annotated[str, typer.Option(help="step or cos.")] = TrainingConfig.lr_mode,
    lr_decay: Annotated[
        float, typer.Option(help="Factor at each epoch of --lr-decay-epoch.")
    ] = TrainingConfig.lr_decay,
    lr_decay_epoch: Annotated[
        str, typer.Option(help="Epochs, counted from 0, that begin with a lower rate.")
    ] = ",".join(map(str, TrainingConfig.lr_decay_epoch)),
    warmup_iters: Annotated[int, typer.Option(help="Steps over which the rate rises.")] = TrainingConfig.warmup_iters,
    warmup_factor: Annotated[float, typer.Option(help="Share of the rate that it rises from.")] = (
        TrainingConfig.warmup_factor
    ),
    anchor_steps: Annotated[
        str, typer.Option(help="gluoncv, even, or auto: GluonCV's unless they leave a part of the input out.")
    ] = TrainingConfig.anchor_steps,
    max_expansion: Annotated[
        float, typer.Option(help="Largest canvas that an image is put on in augmentation, in sides of the image.")
    ] = TrainingConfig.max_expansion,
    crop: Annotated[bool, typer.Option("--crop/--no-crop", help="Train on random parts of the images.")] = True,
    momentum: Annotated[float, typer.Option(help="Share of the last step that is taken again.")] = (
        TrainingConfig.momentum
    ),
    weight_decay: Annotated[float, typer.Option(help="Of every parameter.")] = TrainingConfig.weight_decay,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = TrainingConfig.epochs,
    workers: Annotated[
        int, typer.Option("-j", "--workers", help="Processes that load images, at most one a core.")
    ] = TrainingConfig.workers,
    amp: Annotated[str, typer.Option(help="off, fp16 or bf16: what convolutions compute in.")] = TrainingConfig.amp,
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Validate and keep a moving average of the weights.")
    ] = False,
    ema_decay: Annotated[float, typer.Option(help="Share of the average that a step leaves.")] = (
        TrainingConfig.ema_decay
    ),
    sync_bn: Annotated[
        bool, typer.Option("--sync-bn/--no-sync-bn", help="Batch norm statistics over all GPUs.")
    ] = False,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Run the network through torch.compile.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--no-channels-last", help="Keep tensors in N, H, W, C order.")
    ] = False,
    resume: Annotated[
        str, typer.Option(help="auto: go on from the run folder's checkpoint, if any; or a checkpoint file.")
    ] = TrainingConfig.resume,
    pretrained_backbone: Annotated[
        str, typer.Option(help="auto: GluonCV's ImageNet weights; none; or a weight file.")
    ] = TrainingConfig.pretrained_backbone,
    init: Annotated[
        Path | None, typer.Option(help="Weights of the same network, for other classes perhaps, to start from.")
    ] = None,
    reuse_classes: Annotated[
        bool,
        typer.Option(
            "--reuse-classes/--no-reuse-classes", help="With --init, keep predictors of classes of the same name."
        ),
    ] = False,
    val_interval: Annotated[
        int | None, typer.Option(help="Epochs from one validation to the next; default 1, for COCO 10.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of order, augmentation and fresh weights.")] = TrainingConfig.seed,
    out: Annotated[Path | None, typer.Option(help="Run folder; default runs/<network>.")] = None,
    log_step: Annotated[int, typer.Option(help="Steps from one line of metrics.jsonl to the next.")] = (
        TrainingConfig.log_step
    ),
    skip_bad_images: Annotated[
        bool,
        typer.Option(
            "--skip-bad-images/--no-skip-bad-images", help="Go on without images that cannot be read, and count them."
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = TrainingConfig.device,
    limit: Annotated[int | None, typer.Option(help="Train on the first N images only.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's config.json; options given beside it win.", show_default=False)
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Start so many processes with torchrun, one a GPU.", show_default=False)
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write a picture of augmented training images, and stop.")
    ] = False,
) -> None:
    """Train a detector: GluonCV's SSD recipe, with checkpoints, validation and curves in a run folder."""
    given = _given(ctx)
    if "lr_decay_epoch" in given:
        given["lr_decay_epoch"] = _epochs(lr_decay_epoch)
    resolved = resolve(config, given)
    # PyTorch's threads otherwise spin while they wait for each other. On a CPU that the loader's processes need
    # too, a step then takes up to ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ssd_train.requirements import require

    require("torch", "train", "Training")
    require("safetensors", "train", "Training")
    if gpus is not None and "RANK" not in os.environ and not preview:
        _start_torchrun(resolved, gpus)
    from ssd_train.training import loop

    if preview:
        typer.echo(str(loop.preview(resolved)))
        return
    result = loop.train(resolved)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _given(ctx: typer.Context) -> dict[str, Any]:
    """Return the training's options that were written on the command line, defaults left out."""
    return {name: value for name, value in ctx.params.items() if name in FIELDS and _is_written(ctx, name)}


def _is_written(ctx: typer.Context, name: str) -> bool:
    # By its name, since newer releases of Typer bring a Click of their own to import it from.
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _epochs(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise SSDDeployError(f"--lr-decay-epoch {text}: expected whole numbers with commas between, such as 160,200")
    return tuple(int(part) for part in parts)


def _start_torchrun(config: TrainingConfig, gpus: int) -> NoReturn:
    """Become torchrun with so many processes of this training; signals then reach it directly."""
    import torch

    from ssd_train.files import write_json

    there = torch.cuda.device_count()
    if gpus > there:
        raise BackendError(f"--gpus {gpus}: this machine has {there} that torch {torch.__version__} can use")
    launch = config.out / "launch.json"
    write_json(launch, config.to_dict())
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(gpus)]
    os.execv(sys.executable, [sys.executable, *launcher, "-m", "ssd_train", "--config", str(launch)])
