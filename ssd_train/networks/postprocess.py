"""Logits and offsets -> detections: the decode and NMS of every backend, and of the exported graph.

The result is GluonCV's: softmax, scores above the threshold, the best `pre_nms_top_k` candidates
over all classes of an image, greedy suppression within a class, the best `max_detections`.

The form is made for inference engines: static shapes after the batch dimension, no loop, no
`NonMaxSuppression`, no TopK above TensorRT's limit. Dimension letters: N images, A anchors,
C classes without background, K candidates (`pre_nms_top_k`), D kept detections.
"""

import torch
from torch import Tensor, nn

from ssd_train.detections import PADDING
from ssd_train.spec import PostprocessSettings

# How anchor-relative offsets were scaled for training: the variances of the authors' Caffe release.
CENTER_VARIANCE = 0.1
SIZE_VARIANCE = 0.2

# Guards that no trained network reaches: boxes of e^16 anchors across, a million anchors away. They
# keep every finite input free of infinities and NaN, in the areas of the IoU too.
MAX_LOG_SCALE = 16.0
MAX_CENTER_SHIFT = 1e6

# Rounds of suppression. Round t settles every candidate whose fate hangs on a chain of at most t
# earlier ones, so chains of up to 65 boxes come out exactly as greedy NMS does them. A longer one
# would need 66 boxes of one class in one image, each overlapping the next above the threshold, with
# every second one dropped; the count is even, so that then boxes are kept too many, never too few.
SUPPRESSION_ROUNDS = 64


class Postprocess(nn.Module):
    """Decode and NMS as a module without parameters.

    Args:
        settings: thresholds and counts.
    """

    def __init__(self, settings: PostprocessSettings) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, cls_logits: Tensor, box_offsets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn raw predictions into padded detections.

        Args:
            cls_logits: (N, A, C + 1), column 0 is background; any finite values.
            box_offsets: (N, A, 4) dx, dy, dw, dh; any finite values.
            anchors: (A, 4) cx, cy, w, h in input pixels.

        Returns:
            boxes: (N, D, 4) xyxy in input pixels, not clipped.
            scores: (N, D), descending.
            labels: (N, D) int64, from 0. Rows after an image's last detection are -1 in all three.
        """
        settings = self.settings
        scores, labels, anchor_index = select_candidates(cls_logits, settings.pre_nms_top_k)
        valid = scores > settings.score_threshold
        index = anchor_index.unsqueeze(-1).expand(-1, -1, 4)
        boxes = decode(box_offsets.gather(1, index), nn.functional.embedding(anchor_index, anchors))
        keep = suppress(boxes, labels, valid, settings.nms_iou_threshold)
        return take_best(boxes, scores, labels, keep, settings.max_detections)


def select_candidates(cls_logits: Tensor, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pick the best (anchor, class) pairs of each image, over all its classes.

    A pair can only be one of the best K if its anchor is one of the K anchors whose best score is highest, so
    one TopK over anchors leaves K * C pairs to choose from, whatever the number of anchors. Equal scores go to
    the lower class, then to the lower anchor, as in GluonCV; but where anchors tie for the K-th place, the lower
    ones stay, whatever their class.

    Args:
        cls_logits: (N, A, C + 1), column 0 is background.
        top_k: K, candidates an image; fewer come back where A * C is smaller.

    Returns:
        scores (N, K) descending, labels (N, K) from 0, anchor_index (N, K); both int64.
    """
    scores = cls_logits.softmax(dim=-1)[..., 1:]  # (N, A, C)
    num_anchors, num_classes = scores.shape[1:]
    count = min(top_k, num_anchors)
    ranked = stable_top_k(scores.amax(dim=-1), count)[1]
    # In ascending order, as floats, which are exact up to 16 million anchors and which every engine sorts.
    chosen = -torch.topk(-ranked.to(scores.dtype), count, dim=-1).values
    chosen = chosen.to(torch.int64)
    of_chosen = scores.gather(1, chosen.unsqueeze(-1).expand(-1, -1, num_classes))
    best, position = stable_top_k(of_chosen.transpose(1, 2).flatten(1), min(top_k, num_classes * count))
    labels = torch.div(position, count, rounding_mode="trunc")
    return best, labels, chosen.gather(1, position - labels * count)


def stable_top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of non-negative float32 `values` along the last dimension, and their indices.

    Among equal values the lower index comes first. ONNX TopK promises that; `torch.topk` does not,
    so outside of an export the order is made unique by a key of the value's bits and its index.
    """
    if torch.compiler.is_exporting():
        return torch.topk(values, k, dim=-1)
    size = values.shape[-1]
    # Bits of non-negative floats sort like the floats; -0.0 is the one exception, hence the + 0.0.
    bits = (values.contiguous() + 0.0).view(torch.int32).to(torch.int64)
    descending_index = torch.arange(size - 1, -1, -1, device=values.device)
    keys = torch.topk((bits << 32) | descending_index, k, dim=-1).values
    index = (size - 1) - (keys & 0xFFFFFFFF)
    return values.gather(-1, index), index


def decode(box_offsets: Tensor, anchors: Tensor) -> Tensor:
    """Turn regression output into boxes (inverse of the encoding in SSD, section 2.2, eq. 2).

    Args:
        box_offsets: (..., 4) dx, dy, dw, dh in units of the variances.
        anchors: (..., 4) cx, cy, w, h in pixels.

    Returns:
        (..., 4) xyxy in pixels.
    """
    sizes = anchors[..., 2:]
    shift = (box_offsets[..., :2] * CENTER_VARIANCE).clamp(-MAX_CENTER_SHIFT, MAX_CENTER_SHIFT)
    log_scale = (box_offsets[..., 2:] * SIZE_VARIANCE).clamp(max=MAX_LOG_SCALE)
    centres = shift * sizes + anchors[..., :2]
    half_sizes = log_scale.exp() * sizes / 2
    return torch.cat([centres - half_sizes, centres + half_sizes], dim=-1)


def suppress(boxes: Tensor, labels: Tensor, valid: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS within a class as the fixed point of parallel rounds.

    In each round a candidate stands unless an earlier candidate of its class that stands overlaps
    it. The first candidate is right from the start, and every round settles the next link of each
    chain; once nothing changes the result is that of greedy NMS.

    Args:
        boxes: (N, K, 4) xyxy, best first; boxes without area suppress nothing and are not suppressed.
        labels: (N, K).
        valid: (N, K) bool, False for rows that are no candidates.
        iou_threshold: suppressed strictly above it.

    Returns:
        (N, K) bool, what stands. See `SUPPRESSION_ROUNDS` for the one bound there is.
    """
    order = torch.arange(boxes.shape[1], device=boxes.device)
    is_later = order.unsqueeze(1) > order.unsqueeze(0)  # (K, K), the row's candidate after the column's
    same_class = labels.unsqueeze(2) == labels.unsqueeze(1)
    overlaps = pairwise_iou(boxes) > iou_threshold
    # (N, K, K): 1 where the column's candidate suppresses the row's, if the column's stands.
    suppresses = (overlaps & same_class & is_later & valid.unsqueeze(1)).to(boxes.dtype)
    spares = 1 - suppresses
    standing = valid.to(boxes.dtype)
    for _ in range(SUPPRESSION_ROUNDS // 2):
        # A maximum and not a matrix product: TensorRT for RTX refuses the FP32 product on Turing.
        suppressed = (suppresses * standing.unsqueeze(1)).amax(dim=2)
        # The next round, told by what was suppressed, which needs no subtraction: 0 where some column neither
        # spares the row nor is suppressed itself.
        standing = (spares + suppressed.unsqueeze(1)).amin(dim=2)
    return (standing > 0.5) & valid


def pairwise_iou(boxes: Tensor) -> Tensor:
    """Return the IoU of every pair, (N, K, 4) xyxy -> (N, K, K); 0 where both boxes have no area."""
    # A coordinate at a time: an innermost dimension of 2 would keep a CPU from using its vectors.
    left, top, right, bottom = boxes.unbind(-1)
    width = _overlap(left, right)
    height = _overlap(top, bottom)
    intersection = width * height
    areas = (right - left).clamp(min=0) * (bottom - top).clamp(min=0)
    union = areas.unsqueeze(2) + areas.unsqueeze(1) - intersection
    return intersection / union.clamp(min=torch.finfo(boxes.dtype).tiny)


def _overlap(start: Tensor, end: Tensor) -> Tensor:
    """Length that each pair of intervals shares, (N, K) twice -> (N, K, K)."""
    last_start = torch.maximum(start.unsqueeze(2), start.unsqueeze(1))
    first_end = torch.minimum(end.unsqueeze(2), end.unsqueeze(1))
    return (first_end - last_start).clamp(min=0)


def take_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, keep: Tensor, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the kept rows to the front, in order, cut or pad them to D rows; padding is -1 everywhere.

    Args:
        boxes, scores, labels, keep: (N, K, 4), (N, K), (N, K), (N, K) bool; best first.
        max_detections: D.

    Returns:
        boxes (N, D, 4), scores (N, D), labels (N, D).
    """
    count = scores.shape[1]
    # Kept rows rank by position, K down to 1; all others are 0. The ranks are distinct where they matter.
    rank = torch.arange(count, 0, -1, device=scores.device, dtype=scores.dtype) * keep.to(scores.dtype)
    best, position = torch.topk(rank, min(max_detections, count), dim=-1)
    is_real = best > 0
    boxes = boxes.gather(1, position.unsqueeze(-1).expand(-1, -1, 4))
    boxes = torch.where(is_real.unsqueeze(-1), boxes, PADDING)
    scores = torch.where(is_real, scores.gather(1, position), PADDING)
    labels = torch.where(is_real, labels.gather(1, position), PADDING)
    missing = max_detections - scores.shape[1]
    if missing:
        boxes = nn.functional.pad(boxes, (0, 0, 0, missing), value=PADDING)
        scores = nn.functional.pad(scores, (0, missing), value=PADDING)
        labels = nn.functional.pad(labels, (0, missing), value=PADDING)
    return boxes, scores, labels
