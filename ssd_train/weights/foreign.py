"""The table of other projects' detectors: state dicts that are told apart by the names of their tensors. No torch.

A layout that can be read says which network it is of and how its tensors become ours; one that is known and cannot be
read says what to do instead.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.class_list import read_class_list
from ssd_train.errors import WeightsError
from ssd_train.table import Table
from ssd_train.weights import torchvision_ssd
from ssd_train.weights.file_format import Shapes
from ssd_train.weights.other_formats import BY_ONNX

if TYPE_CHECKING:
    from torch import Tensor

    from ssd_train.networks.ssd import SSD


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignLayout:
    """One row: either `network_of`, `num_classes` and `state`, or a `refusal`.

    Attributes:
        name: for people, such as `torchvision's SSD`.
        is_it: whether tensors of such names and shapes are of it.
        network_of: the network of ours that they are of, its name.
        num_classes: how many classes they tell apart, without the background.
        state: what `SSD.load_state_dict` takes strictly; raises WeightsError where tensors are missing, unknown or
            misshapen, or of another number of classes.
        class_file: name of the class list that the project writes beside its weight files; empty where it writes none.
        refusal: what to do with a file that is not read, without the file's name: half a sentence.
    """

    name: str
    is_it: Callable[[Shapes], bool]
    network_of: Callable[[Shapes], str] | None = None
    num_classes: Callable[[Shapes], int] | None = None
    state: "Callable[[Mapping[str, Tensor], SSD, Path], dict[str, Tensor]] | None" = None
    class_file: str = ""
    refusal: str = ""

    def __post_init__(self) -> None:
        columns = [column is not None for column in (self.network_of, self.num_classes, self.state)]
        if columns != [not self.refusal] * 3:
            raise ValueError(f"{self.name}: expected network_of, num_classes and state, or a refusal")


def _pytorch_ssd(shapes: Shapes) -> str:
    """Return the network of pytorch-ssd that tensors are of; "" for none that is read."""
    is_detector = "regression_headers.0.weight" in shapes or "regression_headers.0.3.weight" in shapes
    return next((name for name, key, shape in _PYTORCH_SSD_MARKS if is_detector and shapes.get(key) == shape), "")


# Network, and a tensor that no other network of that project has, with its shape.
_PYTORCH_SSD_MARKS = (
    ("vgg16-ssd", "source_layer_add_ons.0.running_mean", (512,)),
    # Of width 1; of another one it has other channels.
    ("mb2-ssd-lite", "base_net.14.conv.0.weight", (576, 96, 1, 1)),
    # The lite variant's second convolution of a level is depthwise.
    ("mb1-ssd", "extras.0.2.weight", (512, 256, 3, 3)),
)


def _pytorch_ssd_classes(shapes: Shapes) -> int:
    """Return the count of the last level, whose predictor is one convolution in all of them."""
    # A damaged file may lack one of them; what reads it says which.
    scores, boxes = (shapes.get(f"{kind}_headers.5.weight") or (0,) for kind in ("classification", "regression"))
    return scores[0] * 4 // max(1, boxes[0]) - 1


def _pytorch_ssd_state(tensors: "Mapping[str, Tensor]", network: "SSD", source: Path) -> "dict[str, Tensor]":
    from ssd_train.weights.pytorch_ssd import pytorch_ssd_state

    return pytorch_ssd_state(tensors, network, source)


def _has(*starts: str) -> Callable[[Shapes], bool]:
    """Whether for each of these a tensor's name begins so."""
    return lambda shapes: all(any(name.startswith(start) for name in shapes) for start in starts)


def _is_classifier(shapes: Shapes) -> bool:
    return any(re.match(r"(fc|classifier(\.\d+)?|heads?(\.fc|\.head)?)\.weight$", name) for name in shapes)


_NOT_SSD = f"no SSD and not supported; {BY_ONNX}, if it predicts scores and boxes of a fixed list of anchors"
_NOT_SUPPORTED = f"not supported; {BY_ONNX}"

LAYOUTS: Table[ForeignLayout] = Table(
    "layout of weights",
    (
        ForeignLayout(
            name="torchvision's ssd300_vgg16",
            is_it=torchvision_ssd.is_ssd300_vgg16,
            network_of=lambda shapes: "ssd300_vgg16",
            num_classes=torchvision_ssd.num_classes,
            state=torchvision_ssd.torchvision_state,
        ),
        ForeignLayout(
            name="torchvision's ssdlite320_mobilenet_v3_large",
            is_it=torchvision_ssd.is_ssdlite,
            network_of=torchvision_ssd.ssdlite_network,
            num_classes=torchvision_ssd.num_classes,
            state=torchvision_ssd.torchvision_state,
        ),
        # Behind those that are read.
        ForeignLayout(
            name="an SSD of torchvision's with another backbone",
            is_it=torchvision_ssd.is_ssd,
            refusal="ssd300_vgg16 and ssdlite320_mobilenet_v3_large are read; train a network that "
            "`ssd-deploy models` lists",
        ),
        ForeignLayout(
            name="pytorch-ssd",
            is_it=lambda shapes: bool(_pytorch_ssd(shapes)),
            network_of=_pytorch_ssd,
            num_classes=_pytorch_ssd_classes,
            state=_pytorch_ssd_state,
            class_file="labels.txt",
        ),
        # Behind the networks of that project that are read.
        ForeignLayout(
            name="another network of pytorch-ssd than mb1-ssd, mb2-ssd-lite of width 1 and vgg16-ssd",
            is_it=_has("classification_headers.", "regression_headers."),
            refusal=_NOT_SUPPORTED,
        ),
        ForeignLayout(
            name="MMDetection's SSD", is_it=_has("bbox_head.cls_convs.", "bbox_head.reg_convs."), refusal=_NOT_SUPPORTED
        ),
        ForeignLayout(name="an MMDetection detector", is_it=_has("bbox_head."), refusal=_NOT_SSD),
        ForeignLayout(
            name="the SSD of lufficc/SSD", is_it=_has("box_head.predictor.cls_headers."), refusal=_NOT_SUPPORTED
        ),
        ForeignLayout(
            name="the SSD of amdegroot/ssd.pytorch",
            is_it=_has("vgg.", "L2Norm.", "loc.", "conf."),
            refusal=_NOT_SUPPORTED,
        ),
        ForeignLayout(
            name="the SSD of NVIDIA's DeepLearningExamples",
            is_it=_has("feature_extractor.", "additional_blocks.", "loc.", "conf."),
            refusal=_NOT_SUPPORTED,
        ),
        ForeignLayout(
            name="torchvision's Faster R-CNN, Mask R-CNN or Keypoint R-CNN",
            is_it=_has("rpn.head.", "roi_heads."),
            refusal=_NOT_SSD,
        ),
        ForeignLayout(
            name="torchvision's RetinaNet or FCOS",
            is_it=_has("backbone.fpn.", "head.classification_head."),
            refusal=_NOT_SSD,
        ),
        ForeignLayout(name="DETR", is_it=_has("transformer.decoder.", "class_embed.", "bbox_embed."), refusal=_NOT_SSD),
        ForeignLayout(name="a YOLO network", is_it=_has("model.0.conv."), refusal=_NOT_SSD),
        ForeignLayout(
            name="a classifier",
            is_it=_is_classifier,
            refusal="it finds no boxes; name a detector, or start a training with it (`train --pretrained-backbone`)",
        ),
    ),
    WeightsError,
)


def layout_of(shapes: Shapes, path: Path) -> ForeignLayout | None:
    """Return the layout that a file's tensors have; None for this project's own, GluonCV's and pytorch-cv's.

    Raises:
        WeightsError: they are of a kind that is known and not read.
    """
    layout = next((row for row in LAYOUTS.values() if row.is_it(shapes)), None)
    if layout is not None and layout.refusal:
        raise WeightsError(f"{path}: holds weights of {layout.name}; {layout.refusal}")
    return layout


def classes_beside(layout: ForeignLayout | None, path: Path) -> tuple[str, ...] | None:
    """Return the class list that a layout's project has written beside a weight file; None where there is none.

    Raises:
        SpecError: it cannot be used.
    """
    if layout is None or not layout.class_file:
        return None
    file = path.with_name(layout.class_file)
    return read_class_list(file) if file.is_file() else None


def shapes_of(tensors: "Mapping[str, Tensor]") -> Shapes:
    """Return the shapes of a file's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
