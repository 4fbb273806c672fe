"""A training's state in a file: saved whole, read back on the CPU, and refused where it is another training's."""

import dataclasses
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssd_train.errors import SSDDeployError, WeightsError, first_line
from ssd_train.files import written_atomically
from ssd_train.input_files import open_regular
from ssd_train.paths import user_path
from ssd_train.training.checkpoint_layout import Position, check_fits, check_layout, tensors_of
from ssd_train.training.config import AUGMENTATION_FIELDS, FIELDS, TrainingConfig
from ssd_train.training.step import Trainer
from ssd_train.weights.torch_file import MOST_LETTERS, check_tensors, load_torch

CHECKPOINT_NAME = "last.ckpt"

# Of the layout of a checkpoint; another number is another layout. Version 1 is still read: see `_upgraded`.
CHECKPOINT_VERSION = 2

# Settings that a resumed training must share with its checkpoint, or it would be another one.
KEPT_SETTINGS = ("network", "seed", "amp", "ema", "freeze", "negatives", "balance", *AUGMENTATION_FIELDS)


def kept_settings(config: TrainingConfig, class_names: tuple[str, ...], num_images: int) -> dict[str, Any]:
    """Return what decides which sample a place in the stream stands for, and what the weights fit."""
    return {
        **{name: getattr(config, name) for name in KEPT_SETTINGS},
        "classes": list(class_names),
        "training images": num_images,
    }


def save_checkpoint(path: Path, trainer: Trainer, position: Position, settings: dict[str, Any]) -> None:
    """Replace a checkpoint. The random state is part of it, though nothing in a step draws from it today.

    Raises:
        SSDDeployError: no room or no permission; the earlier checkpoint then stays.
    """
    cuda = trainer.processes.device.type == "cuda"
    state = {
        **trainer.state(),
        "position": dataclasses.asdict(position),
        "random_state": torch.get_rng_state(),
        "cuda_random_state": torch.cuda.get_rng_state() if cuda else None,
        "settings": settings,
    }
    write_checkpoint(path, state)


def load_checkpoint(state: dict[str, Any], trainer: Trainer, settings: dict[str, Any]) -> Position:
    """Give a training the state that `read_checkpoint` read, and return how far it was.

    Raises:
        SSDDeployError: the checkpoint is of a training with other settings, or does not fit its network.
    """
    layout = check_layout(state)
    # An earlier version's checkpoint lacks the settings that were added since; it was made with what is their default.
    defaults = {name: FIELDS[name].default for name in KEPT_SETTINGS}
    for name, value in (defaults | layout.settings).items():
        if name not in settings or settings[name] != value:
            has = f"{name} {value}"
            raise SSDDeployError(
                f"the checkpoint was made with {has[:MOST_LETTERS]}, but this training has "
                f"{settings.get(name, 'no such setting')}; take the settings of the run folder's config.json, or start "
                "anew in another folder",
                arguments=(name, "out") if name in KEPT_SETTINGS else ("out",),
            )
    try:
        check_fits(layout, trainer)
        torch.set_rng_state(layout.random_state)
        if trainer.processes.device.type == "cuda" and layout.cuda_random_state is not None:
            torch.cuda.set_rng_state(layout.cuda_random_state)
    except (ValueError, RuntimeError, TypeError) as error:  # the latter two of a random state that is none
        raise SSDDeployError(
            f"the checkpoint is not of this training, or damaged: {first_line(error)}; name a run's "
            f"{CHECKPOINT_NAME}, or start anew in another folder",
            arguments=("resume", "out"),
        ) from error
    trainer.load_state(state)
    return layout.position


def check_folder(config: TrainingConfig) -> None:
    """Raise SSDDeployError where the run folder holds a training that this one would overwrite."""
    path = config.out / CHECKPOINT_NAME
    is_its_own = config.resume == "auto" or (config.resume != "no" and path.resolve() == Path(config.resume).resolve())
    if path.is_file() and not is_its_own:
        raise SSDDeployError(
            f"{config.out}: holds a training already; `ssd-deploy train {config.out} --resume` goes on with it, or "
            "name another folder",
            arguments=("resume", "out"),
        )


def find_checkpoint(config: TrainingConfig) -> dict[str, Any] | None:
    """Return the state to go on from, or None to start anew.

    Raises:
        SSDDeployError: as `check_folder` and `read_checkpoint`.
    """
    check_folder(config)
    if config.resume == "no":
        return None
    if config.resume != "auto":
        return read_checkpoint(Path(config.resume))
    path = config.out / CHECKPOINT_NAME
    return read_checkpoint(path) if path.is_file() else None


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write plain values and tensors, whole or not at all."""
    # By way of memory: PyTorch reports a full disk as an error of its own that names neither file nor cause.
    data = io.BytesIO()
    torch.save({**state, "version": CHECKPOINT_VERSION}, data)
    with written_atomically(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `write_checkpoint` wrote, on the CPU; nothing in the file is executed.

    Raises:
        SSDDeployError: the file is missing, damaged, or no checkpoint of a training.
    """
    try:
        with open_regular(user_path(path, arguments=("resume",))) as file:
            state, size_bytes = load_torch(file, path), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise SSDDeployError(
            f"{path}: the checkpoint cannot be read ({error.strerror}); name a run's {CHECKPOINT_NAME}",
            arguments=("resume",),
        ) from error
    except WeightsError as error:
        raise _no_whole(path, error) from error
    version = state.get("version") if isinstance(state, dict) else None
    if type(version) is not int or version not in _READ_VERSIONS:
        raise SSDDeployError(
            f"{path}: is no checkpoint of a training by this version; name a run's {CHECKPOINT_NAME}, or start from "
            "weights with init",
            arguments=("resume", "init"),
        )
    try:
        state = _READ_VERSIONS[version](state)
        check_tensors(tensors_of(check_layout(state)), path, size_bytes)
    # ValueError of the layout; the others of a first version's values, which are counted with before they are checked.
    except (WeightsError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise _no_whole(path, error) from error
    return state


def _no_whole(path: Path, error: Exception) -> SSDDeployError:
    # What is to be done about weights is another thing.
    reason = first_line(error).removeprefix(f"{path}: ").split("; ")[0][:MOST_LETTERS]
    return SSDDeployError(
        f"{path}: is no whole checkpoint of a training ({reason}); name a run's {CHECKPOINT_NAME}",
        arguments=("resume",),
    )


def _upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of version 1, which counted steps of one size and froze nothing, in the present layout."""
    settings, position = dict(state["settings"]), state["position"]
    if not isinstance(position, dict):
        raise TypeError("its position is no dict")
    step, size = position["step"], settings.pop("images a step")
    if not (type(step) is type(size) is type(settings["training images"]) is int):
        raise TypeError("its counts are no whole numbers")
    # A step counted to the epoch that it completed.
    epochs = ((step + 1) * size - 1) // settings["training images"]
    counted = {"images": step * size, "epochs": epochs, "best_epochs": position["validated_epochs"]}
    return {
        **state,
        "version": CHECKPOINT_VERSION,
        "position": {**position, **counted},
        "settings": {"freeze": "none", **settings},
    }


# Version of the layout -> what makes the present one of it.
_READ_VERSIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _upgraded,
    CHECKPOINT_VERSION: lambda state: state,
}
