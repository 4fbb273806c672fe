"""Checkpoints of the pytorch-cv project: some were converted from GluonCV, some trained with that port.

GluonCV computes the batch norms of the added levels with scales of 1, whatever a file says, and an epsilon of 1e-3.
The port computes them with the scales in the file and PyTorch's 1e-5. A converted file holds scales of 1 and is
meant to compute as GluonCV does; a trained one computes as it was trained. The scales tell which it is.
"""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks.feature_expander import EXPANDED_BN_EPS
from ssd_train.networks.ssd import SSD
from ssd_train.weights.description import BatchNorm
from ssd_train.weights.layer_names import layer_names, tensor_names
from ssd_train.weights.mapping import select

_log = logging.getLogger(__name__)

# Whose arithmetic the batch norms of the added levels have.
Owner = Literal["gluoncv", "own"]

PYTORCH_BN_EPS = 1e-5

# MXNet sets these scales to 1 in every forward pass; what weight decay does to them between two is far less.
SCALE_TOLERANCE = 1e-3

_SCALE_NAME = r"features\.extras\.\d+\.[14]\.weight"


def is_pytorch_cv(names: Collection[str]) -> bool:
    """True for a pytorch-cv checkpoint: it keeps its anchors by level, our own files keep one table."""
    return any(re.fullmatch(r"anchor_generators\.\d+\.anchor", name) for name in names)


def batch_norm_of(tensors: Mapping[str, Tensor], batch_norm: BatchNorm = "auto") -> Owner | None:
    """Return whose batch norms a checkpoint of pytorch-cv gets; None where its added levels have none (VGG).

    Args:
        tensors: by pytorch-cv's names.
        batch_norm: `auto` looks at the scales: GluonCV's where all lie within 1e-3 of 1. The others decide.
    """
    scales = [tensor for name, tensor in tensors.items() if re.fullmatch(_SCALE_NAME, name)]
    if not scales:
        return None
    if batch_norm != "auto":
        return batch_norm
    # The relative part is float32's rounding of 1.001.
    near_one = (torch.allclose(s.float(), torch.ones(()), rtol=1e-6, atol=SCALE_TOLERANCE) for s in scales)
    return "gluoncv" if all(near_one) else "own"


def pytorch_cv_state(
    tensors: Mapping[str, Tensor], network: SSD, source: Path, batch_norm: BatchNorm = "auto"
) -> dict[str, Tensor]:
    """Rename the content of a checkpoint of pytorch-cv, and keep its arithmetic or give it GluonCV's.

    Args:
        batch_norm: see `batch_norm_of`.

    The other arguments, result and errors are those of `mapping.mxnet_state`.
    """
    names = list(network.state_dict())
    expected: dict[str, str] = {}
    for layer in layer_names(network.config):
        if not layer.pytorch_cv:
            raise WeightsError(
                f"{source}: pytorch-cv has no {network.config.backbone}; name the network that the file was made for",
                arguments=("network",),
            )
        for ours, _ in tensor_names(names, layer.ours):
            suffix = ours.removeprefix(layer.ours)
            expected[ours] = layer.pytorch_cv + ("normalize_scale" if suffix == "scale" else suffix)
    anchors = [f"anchor_generators.{i}.anchor" for i in range(len(network.config.feature_sizes))]
    rest = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    state = select(rest, expected, anchors, network, source)
    owner = batch_norm_of(tensors, batch_norm)
    if owner is None:
        return state
    _log.info("%s: %s", source, _describe(owner, batch_norm))
    for name in state:
        if ".extras." not in name or not name.endswith("bn.weight"):
            continue
        if owner == "gluoncv":
            state[name] = torch.ones_like(state[name])
        else:
            variance = state[name.replace("weight", "running_var")]
            state[name] = _scale_for_our_epsilon(state[name], variance, f"{source}: {name}")
    return state


def _scale_for_our_epsilon(scale: Tensor, variance: Tensor, what: str) -> Tensor:
    """Return the scale that gives with GluonCV's epsilon, which our layers have, what `scale` gives with PyTorch's.

    Taken into the variance instead, the difference would make small ones negative, and 1e-5 of what is computed
    with them would be lost to rounding.
    """
    variance = variance.double()
    if bool((variance + PYTORCH_BN_EPS <= 0).any()):
        raise WeightsError(f"{what}: belongs to a variance below 0, which is no statistic; use another copy")
    factor = torch.sqrt((variance + EXPANDED_BN_EPS) / (variance + PYTORCH_BN_EPS))
    return (scale.double() * factor).to(scale.dtype)


def _describe(owner: Owner, batch_norm: BatchNorm) -> str:
    """Say which arithmetic a checkpoint got, and why."""
    if batch_norm != "auto":
        why = f"as asked for with batch_norm {batch_norm!r}"
    elif owner == "gluoncv":
        why = f"since all their scales lie within {SCALE_TOLERANCE:g} of 1, so it was converted from GluonCV"
    else:
        why = f"since not all their scales lie within {SCALE_TOLERANCE:g} of 1, so it was trained with pytorch-cv"
    whose = {"gluoncv": "GluonCV's (scales 1, epsilon 1e-3)", "own": "its own (epsilon 1e-5)"}[owner]
    return f"pytorch-cv checkpoint; the batch norms of the added levels are {whose}, {why}"
