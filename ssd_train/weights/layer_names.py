"""Every layer of a network under the names of this project and of three foreign schemes.

- GluonCV structural ("dotted"), what `save_parameters` writes;
- GluonCV prefixes ("legacy"), what `save_params` writes;
- the state dicts that the pytorch-cv project published.

A layer is listed once with its four prefixes; the names of the tensors inside it follow from its kind.
"""

import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

from ssd_train.networks import resnet_v2
from ssd_train.networks.config import NetworkConfig
from ssd_train.networks.vgg_atrous import CONVS_OF_GROUP

# How our own prefixes, and those of VGG's older names, begin.
_OURS = "features.backbone"
_VGG = "vggatrousextractor0_"


class LayerNames(NamedTuple):
    """One layer under every scheme; a prefix carries its separator, "" where the scheme lacks the layer."""

    ours: str
    dotted: str
    legacy: str
    pytorch_cv: str = ""


# Our name of a tensor in a batch norm -> MXNet's (the expanded levels say `moving`).
MXNET_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def layer_names(config: NetworkConfig) -> Iterator[LayerNames]:
    """Yield every layer of a network, anchors apart."""
    yield from _FEATURES[config.backbone]()
    if config.backbone == "vgg16_atrous":
        for extra in range(len(config.feature_sizes) - 2):
            for index in (0, 1):
                yield _same(f"features.extras.{extra}.{2 * index}.", f"{_VGG}extra{extra}_conv{index}_")
    for level in range(len(config.feature_sizes)):
        for kind, head in enumerate(("class_predictors", "box_predictors")):
            yield _same(f"{head}.{level}.predictor.", f"convpredictor{2 * level + kind}_conv0_")


def _vgg_features() -> Iterator[LayerNames]:
    yield _same("features.", _VGG)  # init_scale
    yield _same("features.norm4.", f"{_VGG}normalize0_normalize_")
    conv = 0
    for group, convs in enumerate(CONVS_OF_GROUP):
        for index in range(convs):
            yield _same(f"features.stages.{group}.{2 * index}.", f"{_VGG}conv{conv}_")
            conv += 1
    for index in (0, 1):
        yield _same(f"features.stages.5.{2 * index}.", f"{_VGG}dilated_conv{index}_")


def _same(name: str, legacy: str) -> LayerNames:
    """A layer that the three dotted schemes call alike."""
    return LayerNames(name, name, legacy, name)


def _flat(ours: str, flat: str, pytorch_cv: str = "") -> LayerNames:
    """A layer of a flat graph, whose dotted name is `features.` and its legacy name."""
    return LayerNames(ours, f"features.{flat}", flat, pytorch_cv)


# The prefixes of a convolution and of the batch norm behind it.
Pair = tuple[str, str]


def _in_sequence(prefix: str, position: int) -> Pair:
    return f"{prefix}.{position}.", f"{prefix}.{position + 1}."


def _in_block(prefix: str, number: int) -> Pair:
    return f"{prefix}.conv{number}.", f"{prefix}.bn{number}."


def _flat_pair(ours: Pair, flat: str, number: int, pytorch_cv: Pair = ("", "")) -> Iterator[LayerNames]:
    """A convolution and its batch norm in a flat graph, which counts both alike."""
    yield _flat(ours[0], f"{flat}conv{number}_", pytorch_cv[0])
    yield _flat(ours[1], f"{flat}batchnorm{number}_", pytorch_cv[1])


def _expanded_levels() -> Iterator[LayerNames]:
    for level in range(4):
        for layer, position in (("trans_conv", 0), ("trans_bn", 1), ("conv", 3), ("bn", 4)):
            prefix = f"features.extras.{level}."
            yield _flat(f"{prefix}{layer}.", f"expand_{layer}{level}_", f"{prefix}{position}.")


def _resnet_v1_features(blocks: tuple[int, ...], convs_per_block: int) -> Iterator[LayerNames]:
    yield from _flat_pair(_in_sequence(f"{_OURS}.stem", 0), "resnetv10_", 0, _in_sequence("features.features.0", 0))
    for stage, count in enumerate(blocks):
        flat, number = f"resnetv10_stage{stage + 1}_", 0
        for block in range(count):
            ours, theirs = f"{_OURS}.stages.{stage}.{block}", _pytorch_cv_block(stage, block, first=4)
            for index in range(convs_per_block):
                yield from _flat_pair(
                    _in_block(ours, index + 1), flat, number, _in_sequence(f"{theirs}.body", 3 * index)
                )
                number += 1
            # Basic blocks of stage 1 have no shortcut convolution; everything else counts it last.
            if block == 0 and (stage > 0 or convs_per_block == 3):
                yield from _flat_shortcut(ours, flat, number, theirs)
                number += 1
    yield from _expanded_levels()


def _flat_shortcut(ours: str, flat: str, number: int, pytorch_cv: str) -> Iterator[LayerNames]:
    return _flat_pair(_in_sequence(f"{ours}.shortcut", 0), flat, number, _in_sequence(f"{pytorch_cv}.downsample", 0))


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
    for index in range(3):
        ours, theirs = (_in_sequence(prefix, 3 * index) for prefix in (f"{_OURS}.stem", "features.features.0"))
        yield from _flat_pair(ours, "resnetv1s_", index, theirs)
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            ours_block, their_block = f"{_OURS}.stages.{stage}.{block}", _pytorch_cv_block(stage, block, first=10)
            for index in range(3):
                ours, theirs = _in_block(ours_block, index + 1), _in_block(their_block, index + 1)
                yield from _flat_pair(ours, f"resnetv1s_layers{stage + 1}_", 3 * block + index, theirs)
            if block == 0:
                yield from _flat_shortcut(ours_block, f"resnetv1s_down{stage + 1}_", 0, their_block)
    yield from _expanded_levels()


def _resnet34_v1b_features() -> Iterator[LayerNames]:
    def pair(ours: Pair, dotted: Pair, legacy: str, number: int) -> Iterator[LayerNames]:
        yield LayerNames(ours[0], dotted[0], f"resnetv1b_{legacy}conv{number}_")
        yield LayerNames(ours[1], dotted[1], f"resnetv1b_{legacy}batchnorm{number}_")

    yield from pair(_in_sequence(f"{_OURS}.stem", 0), _in_sequence("features.stage1", 0), "", 0)
    parts = ("features.stage1.4", "features.stage1.5", "features.stage2.0", "features.stage2.1")
    for stage, (part, count) in enumerate(zip(parts, (3, 4, 6, 3), strict=True)):
        for block in range(count):
            ours, dotted = f"{_OURS}.stages.{stage}.{block}", f"{part}.{block}"
            for index in (0, 1):
                names = _in_block(ours, index + 1), _in_block(dotted, index + 1)
                yield from pair(*names, f"layers{stage + 1}_", 2 * block + index)
            if block == 0 and stage > 0:
                names = _in_sequence(f"{ours}.shortcut", 0), _in_sequence(f"{dotted}.downsample", 0)
                yield from pair(*names, f"down{stage + 1}_", 0)
    for level in range(4):
        for index in (0, 1):
            ours, dotted = (f"features.{part}.{level}.{2 * index}." for part in ("extras", "more_stages"))
            yield LayerNames(ours, dotted, f"resnetv1bssd0_conv{2 * level + index}_")


def _resnet101_v2_features() -> Iterator[LayerNames]:
    yield _flat(f"{_OURS}.input_bn.", "resnetv20_batchnorm0_")
    yield _flat(f"{_OURS}.stem.0.", "resnetv20_conv0_")
    yield _flat(f"{_OURS}.stem.1.", "resnetv20_batchnorm1_")
    for stage, count in enumerate(resnet_v2.BLOCKS):
        flat = f"resnetv20_stage{stage + 1}_"
        for block in range(count):
            ours = f"{_OURS}.stages.{stage}.{block}"
            # The first block's shortcut is counted after its three convolutions.
            first_conv = 0 if block == 0 else 3 * block + 1
            for index in range(3):
                yield _flat(f"{ours}.bn{index + 1}.", f"{flat}batchnorm{3 * block + index}_")
                yield _flat(f"{ours}.conv{index + 1}.", f"{flat}conv{first_conv + index}_")
            if block == 0:
                yield _flat(f"{ours}.shortcut.", f"{flat}conv3_")
    for index in range(3):
        yield _flat(f"{_OURS}.stage4.bn{index + 1}.", f"resnetv20_stage4_batchnorm{index}_")
        if index < 2:
            yield _flat(f"{_OURS}.stage4.conv{index + 1}.", f"resnetv20_stage4_conv{index}_")
    yield from _expanded_levels()


def _mobilenet_features() -> Iterator[LayerNames]:
    for index in range(27):
        part, position = (0, index) if index < 23 else (1, index - 23)
        theirs = _in_sequence(f"features.features.{part}", 3 * position)
        yield from _flat_pair(_in_sequence(f"{_OURS}.layers.{index}", 0), "mobilenet0_", index, theirs)
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


def has_names(config: NetworkConfig) -> bool:
    """Whether GluonCV and pytorch-cv have names for a network's layers."""
    return config.backbone in _FEATURES


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
