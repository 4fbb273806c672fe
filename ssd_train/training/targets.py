"""Which anchor learns which object: GluonCV's matching (after SSD, section 2.2), for a whole batch at once.

Dimension letters: N images, M objects of the fullest image, A anchors, C classes without background.
"""

import torch
from torch import Tensor

from ssd_train.networks.anchors import CENTER_VARIANCE, SIZE_VARIANCE

MATCH_IOU_THRESHOLD = 0.5

# Overlaps up to this match nothing in the first step. Added to a float32 overlap it vanishes, unless that is 0.
NO_OVERLAP = 1e-12

# Of a pair's key, the half that says which pair it is.
LOW_BITS = 0xFFFFFFFF


@torch.no_grad()
def assign_targets(boxes: Tensor, labels: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Match objects and anchors in three steps, each for anchors that are still free.

    First every object gets one anchor of its own, the best overlaps of an image choosing first (ties: lower
    anchor, then lower object). Then an anchor goes to the object that it overlaps most, if it overlaps it as
    much as any anchor does; then, if it overlaps it by 0.5 or more. All others are background; none is ignored.

    Args:
        boxes: (N, M, 4) float32 xyxy in network-input pixels, with an area each.
        labels: (N, M) int64 from 0; -1 marks a row that is padding.
        anchors: (A, 4) float32 cx, cy, w, h in network-input pixels.

    Returns:
        cls_targets: (N, A) int64, 0 for background, else label + 1.
        box_targets: (N, A, 4) float32 dx, dy, dw, dh in units of the variances; 0 for background.
        An image without objects is all background. An object that no anchor overlaps would be given, if it is
        the image's first, every anchor that overlaps nothing; augmentation leaves no such object.
    """
    is_real = labels >= 0
    overlaps = anchor_iou(boxes, anchors)  # (N, M, A)
    overlaps.masked_fill_(~is_real.unsqueeze(2), -1.0)
    best_overlap, best_object = overlaps.max(dim=1)  # (N, A)
    highest = overlaps.amax(dim=2).gather(1, best_object)  # of any anchor with that same object
    is_matched = (best_overlap + NO_OVERLAP >= highest) | (best_overlap >= MATCH_IOU_THRESHOLD)
    is_matched &= is_real.any(dim=1, keepdim=True)
    matched = _matched_one_to_one(overlaps, best_object.masked_fill_(~is_matched, -1))

    is_positive = matched >= 0
    index = matched.clamp(min=0)
    cls_targets = (labels.gather(1, index) + 1).masked_fill_(~is_positive, 0)
    box_targets = encode(boxes.gather(1, index.unsqueeze(2).expand(-1, -1, 4)), anchors)
    # Not a product: padding rows have no area, and 0 times their infinite targets would not be 0.
    return cls_targets, box_targets.masked_fill_(~is_positive.unsqueeze(2), 0)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Turn boxes (..., 4) xyxy into regression targets for anchors (..., 4) cxcywh: SSD, section 2.2, eq. 2.

    The inverse of `postprocess.decode`.
    """
    sizes = boxes[..., 2:] - boxes[..., :2]
    centres = boxes[..., :2] + sizes * 0.5
    shift = (centres - anchors[..., :2]) / anchors[..., 2:] / CENTER_VARIANCE
    log_scale = (sizes / anchors[..., 2:]).log() / SIZE_VARIANCE
    return torch.cat([shift, log_scale], dim=-1)


def anchor_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the (N, M, A) overlaps of (N, M, 4) xyxy boxes and (A, 4) cxcywh anchors; 0 without a union.

    To the bit what `torchvision.ops.box_iou` gives, in three quarters of its time and with less memory.
    """
    half = anchors[:, 2:] * 0.5
    low, high = anchors[:, :2] - half, anchors[:, :2] + half
    # A coordinate at a time and in place: the tensors are large, and M grows with the fullest image.
    x0, y0, x1, y1 = (side.unsqueeze(2) for side in boxes.unbind(2))
    width = (torch.minimum(x1, high[:, 0]) - torch.maximum(x0, low[:, 0])).clamp_(min=0)
    height = (torch.minimum(y1, high[:, 1]) - torch.maximum(y0, low[:, 1])).clamp_(min=0)
    shared = width.mul_(height)
    sizes = high - low
    union = (x1 - x0) * (y1 - y0) + sizes[:, 0] * sizes[:, 1] - shared
    return (shared / union).masked_fill_(union <= 0, 0)


def _matched_one_to_one(overlaps: Tensor, matched: Tensor) -> Tensor:
    """Return `matched` (N, A) with the anchors of the first step in it: the pairs of an image by descending overlap.

    At most M anchors are taken, so the best M of each object are enough to look at. A pair is one whole
    number that sorts as the pairs do: the bits of its overlap, then lower anchor, then lower object.
    """
    num_objects, num_anchors = overlaps.shape[1:]
    device = overlaps.device
    pair = torch.arange(num_anchors, device=device) * num_objects + torch.arange(num_objects, device=device)[:, None]
    last_pair = num_anchors * num_objects - 1
    # Bits of non-negative floats sort like the floats; a key of 0 stands for "no pair".
    bits = overlaps.clamp(min=0).view(torch.int32).to(torch.int64)
    keys = ((bits << 32) + (last_pair - pair)).masked_fill_(overlaps <= NO_OVERLAP, 0)
    keys = keys.topk(min(num_objects, num_anchors), dim=2).values
    anchors = (last_pair - (keys & LOW_BITS)) // num_objects
    # A view, so that either writes into both.
    flat_keys, flat_anchors = keys.view(len(keys), -1), anchors.view(len(keys), -1)
    best = []
    for _ in range(num_objects):
        # As few operations as can be: on a GPU each takes longer to start than to compute.
        key, position = flat_keys.max(dim=1, keepdim=True)
        best.append(key)
        keys.scatter_(1, (position // keys.shape[2]).unsqueeze(2).expand(-1, -1, keys.shape[2]), 0)
        flat_keys.masked_fill_(flat_anchors == flat_anchors.gather(1, position), 0)
    taken = torch.cat(best, dim=1)
    taken_pair = last_pair - (taken & LOW_BITS)
    # What found no pair is written beside the anchors.
    anchor = (taken_pair // num_objects).masked_fill_(taken == 0, num_anchors)
    beside = torch.nn.functional.pad(matched, (0, 1))
    return beside.scatter_(1, anchor, taken_pair % num_objects)[:, :num_anchors]
