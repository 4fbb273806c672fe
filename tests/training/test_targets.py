"""Target assignment against a slow reading of the rules (spec 7.1), and cases worked by hand."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from ssd_train.networks.anchors import generate_anchors
from ssd_train.networks.postprocess import decode
from ssd_train.networks.zoo import find_network
from ssd_train.training.targets import _matched_one_to_one, anchor_iou, assign_targets, encode

Box = Sequence[float]


def assigned(pictures: Sequence[Sequence[tuple[int, Box]]], anchors: Sequence[Box] | Tensor) -> tuple[Tensor, Tensor]:
    """Assign pictures of (label, box) rows together, padded with a box that would match if it counted."""
    most = max((len(rows) for rows in pictures), default=0) or 1
    boxes = torch.tensor([0.0, 0.0, 1e3, 1e3]).repeat(len(pictures), most, 1)
    labels = torch.full((len(pictures), most), -1)
    for number, rows in enumerate(pictures):
        for row, (label, box) in enumerate(rows):
            boxes[number, row] = torch.tensor(box, dtype=torch.float32)
            labels[number, row] = label
    return assign_targets(boxes, labels, torch.as_tensor(anchors, dtype=torch.float32))


def slowly(rows: Sequence[tuple[int, Box]], anchors: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Spec 7.1, step by step, for one picture with at least one object. float32 where the rules compare numbers."""
    f = np.float32
    corners = np.concatenate([anchors[:, :2] - anchors[:, 2:] * f(0.5), anchors[:, :2] + anchors[:, 2:] * f(0.5)], 1)
    overlaps = np.zeros((len(anchors), len(rows)), np.float32)
    for a, (ax0, ay0, ax1, ay1) in enumerate(corners):
        for g, (_, box) in enumerate(rows):
            x0, y0, x1, y1 = (f(value) for value in box)
            shared = max(min(x1, ax1) - max(x0, ax0), f(0)) * max(min(y1, ay1) - max(y0, ay0), f(0))
            union = (x1 - x0) * (y1 - y0) + (ax1 - ax0) * (ay1 - ay0) - shared
            overlaps[a, g] = shared / union if union > 0 else 0
    match = [-1] * len(anchors)
    # 1. All pairs by falling overlap; anchor-major order decides ties.
    pairs = [(a, g) for a in range(len(anchors)) for g in range(len(rows))]
    for a, g in sorted(pairs, key=lambda pair: -overlaps[pair]):
        if overlaps[a, g] <= 1e-12:
            break
        if match[a] < 0 and g not in match:
            match[a] = g
    for a in range(len(anchors)):
        best = int(overlaps[a].argmax())
        # 2. As good as the best anchor of that object. 3. Good enough.
        is_tie = overlaps[a, best] + f(1e-12) >= overlaps[:, best].max()
        if match[a] < 0 and (is_tie or overlaps[a, best] >= 0.5):
            match[a] = best
    cls_targets = np.array([rows[g][0] + 1 if g >= 0 else 0 for g in match])
    box_targets = np.zeros((len(anchors), 4))
    for a, g in enumerate(match):
        if g >= 0:
            x0, y0, x1, y1 = (float(f(value)) for value in rows[g][1])
            cx, cy, width, height = (float(value) for value in anchors[a])
            box_targets[a] = [
                ((x0 + x1) / 2 - cx) / width / 0.1,
                ((y0 + y1) / 2 - cy) / height / 0.1,
                math.log((x1 - x0) / width) / 0.2,
                math.log((y1 - y0) / height) / 0.2,
            ]
    return cls_targets, box_targets


def assert_as_slowly(pictures: Sequence[Sequence[tuple[int, Box]]], anchors: NDArray[np.float32]) -> None:
    cls_targets, box_targets = assigned(pictures, torch.from_numpy(anchors))
    assert cls_targets.dtype == torch.int64 and box_targets.dtype == torch.float32
    for rows, own_cls, own_box in zip(pictures, cls_targets.numpy(), box_targets.numpy(), strict=True):
        expected_cls, expected_box = slowly(rows, anchors)
        np.testing.assert_array_equal(own_cls, expected_cls)
        # float32 of centres up to 64 px, in units of a tenth of anchors that are not below 4 px.
        np.testing.assert_allclose(own_box, expected_box, rtol=1e-5, atol=1e-4)


# Three anchors of 10 x 10 in a row, 20 px apart, with corners 0 to 10, 20 to 30, 40 to 50.
ROW = [(5.0, 5, 10, 10), (25.0, 5, 10, 10), (45.0, 5, 10, 10)]


def test_pictures_without_objects_are_background() -> None:
    cls_targets, box_targets = assigned([[], []], ROW)
    assert cls_targets.tolist() == [[0, 0, 0]] * 2
    assert box_targets.tolist() == [[[0, 0, 0, 0]] * 3] * 2


def test_one_box_gets_its_best_anchor_however_small_the_overlap() -> None:
    # Shares 1 x 10 with the second anchor: 10 / 190.
    cls_targets, box_targets = assigned([[(4, (29, 0, 39, 10))]], ROW)
    assert cls_targets.tolist() == [[0, 5, 0]]
    # 9 px of 10 to the right, in tenths; the same size.
    torch.testing.assert_close(box_targets[0], torch.tensor([[0.0] * 4, [9.0, 0, 0, 0], [0.0] * 4]))


def test_offsets_are_in_units_of_the_variances() -> None:
    # Centre (27, 4), 20 wide and 5 high, for an anchor of 10 x 10 at (25, 5).
    _, box_targets = assigned([[(0, (17, 1.5, 37, 6.5))]], ROW)
    expected = [2 / 10 / 0.1, -1 / 10 / 0.1, math.log(2) / 0.2, math.log(0.5) / 0.2]
    torch.testing.assert_close(box_targets[0, 1], torch.tensor(expected))


@pytest.mark.parametrize(("width", "is_matched"), [(5.0, True), (4.99, False)])
def test_an_overlap_of_exactly_one_half_matches(width: float, is_matched: bool) -> None:
    # The anchor at 0 to 10 is another's best; the second, 0 to `width`, is inside of it.
    anchors = [(5.0, 5, 10, 10), (width / 2, 5, width, 10)]
    cls_targets, _ = assigned([[(0, (0, 0, 10, 10))]], anchors)
    assert cls_targets.tolist() == [[1, int(is_matched)]]


def test_an_anchor_as_good_as_the_best_one_is_matched_below_one_half() -> None:
    # The box lies in the middle between the first two anchors, 5 px to each: 2.5 x 10 of 200 - 25 twice.
    cls_targets, _ = assigned([[(2, (7.5, 0, 22.5, 10))]], ROW)
    assert cls_targets.tolist() == [[3, 3, 0]]


def test_the_best_pair_of_a_picture_chooses_first() -> None:
    # Both boxes like the first anchor best; the better one gets it, though it is the later row.
    worse, better = (1.0, 0, 13.0, 10), (0.0, 0, 11.0, 10)
    anchors = [(5.0, 5, 10, 10), (15.0, 5, 10, 10)]
    assert assigned([[(0, worse), (1, better)]], anchors)[0].tolist() == [[2, 1]]
    assert assigned([[(1, better), (0, worse)]], anchors)[0].tolist() == [[2, 1]]


# Golden vector 6: overlaps of three anchors with two objects, and the object that each anchor gets.
GOLDEN = ([[0.6, 0.7], [0.65, 0.2], [0.0, 0.0]], [1, 0, -1])


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [
        GOLDEN,
        ([[0.0, 0.0]], [-1]),
        ([[1e-12, 2e-12]], [1]),
        # The best of both objects is the same anchor; the loser's second best is free.
        ([[0.9, 0.8], [0.3, 0.4], [0.5, 0.1]], [0, 1, -1]),
        # Equal overlaps: lower anchor first, then lower object.
        ([[0.4, 0.4], [0.4, 0.4], [0.4, 0.4]], [0, 1, -1]),
        ([[0.2, 0.4], [0.4, 0.1]], [1, 0]),
        # More objects than anchors.
        ([[0.2, 0.5, 0.3]], [1]),
        ([[0.2, 0.5, 0.3], [0.1, 0.6, 0.3]], [2, 1]),
    ],
)
def test_the_first_step_gives_every_object_an_anchor_of_its_own(
    overlaps: list[list[float]], expected: list[int]
) -> None:
    by_object = torch.tensor(overlaps).T.unsqueeze(0).contiguous()
    matched = torch.full((1, len(overlaps)), -1)
    assert _matched_one_to_one(by_object, matched).tolist() == [expected]


def test_boxes_with_the_overlaps_of_the_golden_vector_are_assigned_by_it() -> None:
    """All 10 px high; object 0 is 4 to 10 and object 1 is 0 to 7, so that anchor 0 (0 to 10) has .6 and .7 of them.

    Anchor 1 is 3.9 px of object 0's 6, that is .65; 1.81667 px of it are in object 1, of 3.9 + 7 - 1.81667: .2.
    """
    start = 7 - 10.9 / 6
    anchors = np.array([(5, 5, 10, 10), (start + 1.95, 5, 3.9, 10), (90, 90, 10, 10)], np.float32)
    rows = [(0, (4.0, 0.0, 10.0, 10.0)), (1, (0.0, 0.0, 7.0, 10.0))]
    assert assigned([rows], torch.from_numpy(anchors))[0].tolist() == [[2, 1, 0]]
    assert_as_slowly([rows], anchors)


def test_identical_boxes_get_an_anchor_each_and_the_rest_goes_to_the_first() -> None:
    anchors = [(5.0, 5, 10, 10), (5.5, 5, 10, 10), (6.0, 5, 10, 10), (80.0, 80, 10, 10)]
    box = (0.0, 0, 10, 10)
    assert assigned([[(0, box), (1, box)]], anchors)[0].tolist() == [[1, 2, 1, 0]]


def test_more_boxes_than_anchors_leave_boxes_without_an_anchor() -> None:
    boxes = [(number, (0.0, 0, 10 + number, 10)) for number in range(4)]
    anchors = np.array(ROW[:1], np.float32)
    assert assigned([boxes], anchors)[0].tolist() == [[1]]
    assert_as_slowly([boxes], anchors)


def test_a_padded_batch_is_each_picture_alone() -> None:
    rng = np.random.default_rng(0)
    anchors = torch.from_numpy(generate_anchors(find_network("ssd_300_mobilenet0.25_custom")))
    pictures: list[list[tuple[int, Box]]] = []
    for count in (0, 1, 7, 60, 2):
        corners = np.sort(rng.uniform(0, 300, (count, 2, 2)), axis=1).reshape(count, 4) + [0, 0, 1, 1]
        pictures.append([(int(rng.integers(20)), box) for box in corners.tolist()])
    together = assigned(pictures, anchors)
    for number, rows in enumerate(pictures):
        alone = assigned([rows], anchors)
        assert torch.equal(together[0][number], alone[0][0])
        assert torch.equal(together[1][number], alone[1][0])
    assert (together[0][1:] > 0).any(dim=1).all()


def test_the_arguments_are_not_changed() -> None:
    boxes, labels = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 0, 0]]]), torch.tensor([[3, -1]])
    before = boxes.clone(), labels.clone()
    assign_targets(boxes, labels, torch.tensor(ROW))
    assert torch.equal(boxes, before[0]) and torch.equal(labels, before[1])


# A grid of overlapping anchors in two sizes; multiples of 4, so that ties and halves are exact and frequent.
GRID = np.array([(x, y, size, size) for size in (16, 32) for y in (8, 24, 40) for x in (8, 24, 40)], np.float32)


@st.composite
def pictures_of_boxes(draw: st.DrawFn) -> list[list[tuple[int, Box]]]:
    """One to three pictures of boxes that overlap an anchor each; on whole fours, or anywhere."""

    def interval() -> tuple[float, float]:
        if draw(st.booleans()):
            start = draw(st.integers(0, 11)) * 4.0
            return start, start + draw(st.integers(1, 8)) * 4.0
        start = draw(st.floats(0, 44, width=32))
        return start, start + draw(st.floats(1, 40, width=32))

    pictures = []
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        for _ in range(draw(st.integers(1, 6))):
            (x0, x1), (y0, y1) = interval(), interval()
            rows.append((draw(st.integers(0, 3)), (x0, y0, x1, y1)))
        pictures.append(rows)
    return pictures


@settings(max_examples=60, deadline=None)
@given(pictures_of_boxes())
def test_any_boxes_are_assigned_as_the_rules_say(pictures: list[list[tuple[int, Box]]]) -> None:
    assert_as_slowly(pictures, GRID)


def test_encoding_is_undone_by_the_decoder_of_the_detector() -> None:
    rng = np.random.default_rng(1)
    anchors = torch.from_numpy(rng.uniform(10, 200, (50, 4)).astype(np.float32))
    corners = np.sort(rng.uniform(0, 300, (50, 2, 2)), axis=1).reshape(50, 4) + [0, 0, 1, 1]
    boxes = torch.from_numpy(corners.astype(np.float32))
    # float32 at 300 px, through a logarithm and back.
    torch.testing.assert_close(decode(encode(boxes, anchors), anchors), boxes, rtol=0, atol=1e-3)


def test_overlaps_are_torchvision_s_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.rand(500, 4, generator=generator) * 300 + 1
    corners = torch.rand(2, 7, 2, 2, generator=generator).sort(dim=2).values.flatten(2) * 300
    corners[1, 3:] = 0  # padding
    expected = box_iou(corners.flatten(0, 1), box_convert(anchors, "cxcywh", "xyxy")).view(2, 7, 500)
    assert (expected > 0).any()
    assert torch.equal(anchor_iou(corners, anchors), expected)
