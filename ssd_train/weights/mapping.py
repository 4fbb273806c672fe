"""The tensors of a GluonCV file, or of one of our own, renamed and checked for a network; for pytorch-cv see there."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.ssd import SSD
from ssd_train.weights.layer_names import canonical_name, layer_names, tensor_names

# How many names an error lists before it stops.
LISTED = 3

# What is wrong with a file -> the whole error.
Misfit = Callable[[str], WeightsError]


def mxnet_state(arrays: Mapping[str, Tensor], network: SSD, source: Path) -> dict[str, Tensor]:
    """Rename the content of a GluonCV `.params` file.

    Args:
        arrays: names and tensors of the file, either naming scheme.
        network: the network they are for; may live on the meta device.
        source: the file, for errors.

    Returns:
        A state dict that `network.load_state_dict` takes strictly.

    Raises:
        WeightsError: parameters are missing, unexpected, or have the wrong shape.
    """
    is_dotted = any("." in name for name in arrays)
    renamed = {canonical_name(name): tensor for name, tensor in arrays.items()}
    names = list(network.state_dict())
    expected: dict[str, str] = {}
    for layer in layer_names(network.config):
        prefix = layer.dotted if is_dotted else layer.legacy
        for ours, suffix in tensor_names(names, layer.ours):
            name = prefix + suffix
            expected[ours] = name.replace("running_", "moving_") if "expand_" in prefix else name
    levels = range(len(network.config.feature_sizes))
    anchors = [f"anchor_generators.{i}.anchors" if is_dotted else f"ssdanchorgenerator{i}_anchor_{i}" for i in levels]
    return with_fixed_gammas(select(renamed, expected, anchors, network, source))


def with_fixed_gammas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply MXNet's fix_gamma: these batch norms compute with 1, whatever the file holds."""
    return {
        name: torch.ones_like(tensor)
        if name.endswith("bn.weight") and ".extras." in name or name.endswith("input_bn.weight")
        else tensor
        for name, tensor in state.items()
    }


def select(
    tensors: Mapping[str, Tensor], expected: Mapping[str, str], anchor_names: list[str], network: SSD, source: Path
) -> dict[str, Tensor]:
    """Pick every expected tensor, strictly, and put the anchors of the levels into one table.

    Args:
        tensors, network, source: as `mxnet_state`, whose result and errors these are too.
        expected: our name -> the file's.
        anchor_names: the file's, by level; empty where it has our table.
    """
    config = network.config

    # Which network another project's file is of was told by its tensors already.
    is_told = config.project not in ("gluoncv", "ssd-deploy")
    remedy = "use a whole copy of the file" if is_told else "name the network that the file was made for"

    def misfit(what: str) -> WeightsError:
        return WeightsError(
            f"{source}: does not fit {config.name}: {what}; {remedy}",
            arguments=("network",),
        )

    check_names(tensors, [*expected.values(), *anchor_names], misfit)
    own = network.state_dict()
    columns, rest = divmod(tensors[expected["class_predictors.0.predictor.bias"]].numel(), config.anchors_per_cell[0])
    if rest or columns != len(config.class_names) + 1:
        advice = (
            f"give the names of its {columns - 1} classes"
            if config.default_class_names
            else "choose the network of that data set, or a _custom one with its class names"
        )
        raise WeightsError(
            f"{source}: predicts {columns - 1} classes, but {config.name} has {len(config.class_names)}; {advice}",
            arguments=("network", "classes"),
        )
    state = pick(tensors, expected, own, misfit)
    for name in own:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    if anchor_names:
        state["anchors"] = _anchor_table([tensors[name] for name in anchor_names], config, misfit)
    check_finite(state, source)
    return state


def check_names(names: Collection[str], wanted: Collection[str], misfit: Misfit) -> None:
    """Raise what `misfit` makes of it unless a file has the names wanted and no other."""
    known = set(wanted)
    missing = [name for name in wanted if name not in names]
    unexpected = [name for name in names if name not in known]
    if missing or unexpected:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has the unexpected {_listed(unexpected)}"] if unexpected else []
        raise misfit(f"it {' and '.join(parts)}")


def pick(
    tensors: Mapping[str, Tensor], expected: Mapping[str, str], own: Mapping[str, Tensor], misfit: Misfit
) -> dict[str, Tensor]:
    """Rename a file's tensors: `expected` is our name -> the file's, `own` has the shapes and dtypes by our name.

    Raises what `misfit` makes of shapes that differ.
    """
    state: dict[str, Tensor] = {}
    wrong = []
    for ours, name in expected.items():
        if tensors[name].shape != own[ours].shape:
            wrong.append(f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[ours].shape)}")
        elif not wrong:
            # Published files are float32; anything narrower is widened, integers (counters) stay.
            state[ours] = tensors[name].to(own[ours].dtype)
    if wrong:
        raise misfit(_listed(wrong))
    return state


def check_finite(state: Mapping[str, Tensor], source: Path) -> None:
    """Raise WeightsError where a tensor has NaN or infinite values."""
    not_finite = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if not_finite:
        raise WeightsError(f"{source}: holds values that are not finite in {_listed(not_finite)}; use another copy")


def _anchor_table(levels: list[Tensor], config: NetworkConfig, misfit: Misfit) -> Tensor:
    """Cut each level's stored map (1, 1, rows, columns, 4 * anchors per cell) to its feature map: (A, 4)."""
    table = []
    sizes = zip(levels, config.feature_sizes, config.anchors_per_cell, strict=True)
    for level, (stored, (rows, columns), count) in enumerate(sizes):
        shape = tuple(stored.shape)
        is_map = len(shape) == 5 and shape[:2] == (1, 1) and shape[4] == 4 * count
        if not is_map or shape[2] < rows or shape[3] < columns:
            expected = f"(1, 1, {rows} or more, {columns} or more, {4 * count})"
            raise misfit(f"anchors of level {level} have shape {shape}, expected {expected}")
        table.append(stored[0, 0, :rows, :columns].reshape(-1, 4))
    return torch.cat(table).to(torch.float32)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"
