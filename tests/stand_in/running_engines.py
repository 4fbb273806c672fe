"""Engines of the stand-in at work: answers, batches, CUDA graphs, threads, a thousand lives, errors inside."""

import dataclasses
import os
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tiny_detector import SPEC, WEIGHTS, answer, batch, write_tiny

from export.engine.build import BuiltEngine
from export.fixed_batch import with_batch
from export.pixel_input import with_pixel_input
from ssd_deploy.backends import BACKENDS, RunOptions
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.backends.tensorrt import TensorRTRunner
from ssd_train.errors import BackendError

Open = Callable[..., TensorRTRunner]

# Sizes rise, fall and repeat, so that no context meets only the shape that it was set up with.
CHANGING_SIZES = (1, 3, 1, 4, 2, 2, 4, 1)

# Create, run, destroy: a thousand times, or as often as the seconds allow, which opening ONNX Runtime's CUDA costs.
CYCLES, LEAST_CYCLES = 1000, 20
SECONDS = float(os.environ.get("SSD_STAND_IN_SECONDS", 120))

# What a process may grow by meanwhile: the image buffer of the tiny detector alone, leaked, would be three times that.
MOST_GROWTH_BYTES = 4 * 2**20


def assert_answers(runner: TensorRTRunner, images: NDArray[np.float32], **weights: Any) -> None:
    """Fail unless a runner answers what NumPy computes, to the last bit."""
    for found, expected in zip(runner.run(images), answer(images, **weights), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_runner_says_that_this_is_a_stand_in(engine: BuiltEngine, open_engine: Open, device: CudaDevice) -> None:
    runner = open_engine(engine.path)
    assert runner.name == f"tensorrt {tensorrt.__version__} ({device.name}, {device.layer})"
    assert "stand-in" in runner.name and runner.spec == SPEC and runner.max_batch_size == 4


def test_every_batch_size_is_answered_as_numpy_computes(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    runner = open_engine(engine.path, cuda_graph=cuda_graph)
    for seed, count in enumerate(CHANGING_SIZES):
        assert_answers(runner, batch(count, seed))
    times = runner.device_times_ms(batch(2), 3)
    assert len(times) == 3 and min(times) > 0
    assert_answers(runner, batch(3, 99))


def test_an_engine_of_pixels_gets_them_as_they_are(
    build: Callable[..., BuiltEngine], tmp_path: Path, open_engine: Open, cuda_graph: bool
) -> None:
    spec = dataclasses.replace(SPEC, mean=(0, 0, 0), std=(1, 1, 1), input_kind="uint8", batch_size=3)

    def taking_pixels(model: onnx.ModelProto) -> None:
        model.CopyFrom(with_batch(with_pixel_input(model, spec), 3))
        helper.set_model_props(model, spec.to_metadata())

    # The file's own number of images takes the place of what is asked for.
    built = build(write_tiny(tmp_path / "pixels.onnx", taking_pixels), max_batch=8)
    assert (built.info.options.min_batch, built.info.options.max_batch) == (3, 3)
    runner = open_engine(built.path, cuda_graph=cuda_graph)
    assert runner.max_batch_size == 3
    for seed, count in enumerate((3, 1, 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)
        found, expected = runner.run(pixels), answer((pixels / np.float32(255)).transpose(0, 3, 1, 2))
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    with pytest.raises(BackendError, match=r"takes uint8 images of shape \(N, 16, 16, 3\)"):
        runner.run(batch(1))


@pytest.mark.usefixtures("needs_graphs")
def test_a_graph_is_captured_once_a_batch_size(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured, launched = [], []
    capture, launch = device.capture, device.launch
    monkeypatch.setattr(device, "capture", lambda *given: captured.append(0) or capture(*given))
    monkeypatch.setattr(device, "launch", lambda *given: launched.append(0) or launch(*given))
    runner = open_engine(engine.path, cuda_graph=True)
    for seed, count in enumerate(CHANGING_SIZES):
        assert_answers(runner, batch(count, seed))
    assert (len(captured), len(launched)) == (len(set(CHANGING_SIZES)), len(CHANGING_SIZES))


def test_a_batch_below_the_profile_is_filled_up_and_one_above_refused(
    build: Callable[..., BuiltEngine], tiny_onnx: Path, open_engine: Open
) -> None:
    runner = open_engine(build(tiny_onnx, min_batch=2, max_batch=3).path)
    for count in (1, 2, 3):
        assert_answers(runner, batch(count, count))
    with pytest.raises(BackendError, match="a batch of 4 images, but the engine takes at most 3"):
        runner.run(batch(4))
    assert_answers(runner, batch(1))


def in_threads(work: Callable[[int], None], count: int = 4) -> None:
    """Run `work` in threads that start together; an error in one of them is raised here."""
    together = threading.Barrier(count)

    def start(thread: int) -> None:
        together.wait(60)
        work(thread)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(start, thread) for thread in range(count)]:
            future.result()


def test_threads_that_share_a_runner_get_their_own_answers(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    runner = open_engine(engine.path, cuda_graph=cuda_graph)

    def work(thread: int) -> None:
        for call in range(25):
            assert_answers(runner, batch(1 + (thread + call) % 4, 100 * thread + call))

    in_threads(work)


def test_a_runner_in_each_thread_is_opened_run_and_closed_there(engine: BuiltEngine, device: CudaDevice) -> None:
    def work(thread: int) -> None:
        for life in range(5):
            own = TensorRTRunner(engine.path, device=device)
            for call in range(5):
                assert_answers(own, batch(1 + (thread + call) % 4, 100 * thread + 10 * life + call))
            own.close()

    in_threads(work)


def test_a_runner_may_be_closed_in_another_thread_than_it_was_opened_in(
    engine: BuiltEngine, device: CudaDevice
) -> None:
    with ThreadPoolExecutor(1) as pool:
        runner = pool.submit(TensorRTRunner, engine.path, device=device).result()
    assert_answers(runner, batch(2))
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="the runner was closed"):
        runner.run(batch(1))


def free_bytes(device: CudaDevice) -> int:
    with device.current():
        return device.memory_info()[0]


def live(cycle: Callable[[], None], device: CudaDevice) -> tuple[int, int]:
    """Live a thousand lives; returns how many, and by how many bytes this process's greatest size grew meanwhile.

    Fails where a card's memory is not given back.
    """
    for _ in range(LEAST_CYCLES):
        cycle()
    free, start, cycles = free_bytes(device), time.monotonic(), 0
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while cycles < CYCLES and (cycles < LEAST_CYCLES or time.monotonic() - start < SECONDS):
        cycle()
        cycles += 1
    assert free - free_bytes(device) <= 16 * 2**20, f"memory of the card, after {cycles} cycles"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest)
    print(f"{cycles} cycles of create, run, destroy: {grown} bytes more at most")
    return cycles, grown


def test_a_thousand_runners_leave_nothing_behind(
    engine: BuiltEngine, device: CudaDevice, on_fake_card: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    images = batch(2)
    expected = answer(images)

    def cycle() -> None:
        runner = TensorRTRunner(engine.path, device=device)
        np.testing.assert_array_equal(runner.run(images).boxes, expected.boxes)
        runner.close()

    cycles, grown = live(cycle, device)
    with capfd.disabled():
        print(f"[{cycles} lives, {grown >> 10} KiB more] ", end="", flush=True)
    assert cycles == CYCLES or not on_fake_card
    assert grown <= MOST_GROWTH_BYTES or not on_fake_card


def test_runners_that_were_forgotten_leave_nothing_behind(
    engine: BuiltEngine, device: CudaDevice, cuda_graph: bool
) -> None:
    for life in range(20):
        runner = TensorRTRunner(engine.path, device=device, cuda_graph=cuda_graph)
        for count in (1, 3):
            assert_answers(runner, batch(count, life))
        del runner


# --- Errors inside an execution ---


def look_up_beyond_the_end(model: onnx.ModelProto) -> None:
    """Let the labels be entries of a table of eight, at places that the scores name."""
    model.graph.initializer.append(numpy_helper.from_array(np.arange(8), "table"))
    model.graph.node[3].output[0] = "places"
    model.graph.node.append(helper.make_node("Gather", ["table", "places"], ["labels"], name="node_table"))


@pytest.mark.usefixtures("needs_fake_card")
def test_an_error_inside_an_execution_reaches_the_caller_and_the_next_call_works(
    build: Callable[..., BuiltEngine], tmp_path: Path, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    weights = np.zeros_like(WEIGHTS)
    weights[:, 0, 0, 0] = 1
    path = write_tiny(tmp_path / "table.onnx", look_up_beyond_the_end, weights)
    runner = open_engine(build(path).path, cuda_graph=cuda_graph)
    good, bad = np.zeros((1, 3, 16, 16), np.float32), np.full((1, 3, 16, 16), 50, np.float32)
    good[0, 0, 0, 0] = 3
    for _ in range(2):
        np.testing.assert_array_equal(runner.run(good).labels, [[3, 3, 3, 3]])
        for call in (runner.run, lambda images: runner.device_times_ms(images, 1)):
            with pytest.raises(BackendError, match="launch failure"):
                call(bad)
    np.testing.assert_array_equal(runner.run(good).labels, [[3, 3, 3, 3]])


def test_an_engine_is_opened_by_its_row_on_the_card_that_is_named(engine: BuiltEngine) -> None:
    runner = BACKENDS["tensorrt"].open(engine.path, RunOptions(device="cuda:0"))
    assert_answers(runner, batch(3))  # type: ignore[arg-type]
    runner.close()  # type: ignore[attr-defined]
    finding = BACKENDS["tensorrt"].probe("cuda")
    assert finding.works and tensorrt.__version__ in finding.detail
