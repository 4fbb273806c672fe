"""Parameter names of the published formats -> this project's names.

Three foreign schemes name the same layers:
- GluonCV structural ("dotted"), what `save_parameters` writes;
- GluonCV prefixes ("legacy"), what `save_params` writes;
- the state dicts that the pytorch-cv project published.

Each layer of a network is listed once with its four prefixes; the names of the tensors inside a
layer follow from its kind.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks import resnet_v2
from ssd_train.networks.feature_expander import EXPANDED_BN_EPS
from ssd_train.networks.ssd import SSD
from ssd_train.networks.vgg_atrous import CONVS_OF_GROUP
from ssd_train.networks.zoo import NetworkConfig


class LayerNames(NamedTuple):
    """One layer under every scheme; a prefix carries its separator, "" where the scheme lacks the layer."""

    ours: str
    dotted: str
    legacy: str
    pytorch_cv: str = ""


# Our name of a tensor in a batch norm -> MXNet's (the expanded levels say `moving`).
MXNET_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "running_mean",
    "running_var": "running_var",
}

# pytorch-cv trained this network itself, with PyTorch's default epsilon and a trained gamma in the
# expanded levels; all others it converted from GluonCV.
TRAINED_BY_PYTORCH_CV = "ssd_512_resnet50_v1s_voc"
PYTORCH_BN_EPS = 1e-5

# How many names an error lists before it stops.
LISTED = 3


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
    return with_fixed_gammas(_take(renamed, expected, anchors, network, source))


def with_fixed_gammas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply MXNet's fix_gamma: these batch norms compute with 1, whatever the file holds."""
    return {
        name: torch.ones_like(tensor)
        if name.endswith("bn.weight") and ".extras." in name or name.endswith("input_bn.weight")
        else tensor
        for name, tensor in state.items()
    }


def pytorch_cv_state(tensors: Mapping[str, Tensor], network: SSD, source: Path) -> dict[str, Tensor]:
    """Rename the content of a checkpoint that the pytorch-cv project published.

    Networks that were converted from GluonCV get GluonCV's arithmetic back (gamma 1 and epsilon 1e-3
    in the expanded levels), which that port did not keep. The one it trained itself keeps its own.

    Arguments, result and errors are those of `mxnet_state`.
    """
    names = list(network.state_dict())
    expected: dict[str, str] = {}
    for layer in layer_names(network.config):
        if not layer.pytorch_cv:
            raise WeightsError(f"{source}: pytorch-cv published no layout for {network.config.backbone}")
        for ours, _ in tensor_names(names, layer.ours):
            suffix = ours.removeprefix(layer.ours)
            suffix = "normalize_scale" if suffix == "scale" else suffix
            expected[ours] = layer.pytorch_cv + suffix
    anchors = [f"anchor_generators.{i}.anchor" for i in range(len(network.config.feature_sizes))]
    counters = {name: tensor for name, tensor in tensors.items() if name.endswith("num_batches_tracked")}
    rest = {name: tensor for name, tensor in tensors.items() if name not in counters}
    state = _take(rest, expected, anchors, network, source)
    for name in state:
        if name.endswith("bn.weight") and ".extras." in name and network.config.name != TRAINED_BY_PYTORCH_CV:
            state[name] = torch.ones_like(state[name])
        if name.endswith("bn.running_var") and ".extras." in name and network.config.name == TRAINED_BY_PYTORCH_CV:
            # Our epsilon is GluonCV's, so the difference moves into the variance: the sum stays what it was.
            state[name] = state[name] + (PYTORCH_BN_EPS - EXPANDED_BN_EPS)
    return state


def own_state(tensors: Mapping[str, Tensor], network: SSD, source: Path) -> dict[str, Tensor]:
    """Check a state dict that already has this project's names; raises what `mxnet_state` raises."""
    names = {name: name for name in network.state_dict()}
    return _take(tensors, names, [], network, source)


def is_pytorch_cv(tensors: Mapping[str, Tensor]) -> bool:
    """True for a pytorch-cv checkpoint: it keeps its anchors by level, our own files keep one table."""
    return any(re.fullmatch(r"anchor_generators\.\d+\.anchor", name) for name in tensors)


def layer_names(config: NetworkConfig) -> Iterator[LayerNames]:
    """Yield every layer of a network, anchors apart."""
    yield from _FEATURES[config.backbone]()
    if config.backbone == "vgg16_atrous":
        extras = len(config.feature_sizes) - 2
        for extra in range(extras):
            for index in (0, 1):
                dotted = f"features.extras.{extra}.{2 * index}."
                yield LayerNames(dotted, dotted, f"vggatrousextractor0_extra{extra}_conv{index}_", dotted)
    for level in range(len(config.feature_sizes)):
        for kind, head in enumerate(("class_predictors", "box_predictors")):
            dotted = f"{head}.{level}.predictor."
            yield LayerNames(dotted, dotted, f"convpredictor{2 * level + kind}_conv0_", dotted)


def _vgg_features() -> Iterator[LayerNames]:
    yield LayerNames("features.", "features.", "vggatrousextractor0_", "features.")  # init_scale
    yield LayerNames(
        "features.norm4.", "features.norm4.", "vggatrousextractor0_normalize0_normalize_", "features.norm4."
    )
    conv = 0
    for group, convs in enumerate(CONVS_OF_GROUP):
        for index in range(convs):
            dotted = f"features.stages.{group}.{2 * index}."
            yield LayerNames(dotted, dotted, f"vggatrousextractor0_conv{conv}_", dotted)
            conv += 1
    for index in (0, 1):
        dotted = f"features.stages.5.{2 * index}."
        yield LayerNames(dotted, dotted, f"vggatrousextractor0_dilated_conv{index}_", dotted)


def _flat(ours: str, flat: str, pytorch_cv: str = "") -> LayerNames:
    """A layer of a flat graph, whose dotted name is `features.` and its legacy name."""
    return LayerNames(ours, f"features.{flat}", flat, pytorch_cv)


def _expanded_levels() -> Iterator[LayerNames]:
    for level in range(4):
        for index, layer in enumerate(("trans_conv", "trans_bn", "conv", "bn")):
            yield _flat(
                f"features.extras.{level}.{layer}.",
                f"expand_{layer}{level}_",
                f"features.extras.{level}.{(0, 1, 3, 4)[index]}.",
            )


def _resnet_v1_features(blocks: tuple[int, ...], convs_per_block: int) -> Iterator[LayerNames]:
    backbone = "features.backbone"
    yield _flat(f"{backbone}.stem.0.", "resnetv10_conv0_", "features.features.0.0.")
    yield _flat(f"{backbone}.stem.1.", "resnetv10_batchnorm0_", "features.features.0.1.")
    for stage, count in enumerate(blocks):
        number = 0
        for block in range(count):
            ours = f"{backbone}.stages.{stage}.{block}"
            theirs = _pytorch_cv_block(stage, block, first=4)
            # Basic blocks of stage 1 have no shortcut convolution; everything else counts it last.
            has_shortcut = block == 0 and (stage > 0 or convs_per_block == 3)
            for index in range(convs_per_block):
                flat = f"resnetv10_stage{stage + 1}_"
                body = f"{theirs}.body.{3 * index}.", f"{theirs}.body.{3 * index + 1}."
                yield _flat(f"{ours}.conv{index + 1}.", f"{flat}conv{number}_", body[0])
                yield _flat(f"{ours}.bn{index + 1}.", f"{flat}batchnorm{number}_", body[1])
                number += 1
            if has_shortcut:
                yield _flat(f"{ours}.shortcut.0.", f"{flat}conv{number}_", f"{theirs}.downsample.0.")
                yield _flat(f"{ours}.shortcut.1.", f"{flat}batchnorm{number}_", f"{theirs}.downsample.1.")
                number += 1
    yield from _expanded_levels()


def _pytorch_cv_block(stage: int, block: int, first: int) -> str:
    """pytorch-cv's name of a residual block: stages 1 and 2 are nested, 3 is flattened, 4 a part of its own.

    `first` is the position of stage 1 in the part that leads to the first tap.
    """
    if stage < 2:
        return f"features.features.0.{first + stage}.{block}"
    if stage == 2:
        return f"features.features.0.{first + 2 + block}"
    return f"features.features.1.{block}"


def _resnet50_v1s_features() -> Iterator[LayerNames]:
    backbone = "features.backbone"
    for index in range(3):
        position = 3 * index
        yield _flat(f"{backbone}.stem.{position}.", f"resnetv1s_conv{index}_", f"features.features.0.{position}.")
        yield _flat(
            f"{backbone}.stem.{position + 1}.", f"resnetv1s_batchnorm{index}_", f"features.features.0.{position + 1}."
        )
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            ours = f"{backbone}.stages.{stage}.{block}"
            theirs = _pytorch_cv_block(stage, block, first=10)
            for index in range(3):
                flat = f"resnetv1s_layers{stage + 1}_"
                yield _flat(f"{ours}.conv{index + 1}.", f"{flat}conv{3 * block + index}_", f"{theirs}.conv{index + 1}.")
                yield _flat(
                    f"{ours}.bn{index + 1}.", f"{flat}batchnorm{3 * block + index}_", f"{theirs}.bn{index + 1}."
                )
            if block == 0:
                flat = f"resnetv1s_down{stage + 1}_"
                yield _flat(f"{ours}.shortcut.0.", f"{flat}conv0_", f"{theirs}.downsample.0.")
                yield _flat(f"{ours}.shortcut.1.", f"{flat}batchnorm0_", f"{theirs}.downsample.1.")
    yield from _expanded_levels()


def _resnet34_v1b_features() -> Iterator[LayerNames]:
    backbone = "features.backbone"
    yield LayerNames(f"{backbone}.stem.0.", "features.stage1.0.", "resnetv1b_conv0_")
    yield LayerNames(f"{backbone}.stem.1.", "features.stage1.1.", "resnetv1b_batchnorm0_")
    parts = ("features.stage1.4", "features.stage1.5", "features.stage2.0", "features.stage2.1")
    for stage, (part, count) in enumerate(zip(parts, (3, 4, 6, 3), strict=True)):
        for block in range(count):
            ours, dotted = f"{backbone}.stages.{stage}.{block}", f"{part}.{block}"
            for index in range(2):
                legacy = f"resnetv1b_layers{stage + 1}_"
                number = 2 * block + index
                yield LayerNames(f"{ours}.conv{index + 1}.", f"{dotted}.conv{index + 1}.", f"{legacy}conv{number}_")
                yield LayerNames(f"{ours}.bn{index + 1}.", f"{dotted}.bn{index + 1}.", f"{legacy}batchnorm{number}_")
            if block == 0 and stage > 0:
                legacy = f"resnetv1b_down{stage + 1}_"
                yield LayerNames(f"{ours}.shortcut.0.", f"{dotted}.downsample.0.", f"{legacy}conv0_")
                yield LayerNames(f"{ours}.shortcut.1.", f"{dotted}.downsample.1.", f"{legacy}batchnorm0_")
    for level in range(4):
        for index in (0, 1):
            yield LayerNames(
                f"features.extras.{level}.{2 * index}.",
                f"features.more_stages.{level}.{2 * index}.",
                f"resnetv1bssd0_conv{2 * level + index}_",
            )


def _resnet101_v2_features() -> Iterator[LayerNames]:
    backbone = "features.backbone"
    yield _flat(f"{backbone}.input_bn.", "resnetv20_batchnorm0_")
    yield _flat(f"{backbone}.stem.0.", "resnetv20_conv0_")
    yield _flat(f"{backbone}.stem.1.", "resnetv20_batchnorm1_")
    for stage, count in enumerate(resnet_v2.BLOCKS):
        flat = f"resnetv20_stage{stage + 1}_"
        for block in range(count):
            ours = f"{backbone}.stages.{stage}.{block}"
            # The first block's shortcut is counted after its three convolutions.
            first_conv = 0 if block == 0 else 3 * block + 1
            for index in range(3):
                yield _flat(f"{ours}.bn{index + 1}.", f"{flat}batchnorm{3 * block + index}_")
                yield _flat(f"{ours}.conv{index + 1}.", f"{flat}conv{first_conv + index}_")
            if block == 0:
                yield _flat(f"{ours}.shortcut.", f"{flat}conv3_")
    for index in range(3):
        yield _flat(f"{backbone}.stage4.bn{index + 1}.", f"resnetv20_stage4_batchnorm{index}_")
        if index < 2:
            yield _flat(f"{backbone}.stage4.conv{index + 1}.", f"resnetv20_stage4_conv{index}_")
    yield from _expanded_levels()


def _mobilenet_features() -> Iterator[LayerNames]:
    for index in range(27):
        ours = f"features.backbone.layers.{index}"
        part, position = (0, index) if index < 23 else (1, index - 23)
        theirs = f"features.features.{part}"
        yield _flat(f"{ours}.0.", f"mobilenet0_conv{index}_", f"{theirs}.{3 * position}.")
        yield _flat(f"{ours}.1.", f"mobilenet0_batchnorm{index}_", f"{theirs}.{3 * position + 1}.")
    yield from _expanded_levels()


_FEATURES = {
    "vgg16_atrous": _vgg_features,
    "resnet50_v1": lambda: _resnet_v1_features((3, 4, 6, 3), 3),
    "resnet18_v1": lambda: _resnet_v1_features((2, 2, 2, 2), 2),
    "resnet50_v1s": _resnet50_v1s_features,
    "resnet34_v1b": _resnet34_v1b_features,
    "resnet101_v2": _resnet101_v2_features,
    "mobilenet1.0": _mobilenet_features,
    "mobilenet0.25": _mobilenet_features,
}


def canonical_name(name: str) -> str:
    """Undo what depends on how a file was saved: symbol tags, network prefixes, instance counters.

    Networks after a class reset carry the network's prefix twice, hence the repeated strip.
    """
    name = name.removeprefix("arg:").removeprefix("aux:")
    name = re.sub(r"^(?:ssd\d+_)+", "", name)
    return re.sub(r"^(features\.)?(resnetv1|resnetv2|mobilenet)\d+_", r"\g<1>\g<2>0_", name)


def tensor_names(names: Collection[str], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (our full name, MXNet's name inside the layer) of the tensors directly under `prefix`."""
    is_batch_norm = f"{prefix}running_mean" in names
    for name in names:
        suffix = name.removeprefix(prefix)
        if name.startswith(prefix) and "." not in suffix and suffix != "num_batches_tracked":
            yield name, MXNET_BATCH_NORM[suffix] if is_batch_norm else suffix


def _take(
    tensors: Mapping[str, Tensor], expected: Mapping[str, str], anchor_names: list[str], network: SSD, source: Path
) -> dict[str, Tensor]:
    """Pick every expected tensor, strictly, and put the anchors of the levels into one table."""
    config = network.config
    misfit = f"{source}: does not fit {config.name}"
    advice = "name the network that the file was made for with --network"
    check_names(tensors, [*expected.values(), *anchor_names], misfit, advice)
    own = network.state_dict()
    _check_classes(tensors[expected["class_predictors.0.predictor.bias"]], config, source)
    state = pick(tensors, expected, own, misfit, advice)
    for name in own:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.tensor(0))
    if anchor_names:
        state["anchors"] = _anchor_table([tensors[name] for name in anchor_names], config, source)
    check_finite(state, source)
    return state


def check_names(names: Collection[str], wanted: Collection[str], misfit: str, advice: str) -> None:
    """Raise WeightsError, which begins with `misfit` and ends with `advice`, unless a file has the names wanted."""
    known = set(wanted)
    missing = [name for name in wanted if name not in names]
    unexpected = [name for name in names if name not in known]
    if missing or unexpected:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has the unexpected {_listed(unexpected)}"] if unexpected else []
        raise WeightsError(f"{misfit}: it {' and '.join(parts)}; {advice}")


def pick(
    tensors: Mapping[str, Tensor], expected: Mapping[str, str], own: Mapping[str, Tensor], misfit: str, advice: str
) -> dict[str, Tensor]:
    """Rename a file's tensors: `expected` is our name -> the file's, `own` has the shapes and dtypes by our name.

    Raises:
        WeightsError: a shape differs; the message begins with `misfit` and ends with `advice`.
    """
    state: dict[str, Tensor] = {}
    wrong = []
    for ours, name in expected.items():
        if tensors[name].shape != own[ours].shape:
            wrong.append(f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[ours].shape)}")
        # Published files are float32; anything narrower is widened, integers (counters) stay.
        state[ours] = tensors[name].to(own[ours].dtype)
    if wrong:
        raise WeightsError(f"{misfit}: {_listed(wrong)}; {advice}")
    return state


def check_finite(state: Mapping[str, Tensor], source: Path) -> None:
    """Raise WeightsError where a tensor has NaN or infinite values."""
    not_finite = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if not_finite:
        raise WeightsError(f"{source}: holds values that are not finite in {_listed(not_finite)}; use another copy")


def _check_classes(bias: Tensor, config: NetworkConfig, source: Path) -> None:
    columns = bias.numel() // config.anchors_per_cell[0]
    if bias.numel() != config.anchors_per_cell[0] * (len(config.class_names) + 1):
        raise WeightsError(
            f"{source}: predicts {columns - 1} classes, but {config.name} has {len(config.class_names)}; "
            "choose the network of that data set, or a _custom one with --classes"
        )


def _anchor_table(levels: list[Tensor], config: NetworkConfig, source: Path) -> Tensor:
    """Cut each level's stored map (1, 1, rows, columns, 4 * anchors per cell) to its feature map: (A, 4)."""
    table = []
    for level, (stored, cells, count) in enumerate(
        zip(levels, config.feature_sizes, config.anchors_per_cell, strict=True)
    ):
        shape = tuple(stored.shape)
        if len(shape) != 5 or shape[:2] != (1, 1) or min(shape[2:4]) < cells or shape[4] != 4 * count:
            raise WeightsError(
                f"{source}: does not fit {config.name}: anchors of level {level} have shape {shape}, "
                f"expected (1, 1, {cells} or more, {cells} or more, {4 * count})"
            )
        table.append(stored[0, 0, :cells, :cells].reshape(-1, 4))
    return torch.cat(table).to(torch.float32)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"
