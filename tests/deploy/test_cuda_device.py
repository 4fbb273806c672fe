"""The two device layers: which one is chosen, what is said where neither works, and every call they make.

The calls go to a fake of the driver's library in C, compiled by the test, so that the real packages run.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_driver import compile_fake_driver, has_driver

from ssd_deploy.backends import cuda_device, cuda_open
from ssd_deploy.backends.cuda_device import DriverError
from ssd_deploy.backends.cuda_open import device_index, open_device
from ssd_train.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ROOT / "ssd_deploy" / "backends"


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


needs_cuda_python = pytest.mark.skipif(
    not installed("cuda") or not installed("cuda.bindings"), reason="cuda-python is not installed"
)


def patch_layers(monkeypatch: pytest.MonkeyPatch, pycuda: Any, cuda_python: Any) -> None:
    """Let each layer open to a value, or raise the error that is given."""

    def opener(result: Any) -> Any:
        def opened(index: int) -> Any:
            if isinstance(result, Exception):
                raise result
            return result, index

        return opened

    monkeypatch.setattr(cuda_open, "open_with_pycuda", opener(pycuda))
    monkeypatch.setattr(cuda_open, "open_with_cuda_python", opener(cuda_python))


# --- Which layer, and what is said where there is none ---


def test_pycuda_comes_before_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_layers(monkeypatch, "pycuda", "cuda-python")
    assert open_device() == ("pycuda", 0)


@pytest.mark.parametrize("error", [BackendError("not there"), DriverError("no GPU")])
def test_cuda_python_stands_in(monkeypatch: pytest.MonkeyPatch, error: BackendError) -> None:
    patch_layers(monkeypatch, error, "cuda-python")
    assert open_device(3) == ("cuda-python", 3)


def test_missing_packages_and_how_to_get_them_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError) as caught:
        open_device()
    assert str(caught.value) == (
        "no CUDA package for Python works (pycuda is not installed; cuda-python is not installed); "
        "install one: pip install cuda-python"
    )
    assert not isinstance(caught.value, DriverError)


def test_missing_driver_is_another_error_than_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_layers(monkeypatch, BackendError("pycuda is not installed"), DriverError("cuda-python finds no driver"))
    with pytest.raises(DriverError) as caught:
        open_device(1)
    assert str(caught.value) == (
        "no usable NVIDIA GPU 1 and driver (pycuda is not installed; cuda-python finds no driver); run this where "
        "`nvidia-smi` lists the GPU, or use an ONNX file in ONNX Runtime on the CPU"
    )


@needs_cuda_python
@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_a_process_ends_with_the_sentence_and_no_crash() -> None:
    code = """
from ssd_deploy.backends.cuda_device import DriverError
from ssd_deploy.backends.cuda_open import open_device
for attempt in range(2):
    try:
        open_device()
    except DriverError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    # cuda-python 12.8 gives another reason the second time.
    assert all(line.startswith("no usable NVIDIA GPU 0 and driver (") for line in (first, second))


# --- The layers at work, on a fake driver ---

EXERCISE = """
import ctypes, json, os, sys, threading
import numpy as np
# pycuda links to many more functions than it is asked for here, and the fake driver has only those.
sys.setdlopenflags(os.RTLD_LAZY)
from ssd_deploy.backends import cuda_open
from ssd_train.errors import BackendError

driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
driver.fake_context.restype = ctypes.c_uint64
facts = {"errors": {}}

def opened(index=0):
    return getattr(cuda_open, sys.argv[1])(index)

def failure(name, action):
    try:
        action()
    except BackendError as error:
        facts["errors"][name] = [type(error).__name__, str(error)]

def work():
    device = opened()
    facts["device"] = [device.layer, device.name, device.compute_capability, device.driver_version]
    facts["depth after opening"] = driver.fake_depth()
    with device.current():
        facts["memory"] = device.memory_info()
        stream, address = device.create_stream(), device.allocate(4000)
        source, target = device.host_array((10, 100), np.float32), device.host_array((10, 100), np.float32)
        source[:] = np.arange(1000).reshape(10, 100)
        target[:] = 0
        device.copy_to_device(address, source[:4], stream)
        device.copy_to_host(target[:4], address, stream)
        device.synchronize(stream)
        facts["copied"] = bool((target[:4] == source[:4]).all() and (target[4:] == 0).all())
        start, end = device.create_event(), device.create_event()
        device.record(start, stream)
        device.record(end, stream)
        facts["elapsed"] = device.elapsed_ms(start, end)
        before = driver.fake_live()
        def graph():
            made = device.capture(stream, lambda: facts.update(captured=True))
            device.launch(made, stream)
            device.destroy_graph(made)
        failure("graph", graph)
        def broken():
            raise BackendError("from within")
        failure("broken capture", lambda: device.capture(stream, broken))
        facts["left by graphs"] = driver.fake_live() - before
        failure("device memory", lambda: device.allocate(4 << 30))
        failure("host memory", lambda: device.host_array((1 << 30, 2), np.float32))
        facts["taken"] = driver.fake_live()
    def free():
        with device.current():
            for event in (start, end):
                device.destroy_event(event)
            for array in (source, target):
                device.free_host_array(array)
            device.free(address)
            device.destroy_stream(stream)
        facts["depth after freeing"] = driver.fake_depth()
    other = threading.Thread(target=free)
    other.start()
    other.join()
    facts["left"] = driver.fake_live()
    failure("no context", lambda: device.allocate(10))
    def block():
        with device.current():
            raise BackendError("in the block")
    failure("block", block)
    facts["depth at the end"] = driver.fake_depth()

# A thread that ends: pycuda aborts the process if anything is left on its stack of contexts.
thread = threading.Thread(target=work)
thread.start()
thread.join()
work()
failure("index", lambda: opened(2))
with opened(1).current():
    facts["second"] = [opened(1).name, driver.fake_context()]
driver.cuCtxPushCurrent_v2(ctypes.c_void_p(0x77))
with opened().current():
    facts["inside"] = driver.fake_context()
facts["restored"] = driver.fake_context()
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake `libcuda.so.1`."""
    return compile_fake_driver(tmp_path_factory.mktemp("driver"))


def run_on(fake_driver: Path, code: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LD_LIBRARY_PATH": str(fake_driver)} | settings
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize("layer", ["pycuda", "cuda_python"])
def test_layer_moves_memory_times_captures_and_leaves_nothing(fake_driver: Path, layer: str) -> None:
    module = {"pycuda": "pycuda", "cuda_python": "cuda.bindings"}[layer]
    if not installed(module.split(".")[0]) or not installed(module):
        pytest.skip(f"{module} is not installed")
    done = run_on(fake_driver, EXERCISE, f"open_with_{layer}")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    facts = json.loads(done.stdout)
    name, *rest = facts["device"]
    assert re.fullmatch(r"(pycuda|cuda-python) \d+\.[\d.]+", name)
    assert rest == ["Fake GPU 0", "8.9", "CUDA 13.2"]
    assert facts["memory"] == [2**30, 2**31]
    assert facts["copied"] and facts["elapsed"] == 1.5
    assert facts["taken"] == 6 and facts["left"] == facts["left by graphs"] == 0
    assert [facts[f"depth {when}"] for when in ("after opening", "after freeing", "at the end")] == [0, 0, 0]
    assert facts["second"] == ["Fake GPU 1", 0x1001]
    assert (facts["inside"], facts["restored"]) == (0x1000, 0x77)
    errors = facts["errors"]
    assert "GPU memory of 4096.0 MiB cannot be had (1024 of 2048 MiB of the GPU are free)" in errors["device memory"][1]
    assert "page-locked memory" in errors["host memory"][1]
    assert "cuMemAlloc failed" in errors["no context"][1]
    assert errors["index"][0] == "DriverError" and "there is no GPU 2, CUDA sees 2" in errors["index"][1]
    assert errors["block"][1] == "in the block"
    if installed("cuda"):
        assert facts["captured"] and "graph" not in errors
        assert errors["broken capture"][1] == "from within"
    else:
        assert errors["graph"][1].startswith("CUDA graphs need cuda-python")


@needs_cuda_python
@pytest.mark.parametrize("visible", ["", " ", "-1", "-1,0", ",0"])
def test_no_gpu_is_found_where_the_environment_hides_all(fake_driver: Path, visible: str) -> None:
    code = """
from ssd_deploy.engines import find_gpu
from ssd_train.errors import BackendError
try:
    print(find_gpu().name)
except BackendError as error:
    print(type(error).__name__, error)
"""
    done = run_on(fake_driver, code, CUDA_VISIBLE_DEVICES=visible)
    words = f"DriverError no GPU is visible: CUDA_VISIBLE_DEVICES is {visible!r}; unset it, or name a GPU in it"
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, words, "")


@needs_cuda_python
@pytest.mark.parametrize("visible", ["0", "1,-1", "GPU-8932f937-d72c"])
def test_a_gpu_that_the_environment_names_is_found(fake_driver: Path, visible: str) -> None:
    code = "from ssd_deploy.engines import find_gpu; print(find_gpu().name)"
    done = run_on(fake_driver, code, CUDA_VISIBLE_DEVICES=visible)
    assert (done.returncode, done.stdout.strip()) == (0, "Fake GPU 0"), done.stderr


@needs_cuda_python
def test_the_card_of_an_index_is_described_and_made_current(fake_driver: Path) -> None:
    code = """
import ctypes
from ssd_deploy.engines import find_gpu
driver = ctypes.CDLL("libcuda.so.1", mode=ctypes.RTLD_GLOBAL)
driver.fake_context.restype = ctypes.c_uint64
gpu = find_gpu(1)
with gpu.current():
    print(gpu.name, gpu.compute_capability, hex(driver.fake_context()))
print(driver.fake_depth())
"""
    done = run_on(fake_driver, code)
    assert done.stdout.split("\n")[:2] == ["Fake GPU 1 8.9 0x1001", "0"], done.stderr


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("auto", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_a_device_is_a_number_of_cuda(device: str, index: int) -> None:
    assert device_index(device) == index


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:x", "cuda:-1", "tensorrt", "", "cuda:\u00b2"])
def test_what_is_no_gpu_is_refused(device: str) -> None:
    with pytest.raises(BackendError, match="is no NVIDIA GPU; choose cuda, cuda:N or auto") as caught:
        device_index(device)
    assert caught.value.arguments == ("device",)


@needs_cuda_python
@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("FAKE_NO_DEVICE", "DriverError cuda-python: cuInit failed with CUDA_ERROR_NO_DEVICE (some error)"),
        (
            "FAKE_BROKEN",
            "BackendError cuda-python: cuStreamSynchronize failed with CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory "
            "access was encountered)",
        ),
    ],
)
def test_status_of_cuda_python_is_looked_at(fake_driver: Path, setting: str, words: str) -> None:
    code = """
from ssd_deploy.backends.cuda_open import open_with_cuda_python
from ssd_train.errors import BackendError
try:
    device = open_with_cuda_python(0)
    with device.current():
        device.synchronize(device.create_stream())
except BackendError as error:
    print(type(error).__name__, error)
"""
    done = run_on(fake_driver, code, **{setting: "1"})
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, words, "")


@needs_cuda_python
def test_every_function_that_is_used_is_in_the_installed_cuda_python() -> None:
    from cuda.bindings import driver

    text = (BACKENDS / "cuda_python.py").read_text(encoding="utf-8")
    names = set(re.findall(r"\bdriver\.(\w+)", text))
    assert len(names) > 30
    assert [name for name in sorted(names) if not hasattr(driver, name)] == []


def test_graphs_with_pycuda_alone_name_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssd_deploy.backends.cuda_pycuda import PycudaDevice

    monkeypatch.setattr(cuda_device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"^CUDA graphs need cuda-python beside pycuda.*pip install cuda-python$"):
        PycudaDevice.capture(object.__new__(PycudaDevice), 1, lambda: None)
