"""The loss of SSD (Liu et al., SSD, section 2.2, eq. 1), as GluonCV's `SSDMultiBoxLoss` sums and divides it."""

import torch
from torch import Tensor, nn

# Background anchors that count, for every matched one of the same image.
NEGATIVES_PER_POSITIVE = 3


def multibox_loss(
    cls_logits: Tensor,
    box_offsets: Tensor,
    cls_targets: Tensor,
    box_targets: Tensor,
    num_positives: Tensor | float | None = None,
    positives_of_empty: Tensor | float = 0,
) -> tuple[Tensor, Tensor]:
    """Softmax cross-entropy of matched anchors and the hardest background, smooth L1 of matched anchors.

    Both are sums over the batch, divided by the number of matched anchors in it. The hardest background
    anchors, those with the largest loss, are chosen image by image, three for every matched anchor there:
    an image without objects adds nothing, unless `positives_of_empty` lets it.

    Args:
        cls_logits: (N, A, C + 1) float32, column 0 is background.
        box_offsets: (N, A, 4) float32.
        cls_targets: (N, A) int64, 0 for background.
        box_targets: (N, A, 4) float32.
        num_positives: the number to divide by instead, where the batch is a part of a larger one. Neither is
            less than 1.
        positives_of_empty: matched anchors that an image without any counts as when its background is chosen; see
            `empty_images_share`.

    Returns:
        The classification and the localisation loss, two scalars.
    """
    is_positive = cls_targets > 0
    losses = nn.functional.cross_entropy(cls_logits.flatten(0, 1), cls_targets.flatten(), reduction="none")
    losses = losses.view(cls_targets.shape)
    counts = is_positive | hardest_negatives(losses.detach(), is_positive, positives_of_empty)
    box_losses = nn.functional.smooth_l1_loss(box_offsets, box_targets, reduction="none").sum(dim=2)
    if num_positives is None:
        num_positives = is_positive.sum()
    divisor = torch.as_tensor(num_positives, device=losses.device).clamp(min=1)
    # Filled and not multiplied: what does not count may be infinite.
    classification = losses.masked_fill(~counts, 0).sum() / divisor
    localisation = box_losses.masked_fill(~is_positive, 0).sum() / divisor
    return classification, localisation


def hardest_negatives(losses: Tensor, is_positive: Tensor, positives_of_empty: Tensor | float = 0) -> Tensor:
    """Return which background anchors count, (N, A) bool; of equal losses the lower anchor goes first."""
    positives = is_positive.sum(dim=1, keepdim=True)
    wanted = NEGATIVES_PER_POSITIVE * torch.where(positives > 0, positives, positives_of_empty)
    # Matched anchors stand behind all others, as their loss of 0 puts them.
    order = losses.masked_fill(is_positive, 0).sort(dim=1, descending=True, stable=True).indices
    is_wanted = torch.arange(losses.shape[1], device=losses.device) < wanted
    return torch.zeros_like(is_positive).scatter_(1, order, is_wanted) & ~is_positive


def empty_images_share(num_positives: Tensor, num_with: Tensor, num_empty: Tensor) -> tuple[Tensor, Tensor]:
    """Return what lets images without objects train: they count as an average image of their batch that has some.

    So many hardest background anchors as there are with such an image on average, three for each of its matched
    anchors, have a share in the loss, and the divisor grows by those matched anchors. The loss thus keeps its scale
    whatever part of a batch has no objects, a batch of such images alone included, where one matched anchor an image
    is assumed. An object counts less in a step, and an epoch has as many more steps.

    Args:
        num_positives: matched anchors of the whole batch, a scalar like the others.
        num_with, num_empty: images with and without matched anchors in it.

    Returns:
        `positives_of_empty` and `num_positives` for `multibox_loss`, two scalars, at least 1 each.
    """
    positives_of_empty = (num_positives / num_with.clamp(min=1)).clamp(min=1)
    return positives_of_empty, (num_positives + num_empty * positives_of_empty).clamp(min=1)
