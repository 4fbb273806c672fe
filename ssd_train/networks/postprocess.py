"""Logits and offsets -> detections: the decode and NMS of every backend, and of the exported graph.

The result is GluonCV's: softmax, scores above the threshold, the best `pre_nms_top_k` candidates
over all classes of an image, greedy suppression within a class, the best `max_detections`.

The form is made for inference engines: static shapes after the batch dimension, no loop, no
`NonMaxSuppression`, no TopK above TensorRT's limit; and for a GPU, where each operator costs the same few microseconds
however little it computes, few of them: 120 in ONNX Runtime, of which 63 are the rounds of suppression. Hence a
dimension of 1 is kept wherever a later operator would have to add it.

Dimension letters: N images, A anchors, C classes without background, K candidates (`pre_nms_top_k`), D kept detections.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssd_train.detections import PADDING
from ssd_train.networks.anchors import CENTER_VARIANCE, SIZE_VARIANCE
from ssd_train.spec import PostprocessSettings

# A guard that no trained network reaches: centres 16 anchors away, boxes of e^32 anchors across. It keeps every finite
# input free of infinities, in the areas of the IoU too.
MAX_OFFSET = 160.0

# Rounds of suppression. Round t settles every candidate whose fate hangs on a chain of at most t
# earlier ones, so chains of up to 33 boxes come out exactly as greedy NMS does them. A longer one
# would need 34 boxes of one class in one image, each overlapping the next above the threshold, with
# every second one dropped; the count is even, so that then boxes are kept too many, never too few.
# `benchmarks/suppression_chains.py` measures how long chains get; `eval` counts images where they are not enough.
SUPPRESSION_ROUNDS = 32

# The opset of the operators that are written by name below.
OPSET = 18


class Postprocess(nn.Module):
    """Decode and NMS as a module without parameters.

    Args:
        settings: thresholds and counts.
        input_size: (height, width) that boxes are clipped to; needed where the settings say that they are.

    Raises:
        ValueError: it is needed.
    """

    def __init__(self, settings: PostprocessSettings, input_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        if settings.clip_boxes and input_size is None:
            raise ValueError("clip_boxes: expected an input size to clip boxes to")
        self.settings = settings
        self.input_size = input_size

    def forward(self, cls_logits: Tensor, box_offsets: Tensor, anchors: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Turn raw predictions into padded detections.

        Args:
            cls_logits: (N, A, C + 1), column 0 is background; any finite values.
            box_offsets: (N, A, 4) dx, dy, dw, dh; any finite values.
            anchors: (A, 4) cx, cy, w, h in input pixels; None where `box_offsets` are boxes already, xyxy in input
                pixels, as a network of others may give them.

        Returns:
            boxes: (N, D, 4) xyxy in input pixels, clipped where the settings say so.
            scores: (N, D), descending.
            labels: (N, D) int64, from 0. Rows after an image's last detection are -1 in all three.
        """
        settings = self.settings
        scores, labels, anchor_index = select_candidates(cls_logits, settings.pre_nms_top_k)
        if anchors is None:
            boxes = take_rows(box_offsets, anchor_index)
        else:
            boxes = decode_chosen(box_offsets, anchors, anchor_index)
        if settings.clip_boxes and self.input_size is not None:
            height, width = self.input_size
            boxes = boxes.clamp(min=0).minimum(boxes.new_tensor((width, height, width, height)))
        standing = suppress(boxes, labels, settings.nms_iou_threshold)
        return take_best(boxes, scores, labels, standing, settings.score_threshold, settings.max_detections)


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
        scores (N, K, 1) descending, labels (N, K, 1) from 0, anchor_index (N, K, 1); both int64.
    """
    scores = cls_logits.softmax(dim=-1)[..., 1:]  # (N, A, C)
    num_anchors, num_classes = scores.shape[1:]
    count = min(top_k, num_anchors)
    ranked = stable_top_k(scores.amax(dim=-1, keepdim=True), count)[1]
    chosen = torch.topk(ranked, count, dim=1, largest=False).values  # in ascending order
    of_chosen = take_rows(scores, chosen)
    by_class = of_chosen.transpose(1, 2).reshape(-1, num_classes * count, 1)
    best, position = stable_top_k(by_class, min(top_k, num_classes * count))
    return best, quotient(position, count), chosen.gather(1, position % count)


def stable_top_k(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of (N, count, 1) float32 `values` of each image and their indices, both (N, k, 1).

    Among equal values the lower index comes first, and all below 0 count as 0. ONNX TopK promises that order
    of equals; `torch.topk` does not, so outside of an export it is made unique by a key of the value's bits and its
    index.
    """
    if torch.compiler.is_exporting():
        return torch.topk(values, k, dim=1)
    size = values.shape[1]
    # Bits of non-negative floats sort like the floats; -0.0 is the one exception, hence the + 0.0.
    bits = (values.clamp(min=0) + 0.0).view(torch.int32).to(torch.int64)
    descending_index = torch.arange(size - 1, -1, -1, device=values.device).unsqueeze(1)
    keys = torch.topk((bits << 32) | descending_index, k, dim=1).values
    index = (size - 1) - (keys & 0xFFFFFFFF)
    return values.gather(1, index), index


def take_rows(values: Tensor, index: Tensor) -> Tensor:
    """Look up rows of each image: (N, rows, columns) at (N, K, 1) -> (N, K, columns)."""
    shape = (*index.shape[:2], values.shape[-1])
    if torch.compiler.is_exporting():
        # `expand` would be exported with a computation of the batch size. GatherND would do without, but ONNX Runtime's
        # copies from the host's memory as it begins, which a CUDA graph must not replay.
        index = _onnx_operator("Expand", (index, torch.tensor([1, 1, shape[2]])), shape)
    return values.gather(1, index.expand(shape))


def quotient(values: Tensor, divisor: int) -> Tensor:
    """Divide non-negative int64 values, rounded down."""
    if torch.compiler.is_exporting():
        # A division with rounding would be exported as seven operators.
        return _onnx_operator("Div", (values, torch.tensor(divisor)), values.shape)
    return torch.div(values, divisor, rounding_mode="trunc")


def _onnx_operator(name: str, inputs: Sequence[Tensor], shape: Sequence[int], **attributes: Any) -> Tensor:
    output: Tensor = torch.onnx.ops.symbolic(
        name, inputs, attributes, dtype=inputs[0].dtype, shape=shape, version=OPSET
    )
    return output


def decode_chosen(box_offsets: Tensor, anchors: Tensor, index: Tensor) -> Tensor:
    """Return the boxes (N, K, 4) of the anchors at (N, K, 1); see `decode`."""
    if torch.compiler.is_exporting():
        # All boxes first: anchors are constants of a graph, which then need not be looked up.
        return take_rows(decode(box_offsets, anchors), index)
    return decode(take_rows(box_offsets, index), nn.functional.embedding(index.squeeze(-1), anchors))


def decode(box_offsets: Tensor, anchors: Tensor) -> Tensor:
    """Turn regression output into boxes (inverse of the encoding in SSD, section 2.2, eq. 2).

    Args:
        box_offsets: (..., 4) dx, dy, dw, dh in units of the variances.
        anchors: (..., 4) cx, cy, w, h in pixels.

    Returns:
        (..., 4) xyxy in pixels.
    """
    anchor_centres, anchor_sizes = anchors.split(2, dim=-1)
    factors = torch.cat([CENTER_VARIANCE * anchor_sizes, torch.full_like(anchor_sizes, SIZE_VARIANCE)], dim=-1)
    shifts, log_scales = (box_offsets.clamp(-MAX_OFFSET, MAX_OFFSET) * factors).split(2, dim=-1)
    centres = shifts + anchor_centres
    half_sizes = log_scales.exp() * (anchor_sizes / 2)
    return torch.cat([centres - half_sizes, centres + half_sizes], dim=-1)


def suppress(boxes: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS within a class as the fixed point of parallel rounds.

    In each round a candidate stands unless an earlier candidate of its class that stands overlaps
    it. The first candidate is right from the start, and every round settles the next link of each
    chain; once nothing changes the result is that of greedy NMS.

    Args:
        boxes: (N, K, 4) xyxy, best first; boxes without area suppress nothing and are not suppressed.
        labels: (N, K, 1).
        iou_threshold: suppressed strictly above it.

    Returns:
        (N, K, 1) in the type of the boxes: 1 for what stands, 0 or less for what is suppressed. See
        `SUPPRESSION_ROUNDS` for the one bound there is.
    """
    count, device = boxes.shape[1], boxes.device
    order = torch.arange(count, device=device)
    is_later = order.unsqueeze(1) > order.unsqueeze(0)  # (K, K), the row's candidate after the column's
    overlaps = pairwise_iou(boxes) > iou_threshold
    suppresses = overlaps & (labels == labels.transpose(1, 2)) & is_later  # the column's candidate the row's
    # How many that stand suppress a candidate is a whole number, of which only 0 matters, so that half precision is
    # exact. Float32 products a graph may not have: TensorRT for RTX refuses them on Turing. A CPU has no half ones, and
    # ONNX Runtime computes all rounds in float32 there.
    half = torch.compiler.is_exporting() or device.type != "cpu"
    dtype = torch.float16 if half else torch.float32
    # 1 - that number, as one product: the 1 is in the column of the first candidate, which always stands.
    matrix = (order == 0).to(dtype) - suppresses.to(dtype)
    standing = row_sums(matrix)
    for _ in range(SUPPRESSION_ROUNDS - 1):
        standing = matrix @ standing.relu()
    return standing.to(boxes.dtype)


def row_sums(matrix: Tensor) -> Tensor:
    """Sum over the last dimension, which is kept, in the type of the matrix."""
    if torch.compiler.is_exporting():
        # PyTorch sums half precision in float32, which would be exported as two casts.
        return _onnx_operator("ReduceSum", (matrix, torch.tensor([2])), (*matrix.shape[:2], 1), keepdims=1)
    return matrix.sum(dim=2, keepdim=True)


def pairwise_iou(boxes: Tensor) -> Tensor:
    """Return the IoU of every pair, (N, K, 4) xyxy -> (N, K, K); 0 where both boxes have no area."""
    count = boxes.shape[1]
    # With ends negated, where an overlap begins and where it ends are maxima both; their sum is its length, negated.
    # The axes come before the pairs: an innermost dimension of 2 would keep a CPU from using its vectors.
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=boxes.dtype, device=boxes.device)
    edges = (boxes * sign).transpose(1, 2)
    overlap_edges = torch.maximum(edges.reshape(-1, 2, 2, count, 1), edges.reshape(-1, 2, 2, 1, count))
    intersection = overlap_edges.sum(dim=1).clamp(max=0).prod(dim=1)
    # A box's area is its intersection with itself, and no other is larger, in floats too: differences and products are
    # rounded alike.
    union = intersection.amax(dim=2, keepdim=True) + intersection.amax(dim=1, keepdim=True) - intersection
    return intersection / union.clamp(min=torch.finfo(boxes.dtype).tiny)


def take_best(
    boxes: Tensor, scores: Tensor, labels: Tensor, standing: Tensor, score_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Move the kept rows to the front, in order, cut or pad them to D rows; padding is -1 everywhere.

    Args:
        boxes, scores, labels: (N, K, 4), (N, K, 1), (N, K, 1); best first.
        standing: (N, K, 1), 1 for rows that may be kept, 0 or less for others.
        score_threshold: at least 0; rows are kept strictly above it.
        max_detections: D.

    Returns:
        boxes (N, D, 4), scores (N, D), labels (N, D).
    """
    count = scores.shape[1]
    best, position = stable_top_k(scores * standing, min(max_detections, count))
    is_real = best > score_threshold
    boxes = torch.where(is_real, take_rows(boxes, position), PADDING)
    scores = torch.where(is_real, best, PADDING).squeeze(-1)
    labels = torch.where(is_real, labels.gather(1, position), PADDING).squeeze(-1)
    missing = max_detections - scores.shape[1]
    if missing:
        boxes = nn.functional.pad(boxes, (0, 0, 0, missing), value=PADDING)
        scores = nn.functional.pad(scores, (0, missing), value=PADDING)
        labels = nn.functional.pad(labels, (0, missing), value=PADDING)
    return boxes, scores, labels
