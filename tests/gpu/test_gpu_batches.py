"""Whatever the size of a batch and whoever shares it, an image gets one answer; a CUDA graph changes none."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu_parts import (
    MAX_BATCH,
    PRECISIONS,
    RAW,
    SAME_RUNNER,
    SMALL,
    Models,
    Record,
    assert_same,
    noise,
    rows_of,
    spread_difference,
)

from export.engine.build import BuiltEngine
from ssd_deploy.backends.base import CUDA_EVENTS, Runner
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError

pytestmark = pytest.mark.gpu

# Sizes rise, fall and repeat, so that no context meets only the shape that it was set up with.
CHANGING_SIZES = (1, 3, 1, 5, 2, 2, 4, 5, 1)


def assert_slots_are_independent(runner: Runner, precision: str, count: int) -> None:
    """Fail unless each image of a batch gets the answer that it gets alone, raw predictions included."""
    images = noise(count, seed=count)
    together, raw_together = runner.run(images), runner.run_raw(images)
    for row in range(count):
        image = images[row : row + 1]
        assert_same(rows_of(together, slice(row, row + 1)), runner.run(image), SAME_RUNNER[precision])
        for many, one in zip(raw_together, runner.run_raw(image), strict=True):
            assert spread_difference(many[row : row + 1], one) <= RAW[precision]


def assert_equal_rows_get_equal_answers(runner: Runner, count: int) -> bool:
    """Fail unless identical images of a batch get identical answers; returns whether every bit is the same.

    Nothing beyond the last bits of float32 is allowed for: a kernel may cut another row's sums at another place.
    """
    image, other = noise(2, seed=7)
    images = np.stack([image] * (count - 1) + [other])
    found, raw = runner.run(images), runner.run_raw(images)
    same = slice(0, count - 1)
    is_exact = True
    for array in (*found, *raw):
        np.testing.assert_allclose(array[same], np.broadcast_to(array[:1], array[same].shape), rtol=1e-5, atol=1e-4)
        is_exact = is_exact and bool((array[same] == array[:1]).all())
    assert not np.array_equal(raw.cls_logits[-1], raw.cls_logits[0])
    return is_exact


@pytest.mark.parametrize("count", range(2, MAX_BATCH + 1))
def test_each_image_gets_the_same_answer_in_every_batch_size_of_the_profile(
    small_runner: Any, precision: str, count: int
) -> None:
    assert_slots_are_independent(small_runner, precision, count)


@pytest.mark.parametrize("count", range(2, MAX_BATCH + 1))
def test_identical_images_of_a_batch_get_identical_answers(
    small_runner: Any, precision: str, count: int, record: Record
) -> None:
    record(precision=precision, count=count, bitwise=assert_equal_rows_get_equal_answers(small_runner, count))


def assert_graph_gives_what_eager_gives(graph: Runner, eager: Runner, precision: str) -> None:
    """Fail unless both give the same for batches whose sizes change; earlier answers must stay as they were."""
    answers = []
    for turn, count in enumerate(CHANGING_SIZES):
        images = noise(count, seed=100 + turn)
        expected, found = eager.run(images), graph.run(images)
        assert_same(found, expected, SAME_RUNNER[precision])
        answers.append((found, [array.copy() for array in found]))
    for found, kept in answers:
        for array, before in zip(found, kept, strict=True):
            np.testing.assert_array_equal(array, before)


def answer_or_skip(runner: Runner, images: Any) -> PaddedDetections:
    """Return an answer; skip where a CUDA graph is asked for that no package here captures."""
    try:
        return runner.run(images)
    except BackendError as error:
        if "need cuda-python" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.fixture
def graph_runner(models: Models, flavour: str, precision: str, open_engine: Callable[..., Any]) -> Any:
    """The small network's engine with a CUDA graph; skipped where no package here captures one."""
    engine = models.engine(SMALL, precision, flavour, opt_batch=2, max_batch=MAX_BATCH)
    runner = open_engine(engine.path, cuda_graph=True)
    answer_or_skip(runner, noise(1))
    return runner


def test_a_cuda_graph_gives_what_the_engine_gives_without(graph_runner: Any, small_runner: Any, precision: str) -> None:
    assert_graph_gives_what_eager_gives(graph_runner, small_runner, precision)


def test_a_cuda_graph_of_torch_gives_what_torch_gives_without(torch_on_gpu: None) -> None:
    from ssd_deploy.backends.pytorch import TorchRunner
    from ssd_train import build_network

    eager, graph = (
        TorchRunner(build_network(SMALL, weights="random"), device="cuda", cuda_graph=is_graph)
        for is_graph in (False, True)
    )
    assert_graph_gives_what_eager_gives(graph, eager, "fp32")


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])
def test_a_batch_below_the_profile_is_filled_up_and_one_above_refused(
    cuda_graph: bool, models: Models, flavour: str, open_engine: Callable[..., Any]
) -> None:
    engine = models.engine(SMALL, "fp32", flavour, min_batch=2, opt_batch=2, max_batch=3)
    runner = open_engine(engine.path, cuda_graph=cuda_graph)
    images = noise(4)
    together = answer_or_skip(runner, images[:3])
    for count in (1, 2):
        assert_same(runner.run(images[:count]), rows_of(together, slice(0, count)), SAME_RUNNER["fp32"])
    with pytest.raises(BackendError, match="batch of 4 images, but the engine takes at most 3.*max_batch 4"):
        runner.run(images)


def assert_device_times_are_plausible(runner: Any, count: int = 2, runs: int = 20) -> dict[str, float]:
    """Fail unless the times on the GPU are positive and no longer than a call with its transfers."""
    images = noise(count)
    for _ in range(3):
        runner.run(images)
    runner.device_times_ms(images, 3)
    device_ms = runner.device_times_ms(images, runs)
    host_ms = []
    for _ in range(runs):
        start = time.perf_counter()
        runner.run(images)
        host_ms.append((time.perf_counter() - start) * 1e3)
    assert len(device_ms) == runs
    assert min(device_ms) > 0
    assert statistics.median(device_ms) <= statistics.median(host_ms)
    return {"device_ms": statistics.median(device_ms), "host_ms": statistics.median(host_ms)}


def test_an_engine_is_timed_on_the_gpu(small_runner: Any, precision: str, record: Record) -> None:
    assert small_runner.device_clock == CUDA_EVENTS
    record(precision=precision, **assert_device_times_are_plausible(small_runner))


def test_a_cuda_graph_is_timed_on_the_gpu(graph_runner: Any, precision: str, record: Record) -> None:
    record(precision=precision, **assert_device_times_are_plausible(graph_runner))


def test_timing_does_not_change_answers(small_runner: Any, small_engine: BuiltEngine, precision: str) -> None:
    images = noise(3)
    before = small_runner.run(images)
    small_runner.device_times_ms(noise(3, seed=1), 3)
    assert_same(small_runner.run(images), before, SAME_RUNNER[precision])


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])
@pytest.mark.parametrize("torch_precision", PRECISIONS)
def test_torch_is_timed_on_the_gpu(cuda_graph: bool, torch_precision: str, torch_on_gpu: None, record: Record) -> None:
    from ssd_deploy.backends.pytorch import TorchRunner
    from ssd_train import build_network
    from ssd_train.precisions import in_precision

    network = in_precision(build_network(SMALL, weights="random"), torch_precision)
    runner = TorchRunner(network, device="cuda", cuda_graph=cuda_graph)
    assert runner.device_clock == CUDA_EVENTS
    record(precision=torch_precision, **assert_device_times_are_plausible(runner))


def test_onnx_runtime_is_timed_on_the_gpu(
    precision: str, onnxruntime_on_gpu: None, models: Models, record: Record
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(models.onnx(SMALL, precision), device="cuda")
    assert runner.device_clock is not None
    record(precision=precision, **assert_device_times_are_plausible(runner))
