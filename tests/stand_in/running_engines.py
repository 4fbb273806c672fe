"""Engines of the stand-in at work: answers, batches, CUDA graphs, threads, a thousand lives, errors inside."""

import os
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tensorrt import driver
from tiny_detector import SPEC, WEIGHTS, answer, batch, write_tiny

from export.engine.bindings import Messages, make_logger
from export.engine.build import BuiltEngine
from ssd_deploy.backends import BACKENDS, RunOptions
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.backends.tensorrt import TensorRTRunner
from ssd_train.errors import BackendError

Open = Callable[..., TensorRTRunner]

# Sizes rise, fall and repeat, so that no context meets only the shape that it was set up with.
CHANGING_SIZES = (1, 3, 1, 4, 2, 2, 4, 1)

eager_and_graph = pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])

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


def opens_graphs(device: CudaDevice, cuda_graph: bool) -> bool:
    """Whether the CUDA package can do what is asked; pycuda needs the other one for graphs."""
    return not cuda_graph or device.layer.startswith("cuda-python") or _has_cuda_python()


def _has_cuda_python() -> bool:
    try:
        import cuda.bindings  # noqa: F401
    except ImportError:
        return False
    return True


def test_a_runner_says_that_this_is_a_stand_in(engine: BuiltEngine, open_engine: Open, device: CudaDevice) -> None:
    runner = open_engine(engine.path)
    assert runner.name == f"tensorrt {tensorrt.__version__} ({device.name}, {device.layer})"
    assert "stand-in" in runner.name and runner.spec == SPEC and runner.max_batch_size == 4


@eager_and_graph
def test_every_batch_size_is_answered_as_numpy_computes(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    if not opens_graphs(device, cuda_graph):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
    runner = open_engine(engine.path, cuda_graph=cuda_graph)
    for seed, count in enumerate(CHANGING_SIZES):
        assert_answers(runner, batch(count, seed))
    times = runner.device_times_ms(batch(2), 3)
    assert len(times) == 3 and min(times) > 0
    assert_answers(runner, batch(3, 99))


def test_a_graph_is_captured_once_a_batch_size(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not opens_graphs(device, True):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
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


@eager_and_graph
def test_threads_that_share_a_runner_get_their_own_answers(
    engine: BuiltEngine, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    if not opens_graphs(device, cuda_graph):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
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


@eager_and_graph
def test_runners_that_were_forgotten_leave_nothing_behind(
    engine: BuiltEngine, device: CudaDevice, cuda_graph: bool
) -> None:
    if not opens_graphs(device, cuda_graph):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
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
@eager_and_graph
def test_an_error_inside_an_execution_reaches_the_caller_and_the_next_call_works(
    build: Callable[..., BuiltEngine], tmp_path: Path, open_engine: Open, device: CudaDevice, cuda_graph: bool
) -> None:
    if not opens_graphs(device, cuda_graph):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
    weights = np.zeros_like(WEIGHTS)
    weights[:, 0, 0, 0] = 1
    path = write_tiny(tmp_path / "table.onnx", look_up_beyond_the_end, weights)
    runner = open_engine(build(path).path, cuda_graph=cuda_graph)
    good, bad = np.zeros((1, 3, 16, 16), np.float32), np.full((1, 3, 16, 16), 50, np.float32)
    good[0, 0, 0, 0] = 3
    for _ in range(2):
        np.testing.assert_array_equal(runner.run(good).labels, [[3, 3, 3, 3]])
        for call in (runner.run, lambda images: runner.device_times_ms(images, 1)):
            with pytest.raises(BackendError, match="(?i)launch.?failed"):
                call(bad)
    np.testing.assert_array_equal(runner.run(good).labels, [[3, 3, 3, 3]])


# --- What the stand-in finds wrong, so that the tests above can fail ---


@pytest.fixture
def context(engine: BuiltEngine, device: CudaDevice) -> Any:
    """An execution context of the tiny detector, `made`, with nothing set; what belongs to it; what was logged."""
    messages = Messages()
    with device.current():
        runtime = tensorrt.Runtime(make_logger(tensorrt, messages))
        loaded = runtime.deserialize_cuda_engine(engine.path.read_bytes())
        assert loaded is not None
        stream = device.create_stream()
        addresses = {name: device.allocate(4096) for name in ("boxes", "scores", "labels")}
        addresses["images"] = device.allocate(4 * 3 * 16 * 16 * 4)
        # pytest keeps what a fixture gives longer than the fixture does.
        kept = SimpleNamespace(
            made=loaded.create_execution_context(), addresses=addresses, stream=stream, messages=messages
        )
        yield kept
        del kept.made, loaded, runtime
        for address in addresses.values():
            device.free(address)
        device.destroy_stream(stream)


def make_ready(made: Any, addresses: dict[str, int], count: int = 2) -> None:
    assert made.set_input_shape("images", (count, 3, 16, 16)) and made.infer_shapes() == []
    assert all(made.set_tensor_address(name, address) for name, address in addresses.items())


def test_what_is_not_set_and_what_does_not_fit_is_refused_in_words(context: Any) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    assert made.infer_shapes() == ["images"] and not made.execute_async_v3(stream)
    assert not made.set_input_shape("images", (5, 3, 16, 16)) and not made.set_input_shape("boxes", (1, 4, 4))
    assert not made.set_tensor_address("image", addresses["images"])
    assert not made.set_tensor_address("images", addresses["images"] + 8)
    assert made.set_input_shape("images", (2, 3, 16, 16)) and not made.execute_async_v3(stream)
    assert tuple(made.get_tensor_shape("boxes")) == (2, 4, 4)
    assert [words.split(" ")[-3:] for words in context.messages.errors] == [
        ["is", "not", "set"], ["3,", "16,", "16)"], ["no", "input", "boxes"], ["no", "tensor", "image"],
        ["multiple", "of", "256"], ["is", "not", "set"],
    ]  # fmt: skip


def test_memory_that_was_given_back_or_is_too_small_is_a_misuse(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    small = device.allocate(64)
    made.set_tensor_address("boxes", small)
    forbidden(lambda: made.execute_async_v3(stream), "boxes: 128 bytes are not within memory")
    device.free(small)
    forbidden(lambda: made.execute_async_v3(stream), "boxes: 128 bytes are not within memory")


def test_nothing_happens_before_somebody_waits(context: Any, device: CudaDevice, needs_fake_card: None) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    host, images = device.host_array((2, 4, 4), np.float32), device.host_array((2, 3, 16, 16), np.float32)
    images[:], host[:] = batch(2), 77
    device.copy_to_device(addresses["images"], images, stream)
    assert made.execute_async_v3(stream)
    device.copy_to_host(host, addresses["boxes"], stream)
    assert (host == 77).all()
    device.synchronize(stream)
    np.testing.assert_array_equal(host, answer(batch(2)).boxes)
    device.free_host_array(host)
    device.free_host_array(images)


def test_memory_that_is_given_back_before_the_work_is_done_is_an_error(
    context: Any, device: CudaDevice, needs_fake_card: None
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    assert made.execute_async_v3(stream)
    device.free(addresses.pop("labels"))
    with pytest.raises(BackendError, match="(?i)illegal.?address"):
        device.synchronize(stream)
    assert driver.misuses == ["labels: 64 bytes are not within memory that the card has given"]
    driver.misuses.clear()


def test_the_first_run_after_a_change_of_shapes_cannot_be_captured(context: Any, device: CudaDevice) -> None:
    if not opens_graphs(device, True):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    device.destroy_graph(device.capture(stream, lambda: made.execute_async_v3(stream)))
    assert context.messages.errors == ["stand-in: the first run after a change of shapes cannot be captured"]


def test_a_context_that_was_captured_stays_as_it_is(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    if not opens_graphs(device, True):
        pytest.skip("CUDA graphs need cuda-python beside pycuda")
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    assert made.execute_async_v3(stream)
    device.synchronize(stream)
    graph = device.capture(stream, lambda: made.execute_async_v3(stream))
    forbidden(lambda: made.set_input_shape("images", (1, 3, 16, 16)), "after a graph was captured")
    device.destroy_graph(graph)


@pytest.mark.usefixtures("needs_fake_card")
def test_streams_and_contexts_have_to_be_there(
    context: Any, device: CudaDevice, forbidden: Callable[..., None]
) -> None:
    made, addresses, stream = context.made, context.addresses, context.stream
    make_ready(made, addresses)
    gone = device.create_stream()
    device.destroy_stream(gone)
    forbidden(lambda: made.execute_async_v3(gone), "a stream that is not there")
    with ThreadPoolExecutor(1) as pool:
        forbidden(lambda: pool.submit(made.execute_async_v3, stream).result(), "without a current CUDA context")


def test_an_engine_is_opened_by_its_row_on_the_card_that_is_named(engine: BuiltEngine) -> None:
    runner = BACKENDS["tensorrt"].open(engine.path, RunOptions(device="cuda:0"))
    assert_answers(runner, batch(3))  # type: ignore[arg-type]
    runner.close()  # type: ignore[attr-defined]
    finding = BACKENDS["tensorrt"].probe("cuda")
    assert finding.works and tensorrt.__version__ in finding.detail
