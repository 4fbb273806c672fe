"""A weight file -> a network with those weights, and back to a file of this project's own."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.escaped_text import escaped
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import NETWORKS, find_network, network_config
from ssd_train.weights.description import BatchNorm, stored_classes
from ssd_train.weights.foreign import ForeignLayout, classes_beside, layout_of, shapes_of
from ssd_train.weights.layer_names import has_names
from ssd_train.weights.mapping import mxnet_state, select
from ssd_train.weights.packed import PACKED, pack
from ssd_train.weights.pytorch_cv import batch_norm_of, is_pytorch_cv, pytorch_cv_state
from ssd_train.weights.thresholds_file import read_thresholds
from ssd_train.weights.weight_file import WeightFile, read_tensors, write_safetensors, write_torch

_log = logging.getLogger(__name__)

# What a file must be called to be written as a PyTorch checkpoint.
TORCH_SUFFIXES = (".pth", ".pt")


def read_network(name: str, path: Path, classes: Sequence[str] | None = None, *, batch_norm: BatchNorm = "auto") -> SSD:
    """Build a network with the weights of a file; see `ssd_train.build_network` for all but None and random ones.

    Raises:
        NetworkError: no such network, or a class list that does not belong to it.
        WeightsError: the file cannot be read, or is not for this network, classes or `batch_norm`.
    """
    file = read_tensors(path)
    name = find_network(name).name
    made_for = network_name(file)
    if made_for not in (None, name) and not _is_of_layout(file, name):
        raise WeightsError(
            f"{path}: holds weights of {made_for}, not of {name}; name that network", arguments=("network",)
        )
    config = network_config(name, known_classes(file) if classes is None else classes)
    # On the meta device nothing is initialised that the file replaces anyway.
    with torch.device("meta"):
        network = build_ssd(config)
    network.load_state_dict(state_for(network, file, batch_norm), assign=True)
    network.spec = dataclasses.replace(
        network.spec,
        weights=_provenance(file, batch_norm),
        weights_sha256=file.sha256,
        working_thresholds=read_thresholds(path, config.class_names, file.sha256),
    )
    return network


def foreign_layout(file: WeightFile) -> ForeignLayout | None:
    """Return the layout of another project's tensors; None for ours, GluonCV's and pytorch-cv's.

    Raises:
        WeightsError: it is known and not read.
    """
    if "network" in file.metadata or file.format == "params":
        return None
    return layout_of(shapes_of(file.tensors), file.path)


def network_name(file: WeightFile) -> str | None:
    """Return the network that a file's weights are of, as it says itself or its layout tells; None for neither."""
    layout = foreign_layout(file)
    if layout is not None and layout.network_of is not None:
        return layout.network_of(shapes_of(file.tensors))
    return file.metadata.get("network")


def _is_of_layout(file: WeightFile, name: str) -> bool:
    """Whether another project's tensors, which tell a backbone but no input size, fit a network of another size."""
    layout = foreign_layout(file)
    if layout is None or layout.network_of is None:
        return False
    return find_network(layout.network_of(shapes_of(file.tensors))).backbone == find_network(name).backbone


def known_classes(file: WeightFile) -> tuple[str, ...] | None:
    """Return the class list that a file carries, or that its project has written beside it; None for neither.

    Raises:
        SpecError, WeightsError: it cannot be used, or is of another number of classes.
    """
    stored = stored_classes(file.metadata, file.path)
    layout = foreign_layout(file)
    names = classes_beside(layout, file.path)
    if stored is not None or names is None:
        return stored
    assert layout is not None and layout.num_classes is not None
    count = layout.num_classes(shapes_of(file.tensors))
    if count != len(names):
        raise WeightsError(
            f"{file.path}: predicts {count} classes, but {layout.class_file} beside it names {len(names)}; give the "
            "class list that it was trained with",
            arguments=("classes",),
        )
    _log.info("%s: class names from %s beside it", file.path, layout.class_file)
    return names


def state_for(network: SSD, file: WeightFile, batch_norm: BatchNorm = "auto") -> dict[str, Tensor]:
    """Rename and check a weight file's tensors for a network.

    Raises:
        WeightsError: the file is for another network, or parameters are missing, unexpected or misshapen; or
            `batch_norm` is not `auto` and the file is no checkpoint of pytorch-cv with such batch norms.
    """
    of_pytorch_cv = file.format != "params" and is_pytorch_cv(file.tensors)
    layout = foreign_layout(file)
    if batch_norm != "auto" and not (of_pytorch_cv and batch_norm_of(file.tensors)):
        raise WeightsError(
            f"{file.path}: batch_norm {batch_norm!r} is for checkpoints of pytorch-cv with batch norms in the added "
            "levels, and this file is none; leave it out",
            arguments=("batch_norm",),
        )
    is_theirs = network.config.name in NETWORKS and has_names(network.config)
    if not is_theirs and (file.format == "params" or of_pytorch_cv):
        raise WeightsError(
            f"{file.path}: comes from another project, which has no {network.config.name}; name the network of the "
            "table that it was made for, or train this one with init from it",
            arguments=("network",),
        )
    if layout is not None and layout.state is not None:
        return layout.state(file.tensors, network, file.path)
    if file.format == "params":
        return mxnet_state(file.tensors, network, file.path)
    if of_pytorch_cv:
        return pytorch_cv_state(file.tensors, network, file.path, batch_norm)
    stored = stored_classes(file.metadata, file.path)
    if stored is not None and stored != network.config.class_names:
        raise WeightsError(
            f"{file.path}: was saved for the classes {', '.join(stored)}, which is not the class list given; "
            "leave that out to use the file's own",
            arguments=("classes",),
        )
    return select(file.tensors, {name: name for name in network.state_dict()}, [], network, file.path)


def save_network(network: SSD, path: Path, packed: bool = False) -> None:
    """Write a network with its name, class list and the origin of its weights.

    Args:
        network: anything but its tensors and description stays behind.
        path: replaced if it exists; its folder is made. `.pth` and `.pt` make a PyTorch checkpoint of it, any
            other name safetensors.
        packed: write kernels in 8 bits, a quarter of the size. What is read back then differs from `network`,
            so measure what was read.

    Raises:
        WeightsError: `packed`, and a kernel has NaN or infinite values.
        SSDDeployError: the file cannot be written; an existing one then stays.
    """
    name, class_names, spec = network.config.name, network.config.class_names, network.spec
    origin = {"source": spec.weights, "source_sha256": spec.weights_sha256}
    tensors = network.state_dict()
    if packed:
        tensors, origin = pack(tensors), {**origin, "packed": PACKED}
    if path.suffix.lower() in TORCH_SUFFIXES:
        write_torch(path, tensors, {"network": name, "class_names": list(class_names), **origin})
    else:
        write_safetensors(path, tensors, {"network": name, "class_names": json.dumps(class_names), **origin})


def _provenance(file: WeightFile, batch_norm: BatchNorm) -> str:
    """Say what a network's weights came from; a converted file still says what it was made from."""
    source = file.metadata.get("source")
    layout = foreign_layout(file)
    if layout is not None:
        source = layout.name
    if file.format != "params" and is_pytorch_cv(file.tensors):
        owner = batch_norm_of(file.tensors, batch_norm)
        source = "pytorch-cv"
        if owner is not None:
            source += f", with {'GluonCV' if owner == 'gluoncv' else 'pytorch-cv'}'s batch norms in the added levels"
    # Formats of weights and networks hold valid text alone.
    return escaped(file.path.name if source is None else f"{file.path.name}, from {source}")
