"""What a training's checkpoint holds, said once: its kinds of values, and the network and optimizer that they fit."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from ssd_train.training.step import Trainer

# As far as JSON and floats count exactly.
Count = Annotated[int, Meta(ge=0, le=2**53)]
Plain = bool | int | float | str | list[str] | None


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

    step: Count = 0
    images: Count = 0
    epochs: Count = 0
    validated_epochs: Count = 0
    best: float | None = None
    best_epochs: Count = 0
    sums: Annotated[list[float], Meta(min_length=3, max_length=3)] = dataclasses.field(
        default_factory=lambda: [0.0, 0.0, 0.0]
    )
    bad_images: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_amid_epoch(self) -> bool:
        return self.sums[0] > 0


class _Group(msgspec.Struct):
    params: list[Count]
    lr: float
    momentum: float
    weight_decay: float


class _Optimizer(msgspec.Struct):
    state: dict[int, dict[str, Tensor]]
    param_groups: Annotated[list[_Group], Meta(min_length=1, max_length=1)]


class Layout(msgspec.Struct):
    """A checkpoint of the present version."""

    network: dict[str, Tensor]
    optimizer: _Optimizer
    scaler: dict[str, float]
    average: dict[str, Tensor] | None
    position: Position
    settings: dict[str, Plain]
    random_state: Tensor
    cuda_random_state: Tensor | None


def check_layout(state: Mapping[str, Any]) -> Layout:
    """Return a checkpoint as its kinds of values, each looked at.

    Raises:
        ValueError: one is missing or of another kind; the text says which and is no sentence yet.
    """
    for name in ("network", "optimizer", "scaler", "position", "settings"):
        # A tensor would be indexed like one.
        if not isinstance(state.get(name), dict):
            raise ValueError(f"{name} is a {type(state.get(name)).__name__}, expected a dict")
    try:
        layout = msgspec.convert(state, Layout, dec_hook=_as_it_is)
        foreign = state["position"].keys() ^ {field.name for field in dataclasses.fields(Position)}
    except (AttributeError, TypeError, RuntimeError) as error:  # of tensors where there should be something else
        raise ValueError(f"a value is of another kind: {error}") from error
    if foreign:
        raise ValueError(f"position has other entries than a training's: {min(map(str, foreign))[:80]}")
    group, position = layout.optimizer.param_groups[0], layout.position
    numbers = {
        "optimizer": (group.lr, group.momentum, group.weight_decay),
        "scaler": tuple(layout.scaler.values()),
        "position.best": (position.best or 0.0,),
        "position.sums": tuple(position.sums),
    }
    for name, values in numbers.items():
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"{name} has numbers below 0, or that are not finite")
    if not max(position.validated_epochs, position.best_epochs) <= position.epochs <= position.images >= position.step:
        raise ValueError("the counts of its position contradict each other")
    return layout


def tensors_of(layout: Layout) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a checkpoint with a name."""
    yield from layout.network.items()
    yield from (layout.average or {}).items()
    for kept in layout.optimizer.state.values():
        yield from kept.items()
    yield "random_state", layout.random_state
    if layout.cuda_random_state is not None:
        yield "cuda_random_state", layout.cuda_random_state


def check_fits(layout: Layout, trainer: Trainer) -> None:
    """Hold a checkpoint's tensors against the training that is to go on from it.

    Raises:
        ValueError: as `check_layout`.
    """
    networks = {"network": (layout.network, trainer.network.state_dict())}
    if trainer.average is not None:
        networks["average"] = (layout.average or {}, trainer.average.network.state_dict())
    for part, (found, own) in networks.items():
        _check_same(part, found, own)
    params = trainer.optimizer.param_groups[0]["params"]
    if layout.optimizer.param_groups[0].params != list(range(len(params))):
        raise ValueError("optimizer is of other parameters")
    for index, kept in layout.optimizer.state.items():
        if not 0 <= index < len(params):
            raise ValueError(f"optimizer has a parameter {index} of {len(params)}")
        _check_same(f"optimizer.state[{index}]", kept, {"last_step": params[index]})
    missing = trainer.scaler.state_dict().keys() - layout.scaler.keys()
    if missing or layout.scaler.get("scale", 1.0) <= 0:
        raise ValueError("scaler is not that of a training in half precision")
    if layout.random_state.shape != torch.get_rng_state().shape or layout.random_state.dtype != torch.uint8:
        raise ValueError("random_state is none of this PyTorch")


def _check_same(part: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if found.keys() != own.keys():
        name = min(found.keys() ^ own.keys())
        raise ValueError(f"{part} {'has the unknown' if name in found else 'lacks'} {name[:80]}")
    for name, tensor in found.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            raise ValueError(
                f"{part}.{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, not {own[name].dtype} of shape "
                f"{tuple(own[name].shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{part}.{name} has values that are not finite")


def _as_it_is(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
