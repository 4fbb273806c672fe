"""The loss of SSD: a case worked by hand, and a reading of its rules (spec 7.2) one anchor at a time."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssd_train.training.loss import empty_images_share, hardest_negatives, multibox_loss

# float32 sums of some dozen terms.
TOLERANCE = 1e-5


def test_two_anchors_by_hand() -> None:
    """Anchor 0 is of class 1 with logits (0, ln 3), so CE = ln 4/3; anchor 1 is background with (ln 3, 0) as well."""
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(3), 0.0]]])
    # Smooth L1 of 0.5, -2, 0 and 1: 0.125 + 1.5 + 0 + 0.5. The second anchor is background: its offsets do not count.
    offsets = torch.tensor([[[0.5, -2.0, 0.0, 1.0], [9.0, 9, 9, 9]]])
    targets = torch.tensor([[1, 0]])
    classification, localisation = multibox_loss(logits, offsets, targets, torch.zeros(1, 2, 4))
    assert classification.item() == pytest.approx(2 * math.log(4 / 3), rel=TOLERANCE)
    assert localisation.item() == pytest.approx(2.125, rel=TOLERANCE)


def plainly(
    logits: NDArray[np.float64], offsets: NDArray[np.float64], classes: NDArray[np.int64], boxes: NDArray[np.float64]
) -> tuple[float, float]:
    """Spec 7.2 in float64."""
    ce = np.log(np.exp(logits).sum(axis=2)) - np.take_along_axis(logits, classes[:, :, None], axis=2)[:, :, 0]
    classification = localisation = 0.0
    for image in range(len(classes)):
        positives = [anchor for anchor in range(len(classes[image])) if classes[image, anchor] > 0]
        negatives = sorted(set(range(len(classes[image]))) - set(positives), key=lambda a, i=image: -ce[i, a])
        classification += sum(ce[image, anchor] for anchor in positives + negatives[: 3 * len(positives)])
        for anchor in positives:
            for d in np.abs(offsets[image, anchor] - boxes[image, anchor]):
                localisation += d - 0.5 if d > 1 else 0.5 * d * d
    divisor = max(1, int((classes > 0).sum()))
    return classification / divisor, localisation / divisor


def random_case(seed: int, counts: tuple[int, ...], anchors: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predictions and targets of images with so many matched anchors each, of 3 classes."""
    rng = np.random.default_rng(seed)
    classes = np.zeros((len(counts), anchors), np.int64)
    for image, count in enumerate(counts):
        classes[image, rng.permutation(anchors)[:count]] = rng.integers(1, 4, count)
    logits, offsets, boxes = (rng.normal(0, 2, (len(counts), anchors, columns)) for columns in (4, 4, 4))
    tensors = [torch.from_numpy(value.astype(np.float32)) for value in (logits, offsets, boxes)]
    return tensors[0], tensors[1], torch.from_numpy(classes), tensors[2]


@pytest.mark.parametrize("counts", [(0,), (1,), (40,), (3, 0, 12), (1, 2, 3, 39, 0), (11, 10)])
def test_the_losses_are_those_of_the_rules(counts: tuple[int, ...]) -> None:
    for seed in range(5):
        case = random_case(seed, counts)
        expected = plainly(*(value.numpy().astype(np.float64) for value in case[:2]), case[2].numpy(), case[3].numpy())
        found = [loss.item() for loss in multibox_loss(*case)]
        assert found == pytest.approx(expected, rel=TOLERANCE)


def test_an_image_without_positives_adds_nothing_to_losses_and_gradients() -> None:
    logits, offsets, classes, boxes = random_case(0, (4, 0))
    logits.requires_grad_()
    offsets.requires_grad_()
    both = multibox_loss(logits, offsets, classes, boxes)
    alone = multibox_loss(logits[:1], offsets[:1], classes[:1], boxes[:1])
    assert [loss.item() for loss in both] == pytest.approx([loss.item() for loss in alone], rel=TOLERANCE)
    sum(both).backward()  # type: ignore[union-attr]
    assert logits.grad is not None and offsets.grad is not None
    assert not logits.grad[1].any() and not offsets.grad[1].any()
    assert logits.grad[0].any() and offsets.grad[0].any()


@pytest.mark.parametrize("divisor", [None, 1.0])
def test_no_positives_at_all_give_zero_with_zero_gradients(divisor: float | None) -> None:
    logits, offsets, classes, boxes = random_case(0, (0, 0))
    logits.requires_grad_()
    offsets.requires_grad_()
    losses = multibox_loss(logits, offsets, classes, boxes, divisor)
    assert [loss.item() for loss in losses] == [0, 0]
    (losses[0] + losses[1]).backward()
    for value in (logits, offsets):
        assert value.grad is not None
        assert torch.equal(value.grad, torch.zeros_like(value))


def test_only_anchors_that_count_have_gradients() -> None:
    logits, offsets, classes, boxes = random_case(1, (3, 2))
    logits.requires_grad_()
    offsets.requires_grad_()
    (classification, localisation) = multibox_loss(logits, offsets, classes, boxes)
    (classification + localisation).backward()
    assert logits.grad is not None and offsets.grad is not None
    # Each positive, and three negatives for it.
    assert logits.grad.any(dim=2).sum(dim=1).tolist() == [12, 8]
    assert torch.equal(offsets.grad.any(dim=2), classes > 0)
    # Softmax minus one at the class, divided by all positives.
    anchor = int((classes[0] > 0).nonzero()[0])
    softmax = logits[0, anchor].detach().softmax(0)
    softmax[classes[0, anchor]] -= 1
    torch.testing.assert_close(logits.grad[0, anchor], softmax / 5)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_parts_of_a_batch_add_up_to_the_whole_with_its_number_of_positives(as_tensor: bool) -> None:
    case = random_case(2, (3, 5, 0, 7))
    whole = [loss.item() for loss in multibox_loss(*case)]
    divisor = torch.tensor(15.0) if as_tensor else 15.0
    parts = [multibox_loss(*(value[half] for value in case), divisor) for half in (slice(0, 1), slice(1, 4))]
    summed = [sum(part[number].item() for part in parts) for number in (0, 1)]
    assert summed == pytest.approx(whole, rel=TOLERANCE)


def test_infinite_losses_of_anchors_that_do_not_count_do_not_spoil_the_sum() -> None:
    logits, offsets, classes, boxes = random_case(3, (2, 0))
    expected = [loss.item() for loss in multibox_loss(logits, offsets, classes, boxes)]
    # In the image without positives, and in the offsets of background.
    logits[1, :5, 0] = -torch.inf
    offsets[classes == 0] = torch.inf
    logits.requires_grad_()
    offsets.requires_grad_()
    losses = multibox_loss(logits, offsets, classes, boxes)
    assert [loss.item() for loss in losses] == pytest.approx(expected, rel=TOLERANCE)
    (losses[0] + losses[1]).backward()
    for value in (logits, offsets):
        assert value.grad is not None
        assert bool(value.grad.isfinite().all())


def test_predictions_that_are_not_numbers_show_in_the_losses() -> None:
    logits, offsets, classes, boxes = random_case(4, (2,))
    anchor = int((classes[0] > 0).nonzero()[0])
    offsets[0, anchor, 1] = torch.nan
    logits[0, anchor, 1] = torch.nan
    assert all(math.isnan(loss.item()) for loss in multibox_loss(logits, offsets, classes, boxes))


@pytest.mark.parametrize(
    ("losses", "positives", "expected"),
    [
        ([3.0, 2.0, 1.0, 4.0], [], []),
        ([3.0, 2.0, 1.0, 4.0, 5.0], [2], [0, 3, 4]),
        # Of equal losses the lower anchors.
        ([1.0, 1.0, 1.0, 1.0, 1.0], [0], [1, 2, 3]),
        # Many of them: a sort that is not stable keeps the order of a few.
        ([1.0] * 100, [50], [0, 1, 2]),
        # A positive is none, however large its loss.
        ([9.0, 1.0, 2.0, 3.0, 4.0], [0], [2, 3, 4]),
        # Fewer negatives than wanted; a loss of 0 counts as well.
        ([1.0, 0.0, 2.0], [0, 2], [1]),
        ([1.0, 2.0], [0, 1], []),
    ],
)
def test_the_hardest_negatives_are_three_for_each_positive(
    losses: list[float], positives: list[int], expected: list[int]
) -> None:
    is_positive = torch.zeros(1, len(losses), dtype=torch.bool)
    is_positive[0, positives] = True
    assert hardest_negatives(torch.tensor([losses]), is_positive)[0].nonzero().flatten().tolist() == expected


# --- Images without objects ---


def share_of(counts: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    numbers = (sum(counts), sum(count > 0 for count in counts), sum(count == 0 for count in counts))
    return empty_images_share(*(torch.tensor(float(number)) for number in numbers))


@pytest.mark.parametrize(
    ("counts", "of_empty", "divisor"),
    [
        # An average image has 4 matched anchors.
        ((3, 5), 4, 8),
        ((3, 5, 0), 4, 12),
        ((3, 0, 5, 0), 4, 16),
        ((2, 3, 0), 2.5, 7.5),
        # One anchor an image where there is nothing to go by.
        ((0, 0, 0), 1, 3),
        ((0,), 1, 1),
    ],
)
def test_an_image_without_objects_counts_as_an_average_one(
    counts: tuple[int, ...], of_empty: float, divisor: float
) -> None:
    found = share_of(counts)
    assert [value.item() for value in found] == [of_empty, divisor]


def test_the_hardest_anchors_of_an_image_without_objects_count_by_hand() -> None:
    """One image with two matched anchors, one without any: six of its anchors count, and the divisor is 4."""
    logits, offsets, classes, boxes = random_case(0, (2, 0))
    of_empty, divisor = share_of((2, 0))
    found = [loss.item() for loss in multibox_loss(logits, offsets, classes, boxes, divisor, of_empty)]
    losses = -logits[1].double().log_softmax(dim=1)[:, 0]
    with_objects = multibox_loss(logits[:1], offsets[:1], classes[:1], boxes[:1])
    hardest = sorted(losses.tolist(), reverse=True)[:6]
    assert found[0] == pytest.approx((2 * with_objects[0].item() + sum(hardest)) / 4, rel=TOLERANCE)
    assert found[1] == pytest.approx(2 * with_objects[1].item() / 4, rel=TOLERANCE)


@pytest.mark.parametrize("counts", [(0,), (0, 0, 0, 0), (4, 0, 0, 0, 0, 0), (30, 0), (3, 5)])
def test_the_loss_of_equal_anchors_is_the_same_whatever_part_of_the_batch_has_no_objects(
    counts: tuple[int, ...],
) -> None:
    """All logits 0: every anchor costs ln 4. A matched anchor and its three negatives make 4 ln 4, an image without
    objects 3 ln 4 for each that it counts as."""
    _, _, classes, _ = random_case(1, counts, anchors=200)
    zeros = torch.zeros(len(counts), 200, 4)
    of_empty, divisor = share_of(counts)
    classification, localisation = multibox_loss(zeros, zeros, classes, zeros, divisor, of_empty)
    with_some = sum(count > 0 for count in counts) / len(counts)
    expected = math.log(4) * (4 * with_some + 3 * (1 - with_some))
    assert classification.item() == pytest.approx(expected, rel=TOLERANCE) and localisation.item() == 0


def test_a_batch_without_any_object_teaches_background_in_finite_steps() -> None:
    logits, offsets, classes, boxes = random_case(2, (0, 0))
    logits.requires_grad_()
    of_empty, divisor = share_of((0, 0))
    multibox_loss(logits, offsets, classes, boxes, divisor, of_empty)[0].backward()
    assert logits.grad is not None and bool(logits.grad.isfinite().all())
    assert logits.grad.any(dim=2).sum(dim=1).tolist() == [3, 3]
    # The background's logit is to rise wherever it counts, by at most 1 / divisor each.
    assert (logits.grad[:, :, 0] <= 0).all() and logits.grad.abs().max() <= 1 / 2


def test_parts_of_a_batch_with_images_without_objects_add_up_to_the_whole() -> None:
    counts = (3, 0, 5, 0, 7)
    case = random_case(3, counts)
    of_empty, divisor = share_of(counts)
    whole = [loss.item() for loss in multibox_loss(*case, divisor, of_empty)]
    halves = (slice(0, 2), slice(2, 5))
    parts = [multibox_loss(*(value[half] for value in case), divisor, of_empty) for half in halves]
    assert [sum(part[number].item() for part in parts) for number in (0, 1)] == pytest.approx(whole, rel=TOLERANCE)
