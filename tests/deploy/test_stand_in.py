"""The whole way to TensorRT and through it, on a stand-in for the `tensorrt` module and a fake of the CUDA driver.

The tests themselves are in `tests/stand_in`: they need `tensorrt` to be the stand-in, and the process to have a driver.
What they cannot show is TensorRT's own library: see the stand-in, `tests/stand_in/packages/tensorrt`.
"""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from fake_driver import compile_fake_driver
from run_stand_in import TESTS, command, environment

from export.onnx import export_onnx
from ssd_train import build_network

# What each CUDA package is imported as, and how it is called in reports.
LAYERS = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}


def needs(layer: str) -> None:
    """Skip a test where a CUDA package is not installed."""
    module = LAYERS[layer]
    if importlib.util.find_spec(module.split(".")[0]) is None or importlib.util.find_spec(module) is None:
        pytest.skip(f"{layer} is not installed")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake `libcuda.so.1`."""
    return compile_fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("file", ["building_engines.py", "running_engines.py", "finding_misuses.py"])
def test_engines_are_built_refused_and_run_through_each_cuda_package(
    driver: Path, tmp_path: Path, layer: str, file: str
) -> None:
    needs(layer)
    assert_passes(layer, file, driver, tmp_path)


def test_every_command_takes_an_engine(driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("cuda-python")
    network = build_network("ssd_300_mobilenet0.25_custom", weights="shapes")
    monkeypatch.setenv("SSD_STAND_IN_MODEL", str(export_onnx(network, tmp_path)))
    assert_passes("cuda-python", "commands.py", driver, tmp_path)


def assert_passes(layer: str, file: str, driver: Path, folder: Path) -> None:
    """Fail with what was printed unless all tests of a file passed and none was left out."""
    started = command(file, f"--basetemp={folder / 'tests'}")
    done = subprocess.run(started, env=environment(layer, driver), cwd=TESTS.parent, capture_output=True, text=True)
    last = done.stdout.rstrip().splitlines()[-1] if done.stdout.strip() else ""
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", last), done.stdout
    left_out = re.findall(r"^.*SKIPPED.*$", done.stdout, re.MULTILINE)
    assert not left_out or importlib.util.find_spec("cuda") is None, left_out
