"""Decode and NMS against plain references: greedy loops over NumPy scalars, and numbers worked by hand."""

import dataclasses
import itertools

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssd_train.networks.postprocess import (
    SUPPRESSION_ROUNDS,
    Postprocess,
    decode,
    pairwise_iou,
    select_candidates,
    stable_top_k,
    suppress,
    take_best,
)
from ssd_train.spec import DetectorSpec, PostprocessSettings


def reference_iou(a, b):
    """IoU of two boxes in float32, nothing clever."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    zero = np.float32(0)
    width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
    intersection = width * height
    area_a = max(a[2] - a[0], zero) * max(a[3] - a[1], zero)
    area_b = max(b[2] - b[0], zero) * max(b[3] - b[1], zero)
    union = area_a + area_b - intersection
    # Denormal areas count as none, which a GPU would round them to.
    return intersection / union if union >= np.finfo(np.float32).tiny else zero


def greedy_nms(boxes, labels, threshold):
    """Textbook greedy NMS within a class: a suppressed box suppresses nothing."""
    keep = [True] * len(boxes)
    for later, earlier in ((j, i) for j in range(len(boxes)) for i in range(j)):
        if keep[later] and keep[earlier] and labels[later] == labels[earlier]:
            keep[later] = reference_iou(boxes[earlier], boxes[later]) <= np.float32(threshold)
    return np.array(keep, bool)


def run_suppress(boxes, labels, threshold):
    standing = suppress(
        torch.tensor(np.asarray(boxes, np.float32))[None], torch.tensor(labels)[None, :, None], threshold
    )
    assert ((standing == 1) | (standing <= 0)).all()
    return standing[0, :, 0].numpy() > 0


coordinate = st.one_of(st.integers(0, 12).map(float), st.floats(-5, 30, width=32))


@st.composite
def candidates(draw):
    count = draw(st.integers(1, 40))
    boxes = draw(st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return boxes, labels


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(candidates(), st.sampled_from([0.1, 0.3, 0.45, 0.5, 0.9]))
def test_suppression_equals_greedy_nms_on_any_boxes(drawn, threshold):
    boxes, labels = drawn
    np.testing.assert_array_equal(run_suppress(boxes, labels, threshold), greedy_nms(boxes, labels, threshold))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(5, 80))
def test_suppression_equals_greedy_nms_on_crowds_of_overlapping_boxes(seed, spread):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, spread, (150, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (150, 2))], axis=1).astype(np.float32)
    labels = rng.integers(0, 2, 150)
    np.testing.assert_array_equal(run_suppress(boxes, labels, 0.45), greedy_nms(boxes, labels, 0.45))


def chain(count):
    """Boxes of which each overlaps the next at IoU 0.6 and the one after it at 1/3: greedy keeps every second."""
    return [(0.0, 2.5 * i, 10.0, 2.5 * i + 10.0) for i in range(count)]


@pytest.mark.parametrize("count", [2, 3, 17, SUPPRESSION_ROUNDS, SUPPRESSION_ROUNDS + 1])
def test_a_chain_of_suppressions_is_resolved_exactly_up_to_the_bound(count):
    kept = run_suppress(chain(count), [0] * count, 0.45)
    assert kept.tolist() == [i % 2 == 0 for i in range(count)]


def test_beyond_the_bound_boxes_are_kept_too_many_and_never_too_few():
    count = SUPPRESSION_ROUNDS + 60
    kept = run_suppress(chain(count), [0] * count, 0.45)
    greedy = greedy_nms(chain(count), [0] * count, 0.45)
    settled = SUPPRESSION_ROUNDS + 1
    assert settled >= 33
    np.testing.assert_array_equal(kept[:settled], greedy[:settled])
    assert (kept | ~greedy).all()


def test_chains_of_several_classes_do_not_touch_each_other():
    boxes = list(itertools.chain.from_iterable(zip(chain(30), chain(30), strict=True)))
    kept = run_suppress(boxes, [0, 1] * 30, 0.45)
    assert kept.tolist() == [i // 2 % 2 == 0 for i in range(60)]


@pytest.mark.parametrize(
    ("boxes", "threshold", "kept"),
    [
        # Worked by hand: IoU exactly 0.5 stays, a hair more goes.
        ([(0, 0, 10, 10), (0, 0, 10, 5)], 0.5, [True, True]),
        ([(0, 0, 10, 10), (0, 0, 10, 5.01)], 0.5, [True, False]),
        # The middle one goes and so cannot suppress the last.
        ([(0, 0, 10, 10), (0, 4, 10, 14), (0, 8, 10, 18)], 0.4, [True, False, True]),
        # No area, no overlap, not even with itself.
        ([(0, 0, 0, 0), (0, 0, 0, 0)], 0.45, [True, True]),
        # Continuous coordinates: counting pixels inclusively would give more than 0.45 here.
        ([(0, 0, 1, 1), (0, 0, 1, 0.4)], 0.45, [True, True]),
        # Corners the wrong way round are boxes without area.
        ([(0, 0, 10, 10), (10, 10, 0, 0)], 0.1, [True, True]),
    ],
)
def test_suppression_by_hand(boxes, threshold, kept):
    assert run_suppress(boxes, [3] * len(boxes), threshold).tolist() == kept


def test_iou_of_a_quarter_overlap_is_one_seventh():
    overlaps = pairwise_iou(torch.tensor([[[0.0, 0, 2, 2], [1, 1, 3, 3]]]))
    np.testing.assert_allclose(overlaps[0].numpy(), [[1, 1 / 7], [1 / 7, 1]], rtol=1e-6)


def test_decoding_by_hand():
    anchors = torch.tensor([[10.0, 20, 4, 8]])
    offsets = torch.tensor([[[5.0, -2.5, 0.0, 5 * np.log(2.0)]]])
    # centre 10 + 5 * 0.1 * 4 = 12, 20 - 2.5 * 0.1 * 8 = 18; size 4 and 8 * 2.
    np.testing.assert_allclose(decode(offsets, anchors).numpy(), [[[10, 10, 14, 26]]], rtol=1e-6)


def test_the_score_threshold_is_strict():
    below, at, above = np.nextafter(np.float32(0.25), np.float32(0)), np.float32(0.25), np.float32(0.3)
    anchors = torch.tensor([[10.0 + 50 * i, 10, 8, 8] for i in range(3)])
    # Two columns: the softmax of (0, log(p / (1 - p))) is p; found by search, since rounding decides here.
    logits = torch.tensor([[[0.0, np.log(p / (1 - p))] for p in (below, at, above)]], dtype=torch.float32)
    exact = logits.softmax(-1)[0, 1, 1].item()
    *_, labels = Postprocess(PostprocessSettings(score_threshold=exact))(logits, torch.zeros(1, 3, 4), anchors)
    assert (labels >= 0).sum() == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, -2.0, 0.25, 0.5, 1e-30, 3.0]), min_size=1, max_size=60), st.data())
def test_top_k_takes_the_lower_index_of_equal_values(values, data):
    k = data.draw(st.integers(1, len(values)))
    order = np.argsort(-np.array(values, np.float32).clip(0), kind="stable")[:k]
    best, index = stable_top_k(torch.tensor(values)[None, :, None], k)
    assert index[0, :, 0].tolist() == order.tolist()
    assert best[0, :, 0].tolist() == np.array(values, np.float32)[order].tolist()


def reference_candidates(probabilities, top_k):
    """All (class, anchor) pairs, class by class, stably sorted by score; `probabilities` is (A, C + 1)."""
    scores = probabilities[:, 1:].T
    order = np.argsort(-scores.ravel(), kind="stable")[:top_k]
    return scores.ravel()[order], order // scores.shape[1], order % scores.shape[1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5), st.integers(1, 30))
def test_candidates_are_the_best_of_all_classes_with_ties_in_class_order(seed, num_anchors, num_classes, top_k):
    rng = np.random.default_rng(seed)
    # Few distinct logits, so that most scores are equal to others.
    logits = torch.tensor(rng.integers(-2, 2, (num_anchors, num_classes + 1)), dtype=torch.float32)
    probabilities = logits.softmax(-1).numpy()
    expected = reference_candidates(probabilities, top_k)
    got = [each[0, :, 0].numpy() for each in select_candidates(logits[None], top_k)]
    np.testing.assert_array_equal(got[0], expected[0])
    # With more anchors than K that reach the last score, the lower ones stay, whatever their class.
    if (probabilities[:, 1:].max(axis=1) >= expected[0][-1]).sum() <= top_k:
        np.testing.assert_array_equal(got[1:], expected[1:])
    np.testing.assert_array_equal(probabilities[got[2], got[1] + 1], got[0])
    assert len(set(zip(got[1], got[2], strict=True))) == len(got[0])


def test_kept_rows_move_to_the_front_and_the_rest_is_minus_one():
    boxes = torch.arange(16.0).reshape(1, 4, 4)
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([4, 5, 6, 7])
    standing = torch.tensor([0.0, 1, -3, 1])
    columns = [each.reshape(1, 4, 1) for each in (scores, labels, standing)]
    got = take_best(boxes, *columns, 0.05, 6)
    np.testing.assert_array_equal(got[2][0].numpy(), [5, 7, -1, -1, -1, -1])
    np.testing.assert_allclose(got[1][0].numpy(), [0.8, 0.1, -1, -1, -1, -1])
    # What stands with the threshold's own score is no detection.
    assert take_best(boxes, *columns, float(scores[3]), 6)[2][0].tolist() == [5, -1, -1, -1, -1, -1]
    np.testing.assert_array_equal(got[0][0].numpy(), [[4, 5, 6, 7], [12, 13, 14, 15], *[[-1] * 4] * 4])


def reference_detections(probabilities, box_offsets, anchors, wanted):
    """The whole post-processing of one image after its softmax, from its definition."""
    scores, labels, index = reference_candidates(probabilities, wanted.pre_nms_top_k)
    valid = scores > np.float32(wanted.score_threshold)
    boxes = decode(box_offsets[index], anchors[index]).numpy()
    keep = greedy_nms(boxes, labels, wanted.nms_iou_threshold) & valid
    return (
        boxes[keep][: wanted.max_detections],
        scores[keep][: wanted.max_detections],
        labels[keep][: wanted.max_detections],
    )


SMALL = PostprocessSettings(pre_nms_top_k=30, max_detections=12, score_threshold=0.1)


def small_problem(seed, batch=2, num_anchors=40, num_classes=3):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(rng.integers(-3, 4, (batch, num_anchors, num_classes + 1)) * 0.5, dtype=torch.float32)
    offsets = torch.tensor(rng.normal(0, 1, (batch, num_anchors, 4)), dtype=torch.float32)
    centres, sizes = rng.uniform(0, 60, (num_anchors, 2)), rng.uniform(10, 40, (num_anchors, 2))
    return logits, offsets, torch.tensor(np.concatenate([centres, sizes], axis=1), dtype=torch.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_post_processing_equals_its_definition_for_each_image_of_a_batch(seed):
    logits, offsets, anchors = small_problem(seed)
    boxes, scores, labels = (value.numpy() for value in Postprocess(SMALL)(logits, offsets, anchors))
    for row in range(len(logits)):
        expected = reference_detections(logits[row].softmax(-1).numpy(), offsets[row], anchors, SMALL)
        count = len(expected[1])
        np.testing.assert_array_equal(labels[row], [*expected[2], *[-1] * (12 - count)])
        np.testing.assert_array_equal(scores[row][:count], expected[1])
        np.testing.assert_array_equal(boxes[row][:count], expected[0])
        assert (boxes[row][count:] == -1).all() and (scores[row][count:] == -1).all()


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=100, deadline=None)
@given(st.lists(finite, min_size=40, max_size=40))
def test_finite_input_never_gives_nan_or_infinity(values):
    numbers = torch.tensor(values, dtype=torch.float32)
    anchors = torch.tensor([[150.0, 150, 187, 373]] * 5)
    outputs = Postprocess(PostprocessSettings(pre_nms_top_k=10, max_detections=5))(
        numbers[:20].reshape(1, 5, 4), numbers[20:].reshape(1, 5, 4), anchors
    )
    assert all(bool(torch.isfinite(output).all()) for output in outputs)


@pytest.fixture(scope="module")
def exported_postprocess(tmp_path_factory):
    """The small post-processing as an ONNX session of its own, with raw predictions as inputs."""
    logits, offsets, anchors = small_problem(0)

    class WithAnchors(torch.nn.Module):
        def forward(self, cls_logits, box_offsets):
            return *Postprocess(SMALL)(cls_logits, box_offsets, anchors), cls_logits.softmax(-1)

    batch = torch.export.Dim("N", min=1)
    path = tmp_path_factory.mktemp("onnx") / "postprocess.onnx"
    torch.onnx.export(
        WithAnchors().eval(),
        (logits, offsets),
        path,
        dynamo=True,
        verbose=False,
        input_names=["cls_logits", "box_offsets"],
        output_names=["boxes", "scores", "labels", "probabilities"],
        dynamic_shapes=({0: batch}, {0: batch}),
    )
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), anchors


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_the_exported_graph_equals_the_definition_with_equal_scores_too(exported_postprocess, seed, batch):
    session, anchors = exported_postprocess
    logits, offsets, _ = small_problem(seed, batch)
    # The graph's own softmax: it rounds differently from PyTorch's, and the last bit decides between equals.
    boxes, scores, labels, probabilities = session.run(
        ["boxes", "scores", "labels", "probabilities"], {"cls_logits": logits.numpy(), "box_offsets": offsets.numpy()}
    )
    np.testing.assert_allclose(probabilities, logits.softmax(-1).numpy(), atol=1e-6)
    for row in range(batch):
        expected = reference_detections(probabilities[row], offsets[row], anchors, SMALL)
        count = len(expected[1])
        np.testing.assert_array_equal(labels[row], [*expected[2], *[-1] * (12 - count)])
        np.testing.assert_array_equal(scores[row][:count], expected[1])
        np.testing.assert_allclose(boxes[row][:count], expected[0], atol=1e-4)


def test_boxes_are_clipped_before_they_suppress_each_other() -> None:
    # Columns -1 to 9 and 4 to 14: 5 shared of 15, an IoU of 1/3. Inside an input of 8 columns they are 0 to 8 and 4 to
    # 8: 4 shared of 8, an IoU of 1/2.
    anchors = torch.tensor([[4.0, 5, 10, 10], [9.0, 5, 10, 10]])
    logits = torch.tensor([[[0.0, 3.0], [0.0, 2.0]]])
    offsets = torch.zeros(1, 2, 4)
    settings = PostprocessSettings(pre_nms_top_k=2, max_detections=2)
    *_, labels = Postprocess(settings)(logits, offsets, anchors)
    assert labels.tolist() == [[0, 0]]
    clipping = dataclasses.replace(settings, clip_boxes=True)
    boxes, _, labels = Postprocess(clipping, (10, 8))(logits, offsets, anchors)
    assert labels.tolist() == [[0, -1]]
    assert boxes[0, 0].tolist() == [0, 0, 8, 10]
    with pytest.raises(ValueError, match="clip_boxes"):
        Postprocess(clipping)


def test_a_description_without_clipping_reads_as_before() -> None:
    spec = DetectorSpec(network="n", class_names=("a",), input_size=(8, 8))
    assert "clip_boxes" not in spec.to_metadata()
    clipping = dataclasses.replace(spec, postprocess=PostprocessSettings(clip_boxes=True))
    assert clipping.to_metadata()["clip_boxes"] == "true"
    for each in (spec, clipping):
        assert DetectorSpec.from_metadata(each.to_metadata(), "file") == each
