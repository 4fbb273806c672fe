"""Weights to start a training from: fresh ones, an ImageNet backbone, or another detector's."""

import dataclasses
import math
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ssd_train.errors import NetworkError, WeightsError
from ssd_train.networks.any_size import has_same_levels, preset_row
from ssd_train.networks.build import build_ssd
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.feature_expander import ExpandedLevel
from ssd_train.networks.ssd import SSD, ConvPredictor
from ssd_train.networks.vgg_atrous import L2Normalize
from ssd_train.networks.zoo import COCO_CLASSES, NETWORKS, VOC_CLASSES, find_network
from ssd_train.weights.backbone import load_backbone
from ssd_train.weights.foreign import shapes_of
from ssd_train.weights.layer_names import canonical_name
from ssd_train.weights.network_file import foreign_layout, known_classes, network_name, state_for
from ssd_train.weights.weight_file import WeightFile, read_tensors

# MXNet's default initialiser, which GluonCV's added levels get.
ADDED_LEVEL_RANGE = 0.07
L2_SCALE = 20.0


@torch.no_grad()
def initialise(network: SSD, seed: int) -> None:
    """Draw every weight as GluonCV does before it loads a backbone, the same for the same seed.

    Convolutions of backbone and extras: normal with variance 2 / fan-out, which suits ReLU (He et al.,
    Delving Deep into Rectifiers, section 2.2). Predictors: uniform (Glorot and Bengio, section 4.2.1) with
    GluonCV's magnitude of 2. Levels added with batch norm: uniform in +-0.07; their running statistics
    start at 0 and 1, where GluonCV draws them too, negative variances included.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.weight[0, 0].numel() / module.groups
            module.weight.normal_(0, math.sqrt(2 / fan_out), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, L2Normalize):
            module.scale.fill_(L2_SCALE)
    for module in network.modules():
        if isinstance(module, ExpandedLevel):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.uniform_(-ADDED_LEVEL_RANGE, ADDED_LEVEL_RANGE, generator=generator)
        elif isinstance(module, ConvPredictor):
            predictor = module.predictor
            mean_fan = predictor.weight[0, 0].numel() * (predictor.in_channels + predictor.out_channels) / 2
            bound = math.sqrt(2 / mean_fan)
            predictor.weight.uniform_(-bound, bound, generator=generator)
            cast(Tensor, predictor.bias).zero_()


@torch.no_grad()
def reuse_class_predictors(network: SSD, source: SSD) -> tuple[str, ...]:
    """Copy the class predictors' rows of classes that both networks know by name, and of the background.

    All else of the class predictors stays, as GluonCV's `reset_class` leaves it.

    Args:
        network, source: the same architecture with their class lists.

    Returns:
        The names that were found; none, and nothing is copied, where the lists share none.
    """
    theirs = {name: row for row, name in enumerate(source.config.class_names, start=1)}
    shared = [(row, theirs[name]) for row, name in enumerate(network.config.class_names, start=1) if name in theirs]
    if not shared:
        return ()
    rows, source_rows = ([0, *column] for column in zip(*shared, strict=True))
    for head, source_head in zip(network.class_predictors, source.class_predictors, strict=True):
        _copy_rows(cast(ConvPredictor, head), rows, cast(ConvPredictor, source_head), source_rows)
    return tuple(network.config.class_names[row - 1] for row in rows[1:])


def _copy_rows(head: ConvPredictor, rows: list[int], source: ConvPredictor, source_rows: list[int]) -> None:
    # A predictor's channels are anchor-major: all columns of the first anchor, then of the second.
    for own, other in ((head.predictor.weight, source.predictor.weight), (head.predictor.bias, source.predictor.bias)):
        assert own is not None and other is not None
        own.unflatten(0, (-1, head.values))[:, rows] = other.unflatten(0, (-1, source.values))[:, source_rows]


def start_from(network: SSD, path: Path, *, reuse_classes: bool) -> str:
    """Give a network everything of another detector of its architecture, anchors included, but class predictors.

    Class predictors come along too where both class lists are the same; otherwise only with `reuse_classes`, and then
    the rows of classes with the same name. The detector may have another input size; the network's own anchors stay
    then. Of other levels on the same backbone the backbone alone is taken.

    Args:
        network: of the new class list, freshly initialised; changed in place.
        path: weights in any format that is read. Files of this project bring their class list; of others as many
            classes as `network` has are taken for its own, 20 for Pascal VOC's, 80 for COCO's, and what is usual for
            their network.

    Returns:
        A sentence that says what was taken.

    Raises:
        WeightsError: the file cannot be read or does not fit, or its class list is unknown.
    """
    file = read_tensors(path)
    theirs = _network_of(file, network.config)
    if not has_same_levels(theirs, network.config):
        load_backbone(network, path)
        return (
            f"started from the backbone of {path}, which is of {theirs.name}; added levels and all predictors are fresh"
        )
    source = _read_detector(network.config, theirs, file)
    state = source.state_dict()
    if source.config.input_size != network.config.input_size:
        del state["anchors"]
    same_classes = source.config.class_names == network.config.class_names
    if not same_classes:
        state = {name: value for name, value in state.items() if not name.startswith("class_predictors.")}
    network.load_state_dict(state, strict=False)
    if same_classes:
        return f"started from {path}, class predictors included"
    reused = reuse_class_predictors(network, source) if reuse_classes else ()
    return (
        f"started from {path} ({len(source.config.class_names)} classes); class predictors of "
        f"{', '.join(reused) if reused else 'no class'} reused, {len(network.config.class_names) - len(reused)} fresh"
    )


def _network_of(file: WeightFile, config: NetworkConfig) -> NetworkConfig:
    """Return the network that a file's weights are of; raise WeightsError unless it is on the backbone of `config`."""
    name = network_name(file)
    if name is None:
        return _row_of_unnamed(file, config)
    start = f"{file.path}: holds weights of {name}, which {config.name} cannot start from"
    try:
        theirs = find_network(name)
    except NetworkError as error:
        raise WeightsError(
            f"{start}, since there is no such network; name other weights", arguments=("init",)
        ) from error
    if theirs.backbone != config.backbone:
        raise WeightsError(
            f"{start}: its backbone is {theirs.backbone}, and not {config.backbone}; name weights of a network on that "
            "one, or train the network that these are of",
            arguments=("init", "network"),
        )
    return theirs


def _read_detector(config: NetworkConfig, theirs: NetworkConfig, file: WeightFile) -> SSD:
    """Build the network that a file's weights are of, with its class list.

    Args:
        config: the network that is to start from it, for the class list of files that bring none.
        theirs: as `_network_of` finds it.
    """
    path = file.path
    classes = known_classes(file)
    if classes is None:
        count = _num_classes(file, theirs)
        known = {
            len(names): names
            for names in (config.class_names, COCO_CLASSES, VOC_CLASSES, theirs.default_class_names)
            if names
        }
        if count not in known:
            of_any_classes = theirs.name.rsplit("_", 1)[0] + "_custom" if theirs.class_names else theirs.name
            raise WeightsError(
                f"{path}: predicts {count} classes and does not say which; convert it with `ssd-deploy convert "
                f"--network {of_any_classes} --classes FILE` and start from the result"
            )
        classes = known[count]
    source = build_ssd(dataclasses.replace(theirs, class_names=classes))
    source.load_state_dict(state_for(source, file))
    return source


def _num_classes(file: WeightFile, theirs: NetworkConfig) -> int:
    """Return how many classes a detector without a class list tells apart; raise WeightsError where it is none."""
    layout = foreign_layout(file)
    if layout is not None and layout.num_classes is not None:
        return layout.num_classes(shapes_of(file.tensors))
    named = {canonical_name(name): tensor for name, tensor in file.tensors.items()}
    bias = named.get("class_predictors.0.predictor.bias", named.get("convpredictor0_conv0_bias"))
    if bias is None:
        raise WeightsError(
            f"{file.path}: has no class predictors, so it is no detector; a backbone goes into pretrained_backbone",
            arguments=("init", "pretrained_backbone"),
        )
    return bias.numel() // theirs.anchors_per_cell[0] - 1


def _row_of_unnamed(file: WeightFile, config: NetworkConfig) -> NetworkConfig:
    """Return what a file without a name is taken to be of: of `config`, but other projects only know the table."""
    is_ours = "anchors" in file.tensors
    return config if is_ours or config.name in NETWORKS else preset_row(config.backbone, NETWORKS.values())
