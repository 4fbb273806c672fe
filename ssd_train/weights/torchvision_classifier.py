"""Training starts from torchvision's ImageNet classifiers: their state dicts -> the backbone of an SSD network.

A backbone is in the table where a classifier of torchvision's computes what it computes, whatever its layers are
called. ResNet-50 v1 is not: its blocks have their stride in another convolution than torchvision's, which are v1b.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.networks.vgg_atrous import CONVS_OF_GROUP, scale_to_pixels
from ssd_train.weights.download import fetch_hashed
from ssd_train.weights.mapping import check_finite, check_names, pick
from ssd_train.weights.store import Progress, silent

# The layers that tell the classes, which are behind our taps.
HEADS = ("fc.", "classifier.")
COUNTER = "num_batches_tracked"

# Of IMAGENET1K_FEATURES, which torchvision has from SSD's authors, these have no values. Its pixels are 0 to 255, as
# those of GluonCV's VGG are, and its mean differs from ours by less than a grey level.
_VGG_LINEAR = tuple(f"classifier.{layer}.{value}" for layer in (0, 3) for value in ("weight", "bias"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """One row.

    Attributes:
        weights: the member of torchvision's enums that is fetched. Of those that a network has, torchvision's own
            detectors start from these.
        name: our name of a tensor in the backbone, without `features.backbone.`, -> torchvision's.
        behind: how names of what else is behind our taps begin.
    """

    weights: str
    name: Callable[[str], str]
    behind: tuple[str, ...] = ()

    @property
    def architecture(self) -> str:
        """What the enum calls the network."""
        return self.weights.partition("_Weights")[0]


def _vgg_layers() -> dict[str, str]:
    """Our layers -> torchvision's, which counts convolutions, ReLUs and poolings in one sequence."""
    layers, position = {}, 0
    for group, convs in enumerate(CONVS_OF_GROUP):
        for index in range(convs):
            layers[f"stages.{group}.{2 * index}"] = f"features.{position}"
            position += 2
        position += 1
    return layers | {"stages.5.0": "classifier.0", "stages.5.2": "classifier.3"}


_VGG = _vgg_layers()


def _vgg(ours: str) -> str:
    layer, _, value = ours.rpartition(".")
    return f"{_VGG[layer]}.{value}"


def _resnet(ours: str) -> str:
    ours = re.sub(r"^stem\.0\.", "conv1.", re.sub(r"^stem\.1\.", "bn1.", ours)).replace("shortcut", "downsample")
    return re.sub(r"^stages\.(\d)", lambda stage: f"layer{int(stage[1]) + 1}", ours)


def _own(ours: str) -> str:
    """Of `networks.torchvision_backbones`, whose modules are torchvision's."""
    return ours.removeprefix("model.")


# Backbone (key of `build.BACKBONES`) -> its classifier.
CLASSIFIERS = {
    "vgg16_atrous": Classifier(weights="VGG16_Weights.IMAGENET1K_V1", name=_vgg),
    "resnet18_v1": Classifier(weights="ResNet18_Weights.IMAGENET1K_V1", name=_resnet),
    "resnet34_v1b": Classifier(weights="ResNet34_Weights.IMAGENET1K_V1", name=_resnet),
    "resnet50_v1b": Classifier(weights="ResNet50_Weights.IMAGENET1K_V1", name=_resnet),
    "resnet101_v1b": Classifier(weights="ResNet101_Weights.IMAGENET1K_V1", name=_resnet),
    "mobilenet_v3_large": Classifier(
        weights="MobileNet_V3_Large_Weights.IMAGENET1K_V1", name=_own, behind=("features.16.",)
    ),
    "regnet_x_400mf": Classifier(weights="RegNet_X_400MF_Weights.IMAGENET1K_V1", name=_own),
}

# A tensor by which a state dict of each family of torchvision's is known; no other file that is read has it.
_FIRST_TENSORS = ("features.0.weight", "conv1.weight", "features.0.0.weight", "stem.0.weight")


def fetch_classifier(backbone: str, root: Path, on_progress: Progress = silent) -> Path:
    """Return torchvision's weight file for a backbone, downloaded unless it is in `root` already.

    Address and hash are those that torchvision's enum of weights names.

    Raises:
        WeightsError: torchvision has no such classifier, or what `fetch_hashed` says.
    """
    if backbone not in CLASSIFIERS:
        raise WeightsError(no_classifier(backbone))
    url, parameters = published_address(backbone)
    # Parameters in float32, statistics of the batch norms, and names.
    return fetch_hashed(url, root, max_bytes=5 * parameters + (1 << 20), on_progress=on_progress)


def published_address(backbone: str) -> tuple[str, int]:
    """Return a classifier's URL, whose last part has the hash, and how many parameters it has."""
    from torchvision.models import get_weight

    weights = get_weight(CLASSIFIERS[backbone].weights)
    return weights.url, int(weights.meta["num_params"])


def no_classifier(backbone: str) -> str:
    """Return why torchvision has none for a backbone, and what to do."""
    return (
        f"no classifier of torchvision's computes what the backbone {backbone} does; choose a network on one of "
        f"{', '.join(CLASSIFIERS)}"
    )


def is_classifier(names: Collection[str]) -> bool:
    """Whether a file's tensors are called as torchvision's classifiers call theirs."""
    return any(name in names for name in _FIRST_TENSORS)


def classifier_state(tensors: Mapping[str, Tensor], network: SSD, path: Path) -> tuple[dict[str, Tensor], str]:
    """Rename and check a classifier's state dict for the backbone of a network.

    VGG's two large linear layers become convolutions (Liu et al., SSD, section 3): of fc6's kernel every third row and
    column is taken, and of both layers' 4096 channels every fourth.

    Args:
        tensors: by torchvision's names; the layers that tell the classes may be missing.
        network: may live on the meta device.
        path: the file, for errors.

    Returns:
        The backbone's tensors by our names, and a phrase about what they are.

    Raises:
        WeightsError: torchvision has no classifier for this backbone, or tensors are missing, unknown, misshapen or
            not finite.
    """
    backbone = network.config.backbone
    if backbone not in CLASSIFIERS:
        raise WeightsError(f"{path}: is of torchvision, but {no_classifier(backbone)}", arguments=("network",))
    row, own = CLASSIFIERS[backbone], network.state_dict()

    def misfit(what: str) -> WeightsError:
        return WeightsError(
            f"{path}: does not fit the backbone {backbone}: {what}; name the state dict of torchvision's "
            f"{row.architecture}"
        )

    expected = {ours: row.name(_in_backbone(ours)) for ours in own if _is_learned(ours)}
    extra = {}
    phrase = f"torchvision's {row.architecture}"
    if backbone == "vgg16_atrous":
        if has_linear := all(name in tensors and bool(torch.isfinite(tensors[name]).all()) for name in _VGG_LINEAR):
            tensors = _vgg_as_convolutions(tensors)
            phrase += " for normalised pixels, of whose linear layers fc6 and fc7 have every fourth channel"
        else:
            expected = {ours: name for ours, name in expected.items() if not name.startswith(HEADS)}
            phrase += (
                " without values in its linear layers, so it was taken for IMAGENET1K_FEATURES, which is for pixels "
                "of 0 to 255; fc6 and fc7 are fresh"
            )
        extra = {"features.init_scale": torch.ones(1, 3, 1, 1) if has_linear else scale_to_pixels()}
    wanted = set(expected.values())
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name in wanted or not name.startswith(HEADS + row.behind) and not name.endswith(COUNTER)
    }
    check_names(found, expected.values(), misfit)
    state = pick(found, expected, own, misfit)
    check_finite(state, path)
    return state | extra, phrase


def _vgg_as_convolutions(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return VGG's tensors with every fourth channel of fc6 and fc7, as kernels of 3 x 3 and 1 x 1."""
    changed = dict(tensors)
    fc6, fc7 = tensors["classifier.0.weight"], tensors["classifier.3.weight"]
    if fc6.shape == (4096, 25088) and fc7.shape == (4096, 4096):
        changed["classifier.0.weight"] = fc6.reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
        changed["classifier.3.weight"] = fc7[::4, ::4, None, None]
        changed |= {f"classifier.{layer}.bias": tensors[f"classifier.{layer}.bias"][::4] for layer in (0, 3)}
    return changed


def _in_backbone(ours: str) -> str:
    return ours.removeprefix("features.").removeprefix("backbone.")


def _is_learned(ours: str) -> bool:
    """Whether a tensor of ours is one of the backbone's that a classifier has."""
    return (
        ours.startswith("features.")
        and not ours.startswith(("features.extras.", "features.norm4."))
        and ours != "features.init_scale"
        and not ours.endswith(COUNTER)
    )
