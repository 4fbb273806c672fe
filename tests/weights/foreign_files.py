"""A network's tensors under the names of foreign files, written anew from the table of layers."""

import torch

from ssd_train.weights.layer_names import layer_names

STORED_CELLS = (128, 64, 32, 16, 16, 16, 16)
MXNET_SUFFIXES = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def foreign_names(network, scheme):
    """Our name -> the file's, written anew from the layer table; anchors apart."""
    names = {}
    state = network.state_dict()
    for layer in layer_names(network.config):
        prefix = getattr(layer, scheme)
        for name in state:
            suffix = name.removeprefix(layer.ours)
            if not name.startswith(layer.ours) or "." in suffix or suffix == "num_batches_tracked":
                continue
            if layer.ours + "running_mean" in state:
                suffix = MXNET_SUFFIXES[suffix]
                if "expand" in prefix:
                    suffix = suffix.replace("running", "moving")
            names[name] = prefix + suffix
    return names


def params_of(network, scheme):
    """A network's tensors as GluonCV would have saved them."""
    state = network.state_dict()
    arrays = {name: state[ours].clone() for ours, name in foreign_names(network, scheme).items()}
    offset = 0
    for level, ((rows, columns), count) in enumerate(
        zip(network.config.feature_sizes, network.config.anchors_per_cell, strict=True)
    ):
        stored = torch.full((1, 1, STORED_CELLS[level], STORED_CELLS[level], 4 * count), -7.0)
        size = rows * columns * count
        stored[0, 0, :rows, :columns] = network.anchors[offset : offset + size].reshape(rows, columns, -1)
        offset += size
        name = (
            f"anchor_generators.{level}.anchors" if scheme == "dotted" else f"ssdanchorgenerator{level}_anchor_{level}"
        )
        arrays[name] = stored
    return arrays


def pytorch_cv_tensors(network):
    """A network's tensors as the pytorch-cv project would have saved them."""
    tensors = {}
    state = network.state_dict()
    for layer in layer_names(network.config):
        for name in state:
            suffix = name.removeprefix(layer.ours)
            if name.startswith(layer.ours) and "." not in suffix:
                suffix = "normalize_scale" if suffix == "scale" else suffix
                tensors[layer.pytorch_cv + suffix] = state[name].clone()
    for name, array in params_of(network, "dotted").items():
        if name.startswith("anchor_generators"):
            tensors[name.removesuffix("s")] = array
    return tensors
