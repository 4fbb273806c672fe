"""Network + decode + NMS as one module: what is validated, run, and exported."""

from typing import NamedTuple

from torch import Tensor, nn

from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.spec import PostprocessSettings


class DetectorOutput(NamedTuple):
    """Detections, then what they were made of; N images, D kept detections, A anchors, C classes.

    Attributes:
        boxes: (N, D, 4) xyxy in input pixels, clipped where the settings say so.
        scores: (N, D), descending.
        labels: (N, D) int64 from 0; rows after an image's last detection are -1 in all three.
        cls_logits: (N, A, C + 1), column 0 is background.
        box_offsets: (N, A, 4), order dx, dy, dw, dh.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    cls_logits: Tensor
    box_offsets: Tensor


class Detector(nn.Module):
    """An SSD from images to detections.

    Args:
        network: in evaluation mode.
        settings: thresholds and counts; None for those of the network's own description.

    Attributes:
        network, postprocess: its two parts. The names are those of the weights in an exported file.
    """

    def __init__(self, network: SSD, settings: PostprocessSettings | None = None) -> None:
        super().__init__()
        self.network = network
        self.postprocess = Postprocess(settings or network.spec.postprocess, network.spec.input_size)

    def forward(self, images: Tensor) -> DetectorOutput:
        """Detect in (N, 3, H, W) float32 images, RGB, normalised as `preprocess` does."""
        cls_logits, box_offsets = self.network(images)
        boxes, scores, labels = self.postprocess(cls_logits, box_offsets, self.network.anchors)
        return DetectorOutput(boxes, scores, labels, cls_logits, box_offsets)
