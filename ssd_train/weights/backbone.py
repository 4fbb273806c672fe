"""Training starts from a classifier: published ImageNet weights -> the backbone of an SSD network.

GluonCV's file names layers in two ways. The older names are those of `mapping` without the classifier's own
prefix; the dotted ones follow its module tree, which an SSD on it does not keep, so that they are spelled out here.
For torchvision's files see `torchvision_classifier`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.weights.download import Progress, fetch_published, silent
from ssd_train.weights.layer_names import canonical_name, layer_names, tensor_names
from ssd_train.weights.mapping import check_finite, check_names, pick, with_fixed_gammas
from ssd_train.weights.store import PublishedFile
from ssd_train.weights.torchvision_classifier import CLASSIFIERS, classifier_state, is_classifier
from ssd_train.weights.weight_file import read_tensors

# Backbone (key of `build.BACKBONES`) -> SHA-1 of the `.params` file; GluonCV, `gluoncv/model_zoo/model_store.py`.
PUBLISHED_SHA1 = {
    "vgg16_atrous": "4fa2e1ad96b8c8d1ba9e5a43556cd909d70b3985",
    "resnet50_v1": "cc729d95031ca98cf2ff362eb57dee4d9994e4b2",
    "resnet50_v1s": "25a187fa281ddc98afbcd0cc0f0646885b874b80",
    "resnet18_v1": "a0666292f0a30ff61f857b0b66efc0228eb6a54b",
    "resnet34_v1b": "8e16b84814e84f64d897854003f049872991eaa6",
    "resnet101_v2": "18e93e4f48947e002547f50eabbcc9c83e516aa6",
    "mobilenet1.0": "efbb2ca3881998d5a8c5cb6c457a28c1e085fed5",
    "mobilenet0.25": "f0046a3da4e150b85da58ea31913dbb86e7540d1",
}

# Where they are missing, the network has the values that GluonCV sets in that case.
OPTIONAL = ("norm4.scale", "init_scale")
EXTRAS = "features.extras."
COUNTER = "num_batches_tracked"

# What a classifier has behind our taps, as patterns of both naming schemes: the layer that tells the classes ...
HEAD = r"output\.|fc\.|dense\d+_"
# ... and VGG's added levels, which the published file lacks; v2 ends with a batch norm of its own.
_BEHIND_THE_TAPS = {
    "vgg16_atrous": r"extras\.|extra\d+_",
    "resnet101_v2": r"features\.[89]\.|stage4_|batchnorm2_",
}


def fetch_backbone(backbone: str, root: Path, on_progress: Progress = silent) -> Path:
    """Return a backbone's published `.params` file, downloaded unless it is in `root` already.

    Raises:
        WeightsError: none were published, or what `fetch_published` says.
        SSDDeployError: `root` cannot be written.
    """
    if backbone not in PUBLISHED_SHA1:
        raise WeightsError(
            f"there are no published weights for the backbone {backbone!r}; choose one of {', '.join(PUBLISHED_SHA1)}, "
            "or name a file"
        )
    return fetch_published(PublishedFile(backbone, PUBLISHED_SHA1[backbone]), root, on_progress)


def load_backbone(network: SSD, path: Path) -> str:
    """Copy a file's weights into the backbone of a network, in place; its added levels and heads stay as they are.

    Args:
        network: with any class list; not on the meta device.
        path: MXNet `.params` of the ImageNet classifier in either naming scheme, the state dict of torchvision's
            classifier (see `torchvision_classifier`), or this project's `.safetensors` or `.pth` of any SSD on the
            same backbone, told apart by content. What lies behind our taps is ignored. Of GluonCV's VGG `norm4.scale`
            and `init_scale` may be missing; the network then keeps its own.

    Returns:
        A phrase about what it is.

    Raises:
        WeightsError: the file cannot be read, or tensors of the backbone are missing, unknown, misshapen or not
            finite. The network is then unchanged.
    """
    file = read_tensors(path)
    if file.format != "params" and is_classifier(file.tensors):
        state, phrase = classifier_state(file.tensors, network, path)
        network.load_state_dict(state, strict=False)
        return phrase
    own = network.state_dict()
    backbone = network.config.backbone

    def misfit(what: str) -> WeightsError:
        return WeightsError(
            f"{path}: does not fit the backbone {backbone}: {what}; name {_fitting(backbone)}, or an SSD on {backbone} "
            "as `ssd-deploy convert` writes it"
        )

    if file.format == "params" and backbone not in PUBLISHED_SHA1:
        raise misfit("it is of GluonCV, which has none")
    tensors, expected = (_classifier if file.format == "params" else _donor)(file.tensors, network)
    expected = {ours: name for ours, name in expected.items() if name in tensors or not ours.endswith(OPTIONAL)}
    check_names(tensors, expected.values(), misfit)
    state = pick(tensors, expected, own, misfit)
    check_finite(state, path)
    is_gluoncv = file.format == "params"
    network.load_state_dict(with_fixed_gammas(state) if is_gluoncv else state, strict=False)
    return "GluonCV's classifier" if is_gluoncv else "a detector"


def _fitting(backbone: str) -> str:
    """Say whose ImageNet classifier has a backbone."""
    if backbone in PUBLISHED_SHA1:
        return f"GluonCV's ImageNet classifier {backbone}"
    return f"torchvision's {CLASSIFIERS[backbone].architecture}"


def classifier_names(network: SSD, *, dotted: bool) -> dict[str, str]:
    """Return our name of each tensor of a network's backbone -> its name in the classifier's `.params` file."""
    own = network.state_dict()
    names = {}
    for layer in layer_names(network.config):
        if layer.ours.startswith("features.") and not layer.ours.startswith(EXTRAS):
            ours = layer.ours.removeprefix("features.").removeprefix("backbone.")
            theirs = _DOTTED[network.config.backbone](ours) if dotted else layer.legacy.partition("_")[2]
            names.update({name: theirs + suffix for name, suffix in tensor_names(own, layer.ours)})
    return names


def _classifier(tensors: Mapping[str, Tensor], network: SSD) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what an MXNet file has of the backbone, and our name -> its name of all that it should have."""
    expected = classifier_names(network, dotted=any("." in name for name in tensors))
    # MXNet keeps the classifier's prefix in older names unless it is told to strip it; every layer begins with it.
    prefix = next(layer_names(network.config)).legacy.partition("_")[0]
    found = {canonical_name(name).removeprefix(f"{prefix}_"): tensor for name, tensor in tensors.items()}
    behind = "|".join((HEAD, _BEHIND_THE_TAPS.get(network.config.backbone, HEAD)))
    wanted = set(expected.values())
    return {name: found[name] for name in found if name in wanted or not re.match(behind, name)}, expected


def _donor(tensors: Mapping[str, Tensor], network: SSD) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what a file with our own names has of the backbone, and the names of all that it should have."""

    def is_of_backbone(name: str) -> bool:
        return name.startswith("features.") and not name.startswith(EXTRAS) and not name.endswith(COUNTER)

    found = {name: tensor for name, tensor in tensors.items() if is_of_backbone(name)}
    return found, {name: name for name in network.state_dict() if is_of_backbone(name)}


# Our name of a layer without `features.backbone.` -> the dotted name in the classifier, whose modules are numbered
# with those that have no parameters.


def _resnet_v1(layer: str) -> str:
    layer = re.sub(r"^stem\.", "features.", layer).replace("shortcut", "downsample")
    layer = re.sub(r"^stages\.(\d)", lambda stage: f"features.{int(stage[1]) + 4}", layer)
    layer = re.sub(r"conv(\d)", lambda conv: f"body.{3 * int(conv[1]) - 3}", layer)
    return re.sub(r"bn(\d)", lambda norm: f"body.{3 * int(norm[1]) - 2}", layer)


def _resnet_v1b(layer: str) -> str:
    layer = {"stem.0.": "conv1.", "stem.1.": "bn1."}.get(layer, layer).replace("shortcut", "downsample")
    return re.sub(r"^stages\.(\d)", lambda stage: f"layer{int(stage[1]) + 1}", layer)


def _resnet_v1s(layer: str) -> str:
    return "bn1." if layer == "stem.7." else _resnet_v1b(re.sub(r"^stem", "conv1", layer))


def _resnet_v2(layer: str) -> str:
    layer = {"input_bn.": "features.0.", "stem.0.": "features.1.", "stem.1.": "features.2."}.get(layer, layer)
    layer = re.sub(r"^stages\.(\d)", lambda stage: f"features.{int(stage[1]) + 5}", layer)
    return re.sub(r"^stage4", "features.8.0", layer).replace("shortcut", "downsample")


def _mobilenet(layer: str) -> str:
    return re.sub(r"^layers\.(\d+)\.(\d)", lambda part: f"features.{3 * int(part[1]) + int(part[2])}", layer)


_DOTTED: dict[str, Callable[[str], str]] = {
    "vgg16_atrous": lambda layer: layer,
    "resnet50_v1": _resnet_v1,
    "resnet50_v1s": _resnet_v1s,
    "resnet18_v1": _resnet_v1,
    "resnet34_v1b": _resnet_v1b,
    "resnet101_v2": _resnet_v2,
    "mobilenet1.0": _mobilenet,
    "mobilenet0.25": _mobilenet,
}
