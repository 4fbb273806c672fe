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
