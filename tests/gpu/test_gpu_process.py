"""Engines in one process: with threads, with PyTorch, through either CUDA package, a thousand times over."""

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_parts import MAX_BATCH, OTHER_BACKEND, SAME_RUNNER, SMALL, Models, Record, assert_same, noise

from export.engine.build import BuiltEngine
from ssd_deploy.backends.base import Runner
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError

pytestmark = pytest.mark.gpu

THREADS = 4
CALLS_A_THREAD = 25

# Cycles of create, run, destroy. TensorRT for RTX compiles its kernels each time, which takes seconds.
CYCLES = {"tensorrt": 1000, "tensorrt-rtx": 30}
WARM_UP_CYCLES = 10

# What the GPU's memory may differ by afterwards. The driver hands it out in blocks of 2 MiB and loads kernels when
# they are first used; over 1,000 cycles this is 16 KiB each, far less than the smallest image buffer.
DEVICE_TOLERANCE = 16 * 2**20

# The same for the process's memory: allocators keep some, a leak of the plan alone (16 MB) would be far more.
HOST_TOLERANCE = 300 * 2**20

LAYERS = ("pycuda", "cuda-python")


def open_layer(layer: str) -> Any:
    """Open the GPU through a named CUDA package.

    Raises:
        BackendError: it is not installed or does not work.
    """
    from ssd_deploy.backends import cuda_open

    return {"pycuda": cuda_open.open_with_pycuda, "cuda-python": cuda_open.open_with_cuda_python}[layer](0)


@pytest.fixture(params=LAYERS)
def device(request: pytest.FixtureRequest, flavour: str) -> Any:
    """The GPU through each CUDA package that works here."""
    try:
        return open_layer(request.param)
    except BackendError as error:
        pytest.skip(f"{request.param}: {error}")


def expected_answers(runner: Runner, calls: int) -> list[PaddedDetections]:
    """Return what a runner answers to `batch_of` 0, 1, ..., in one thread."""
    return [runner.run(batch_of(call)) for call in range(calls)]


def batch_of(call: int) -> Any:
    return noise(1 + call % 3, seed=call)


def call_and_check(runner: Runner, expected: list[PaddedDetections], first: int) -> None:
    """Ask for all answers once, starting with another one in each thread."""
    for turn in range(len(expected)):
        call = (first + turn) % len(expected)
        assert_same(runner.run(batch_of(call)), expected[call], SAME_RUNNER["fp32"])


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work` in several threads that start together; an error in one of them is raised here."""
    together = threading.Barrier(THREADS)

    def start(thread: int) -> None:
        together.wait(60)
        work(thread)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(start, thread) for thread in range(THREADS)]:
            future.result()


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])
def test_several_threads_through_one_runner_get_their_own_answers(
    small_engine: BuiltEngine, device: Any, cuda_graph: bool, open_engine: Callable[..., Any]
) -> None:
    expected = expected_answers(open_engine(small_engine.path), CALLS_A_THREAD)
    shared = open_engine(small_engine.path, device=device, cuda_graph=cuda_graph)
    skip_without_graphs(shared, cuda_graph)
    in_threads(lambda thread: call_and_check(shared, expected, 5 * thread))


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])
def test_a_runner_in_each_thread_gives_the_same_answers(
    small_engine: BuiltEngine, device: Any, cuda_graph: bool, open_engine: Callable[..., Any]
) -> None:
    from ssd_deploy.backends import tensorrt

    first = open_engine(small_engine.path, device=device, cuda_graph=cuda_graph)
    skip_without_graphs(first, cuda_graph)
    expected = expected_answers(first, CALLS_A_THREAD)

    def work(thread: int) -> None:
        own = tensorrt.TensorRTRunner(small_engine.path, device=device, cuda_graph=cuda_graph)
        try:
            call_and_check(own, expected, 5 * thread)
        finally:
            own.close()

    in_threads(work)


def skip_without_graphs(runner: Runner, cuda_graph: bool) -> None:
    """Skip where the CUDA package cannot capture a graph; any other error is one."""
    try:
        runner.run(batch_of(0))
    except BackendError as error:
        if not cuda_graph or "need cuda-python" not in str(error):
            raise
        pytest.skip(str(error))


def test_a_runner_may_be_closed_in_another_thread_than_it_was_opened_in(small_engine: BuiltEngine, device: Any) -> None:
    from ssd_deploy.backends import tensorrt

    with ThreadPoolExecutor(1) as pool:
        runner = pool.submit(tensorrt.TensorRTRunner, small_engine.path, device=device).result()
        pool.submit(runner.run, noise(1)).result()
    runner.run(noise(1))
    runner.close()
    runner.close()
    with pytest.raises(BackendError, match="closed"):
        runner.run(noise(1))


def test_both_cuda_packages_give_the_same_answers(
    small_engine: BuiltEngine, device: Any, models: Models, open_engine: Callable[..., Any], record: Record
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    runner = open_engine(small_engine.path, device=device)
    images = noise(MAX_BATCH)
    assert_same(runner.run(images), OnnxRuntimeRunner(models.onnx(SMALL)).run(images), OTHER_BACKEND)
    assert min(runner.device_times_ms(images, 5)) > 0
    record(layer=runner.device.layer, name=runner.name, driver=device.driver_version)
    free, total = memory_of(device)
    assert 0 < free < total


def test_the_other_cuda_package_stands_in_where_the_first_does_not_work(
    small_engine: BuiltEngine, device: Any, monkeypatch: pytest.MonkeyPatch, open_engine: Callable[..., Any]
) -> None:
    from ssd_deploy.backends import cuda_open

    others = {
        name: opener
        for name, opener in (("pycuda", "open_with_pycuda"), ("cuda-python", "open_with_cuda_python"))
        if not device.layer.startswith(name)
    }

    def broken(index: int) -> Any:
        raise BackendError("does not work")

    for opener in others.values():
        monkeypatch.setattr(cuda_open, opener, broken)
    runner = open_engine(small_engine.path)
    assert runner.device.layer == device.layer
    assert (runner.run(noise(1)).labels >= 0).any()


def memory_of(device: Any) -> tuple[int, int]:
    """Return the GPU's free and total memory in bytes."""
    with device.current():
        free, total = device.memory_info()
    return free, total


def resident_bytes() -> int:
    """Return the memory that this process has in use; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def assert_memory_stays_level(cycle: Callable[[], None], device: Any, cycles: int) -> dict[str, float]:
    """Fail where the memory in use grows over many cycles; the first ones are not looked at."""
    for _ in range(WARM_UP_CYCLES):
        cycle()
    gc.collect()
    free_before, resident_before = memory_of(device)[0], resident_bytes()
    for _ in range(cycles):
        cycle()
    gc.collect()
    device_grown, host_grown = free_before - memory_of(device)[0], resident_bytes() - resident_before
    assert device_grown <= DEVICE_TOLERANCE, f"{device_grown / 2**20:.1f} MiB of the GPU in {cycles} cycles"
    assert host_grown <= HOST_TOLERANCE, f"{host_grown / 2**20:.1f} MiB of memory in {cycles} cycles"
    return {"cycles": cycles, "device_mib": device_grown / 2**20, "host_mib": host_grown / 2**20}


def cycles_of(flavour: str) -> int:
    """Return how many cycles to run; SSD_GPU_CYCLES shortens them."""
    return min(CYCLES[flavour], int(os.environ.get("SSD_GPU_CYCLES", CYCLES[flavour])))


def test_a_thousand_runners_leave_no_memory_behind(
    small_engine: BuiltEngine, flavour: str, device: Any, record: Record
) -> None:
    from ssd_deploy.backends import tensorrt

    images = noise(2)

    def cycle() -> None:
        runner = tensorrt.TensorRTRunner(small_engine.path, device=device)
        runner.run(images)
        runner.close()

    record(layer=device.layer, **assert_memory_stays_level(cycle, device, cycles_of(flavour)))


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "cuda-graph"])
def test_runners_that_were_forgotten_leave_no_memory_behind(
    small_engine: BuiltEngine, flavour: str, device: Any, cuda_graph: bool, open_engine: Callable[..., Any]
) -> None:
    from ssd_deploy.backends import tensorrt

    skip_without_graphs(open_engine(small_engine.path, device=device, cuda_graph=cuda_graph), cuda_graph)

    def cycle() -> None:
        runner = tensorrt.TensorRTRunner(small_engine.path, device=device, cuda_graph=cuda_graph)
        for count in (1, 3):
            runner.run(noise(count))

    assert_memory_stays_level(cycle, device, min(50, cycles_of(flavour)))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("first", ["torch", "engine"])
def test_an_engine_and_torch_share_a_process_whoever_comes_first(
    first: str,
    layer: str,
    flavour: str,
    torch_on_gpu: None,
    small_engine: BuiltEngine,
    models: Models,
    tmp_path: Path,
) -> None:
    from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

    try:
        open_layer(layer)
    except BackendError as error:
        pytest.skip(f"{layer}: {error}")
    images = noise(3)
    answer = OnnxRuntimeRunner(models.onnx(SMALL)).run(images)
    np.savez(tmp_path / "expected.npz", images=images, **answer._asdict())
    # A process of its own: in this one both have been used already.
    script = Path(__file__).with_name("torch_beside_engine.py")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, script, first, layer, small_engine.path, tmp_path / "expected.npz"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "both are right" in done.stdout
    # A context that is destroyed while something still lives in it says so on its way out.
    assert "error" not in done.stderr.lower() and "abort" not in done.stderr.lower(), done.stderr
