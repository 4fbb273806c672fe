"""The tests on a GPU can tell right from wrong: what they are made of, tried on the CPU. Not marked `gpu`."""

import json
from pathlib import Path

import numpy as np
import pytest
from gpu_parts import (
    MAX_BATCH,
    OTHER_BACKEND,
    SMALL,
    Difference,
    Limits,
    Models,
    append_record,
    assert_same,
    difference,
    held_against,
    noise,
    rows_of,
    spread_difference,
    summary,
)
from test_gpu_batches import (
    assert_equal_rows_get_equal_answers,
    assert_graph_gives_what_eager_gives,
    assert_slots_are_independent,
)
from test_gpu_process import call_and_check, expected_answers, in_threads

from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_deploy.backends.pytorch import TorchRunner
from ssd_train import build_network
from ssd_train.detections import PaddedDetections


@pytest.fixture(scope="module")
def onnx_runner(models: Models) -> OnnxRuntimeRunner:
    return OnnxRuntimeRunner(models.onnx(SMALL))


@pytest.fixture(scope="module")
def torch_runner() -> TorchRunner:
    return TorchRunner(build_network(SMALL, weights="random"))


def test_noise_is_something_to_find_objects_in(onnx_runner: OnnxRuntimeRunner) -> None:
    assert ((onnx_runner.run(noise(MAX_BATCH)).labels >= 0).sum(axis=1) == 100).all()


def test_two_backends_are_the_same_within_their_limits(
    onnx_runner: OnnxRuntimeRunner, torch_runner: TorchRunner
) -> None:
    images = noise(2)
    assert_same(onnx_runner.run(images), torch_runner.run(images), OTHER_BACKEND)
    for found, expected in zip(onnx_runner.run_raw(images), torch_runner.run_raw(images), strict=True):
        assert 0 < spread_difference(found, expected) < 1e-3


def test_a_difference_is_seen_in_scores_boxes_and_number() -> None:
    boxes = np.array([[[10, 10, 60, 60], [100, 100, 190, 190], [-1, -1, -1, -1]]], np.float32)
    scores, labels = np.array([[0.9, 0.5, -1]], np.float32), np.array([[3, 4, -1]])
    expected = PaddedDetections(boxes, scores, labels)
    assert difference(expected, expected) == Difference(0, 0, 0)
    moved = PaddedDetections(boxes + np.float32([0, 0, 2, 0]), scores * np.float32(0.5), labels)
    assert difference(moved, expected) == pytest.approx(Difference(0.45, 2, 0))
    other_label = PaddedDetections(boxes, scores, np.array([[3, 5, -1]]))
    # One of two has no partner, on either side.
    assert difference(other_label, expected) == Difference(0, 0, 0.5)
    with pytest.raises(AssertionError, match="is not within"):
        assert_same(other_label, expected, Limits(1, 1, 0.4))
    assert_same(other_label, expected, Limits(1, 1, 0.5))


def test_nothing_compared_is_a_failure() -> None:
    nothing = PaddedDetections(np.full((1, 2, 4), -1, np.float32), np.full((1, 2), -1, np.float32), np.full((1, 2), -1))
    with pytest.raises(AssertionError, match="nothing was compared"):
        difference(nothing, nothing)


def test_answers_to_other_images_are_told_apart(onnx_runner: OnnxRuntimeRunner) -> None:
    images = noise(2)
    found = onnx_runner.run(images)
    with pytest.raises(AssertionError, match="is not within"):
        assert_same(rows_of(found, slice(0, 1)), rows_of(found, slice(1, 2)), OTHER_BACKEND)


def test_the_checks_of_batches_pass_a_backend_that_keeps_slots_apart(
    onnx_runner: OnnxRuntimeRunner, torch_runner: TorchRunner
) -> None:
    assert_slots_are_independent(onnx_runner, "fp32", 2)
    assert_equal_rows_get_equal_answers(onnx_runner, 3)
    assert_graph_gives_what_eager_gives(onnx_runner, onnx_runner, "fp32")


class LeakySlots:
    """A backend whose later slots see something of the earlier ones."""

    def __init__(self, runner: OnnxRuntimeRunner) -> None:
        self.run = lambda images: runner.run(np.cumsum(images, axis=0, dtype=np.float32))
        self.run_raw = lambda images: runner.run_raw(np.cumsum(images, axis=0, dtype=np.float32))


def test_the_checks_of_batches_fail_a_backend_that_mixes_slots(onnx_runner: OnnxRuntimeRunner) -> None:
    with pytest.raises(AssertionError):
        assert_slots_are_independent(LeakySlots(onnx_runner), "fp32", 2)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        assert_equal_rows_get_equal_answers(LeakySlots(onnx_runner), 3)  # type: ignore[arg-type]


def test_the_check_of_threads_passes_a_backend_that_takes_them(onnx_runner: OnnxRuntimeRunner) -> None:
    expected = expected_answers(onnx_runner, 4)
    in_threads(lambda thread: call_and_check(onnx_runner, expected, thread))
    with pytest.raises(AssertionError):
        in_threads(lambda thread: call_and_check(onnx_runner, expected[::-1], thread))


def test_a_backend_is_held_against_the_reference_on_real_images(
    models: Models, torch_runner: TorchRunner, coco_tiny: Path, tmp_path: Path
) -> None:
    reference = models.reference(SMALL, coco_tiny, 5)
    comparison = held_against(reference, torch_runner, coco_tiny, batch_size=3, limit=5)
    assert comparison.failures == ()
    assert comparison.agreement > 0.999
    for _ in range(2):
        append_record(tmp_path / "results.jsonl", summary(comparison))
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["matched"] for line in lines] == [comparison.matched] * 2


def test_a_backend_with_other_weights_fails_against_the_reference(models: Models, coco_tiny: Path) -> None:
    reference = models.reference(SMALL, coco_tiny, 5)
    other = TorchRunner(build_network(SMALL, weights="random:1"))
    assert held_against(reference, other, coco_tiny, limit=5).failures != ()
