"""A training's state in a file: saved whole, read back on the CPU, and refused where it is another training's."""

import dataclasses
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from ssd_train.errors import SSDDeployError
from ssd_train.files import written_atomically
from ssd_train.training.config import AUGMENTATION_FIELDS, FIELDS, TrainingConfig
from ssd_train.training.step import Trainer

CHECKPOINT_NAME = "last.ckpt"

# Of the layout of a checkpoint; another number is another layout. Version 1 is still read: see `_upgraded`.
CHECKPOINT_VERSION = 2

# Settings that a resumed training must share with its checkpoint, or it would be another one.
KEPT_SETTINGS = ("network", "seed", "amp", "ema", "freeze", "negatives", "balance", *AUGMENTATION_FIELDS)


@dataclasses.dataclass
class Position:
    """How far a training is; part of its checkpoints.

    Attributes:
        step: steps done.
        images: images taken by them; the place in the stream, whatever the size of the steps was.
        epochs: epochs done.
        validated_epochs: epochs done when it was last validated.
        best: highest validation score so far.
        best_epochs: epochs done when it was reached.
        sums: of this epoch: steps, classification loss, localisation loss.
        bad_images: sentences about training images that could not be read, each once.
    """

    step: int = 0
    images: int = 0
    epochs: int = 0
    validated_epochs: int = 0
    best: float | None = None
    best_epochs: int = 0
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    bad_images: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_amid_epoch(self) -> bool:
        return self.sums[0] > 0


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
        SSDDeployError: the checkpoint is of a training with other settings.
    """
    # An earlier version's checkpoint lacks the settings that were added since; it was made with what is their default.
    defaults = {name: FIELDS[name].default for name in KEPT_SETTINGS}
    for name, value in (defaults | state["settings"]).items():
        if settings[name] != value:
            raise SSDDeployError(
                f"the checkpoint was made with {name} {value}, but this training has {settings[name]}; take the "
                "settings of the run folder's config.json, or start anew in another folder",
                arguments=(name, "out") if name in KEPT_SETTINGS else ("out",),
            )
    trainer.load_state(state)
    torch.set_rng_state(state["random_state"])
    if trainer.processes.device.type == "cuda" and state["cuda_random_state"] is not None:
        torch.cuda.set_rng_state(state["cuda_random_state"])
    return Position(**state["position"])


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
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise SSDDeployError(
            f"{path}: the checkpoint cannot be read ({error.strerror}); name a run's {CHECKPOINT_NAME}",
            arguments=("resume",),
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise SSDDeployError(
            f"{path}: is no whole checkpoint of a training; name a run's {CHECKPOINT_NAME}", arguments=("resume",)
        ) from error
    if isinstance(state, dict) and state.get("version") == 1 and {"position", "settings"} <= state.keys():
        return _upgraded(state)
    if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION:
        raise SSDDeployError(
            f"{path}: is no checkpoint of a training by this version; name a run's {CHECKPOINT_NAME}, or start from "
            "weights with init",
            arguments=("resume", "init"),
        )
    return state


def _upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of version 1, which counted steps of one size and froze nothing, in the present layout."""
    settings, position = dict(state["settings"]), state["position"]
    step, size = position["step"], settings.pop("images a step")
    # A step counted to the epoch that it completed.
    epochs = ((step + 1) * size - 1) // settings["training images"]
    counted = {"images": step * size, "epochs": epochs, "best_epochs": position["validated_epochs"]}
    return {
        **state,
        "version": CHECKPOINT_VERSION,
        "position": {**position, **counted},
        "settings": {"freeze": "none", **settings},
    }
