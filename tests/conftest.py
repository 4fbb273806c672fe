"""What every test may use: the real images and annotations, where this machine has them; a trace for all."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import Forking, forking

# Modules that were loaded when garbage was last collected for good.
_loaded = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Leave what is loaded by now out of collections of garbage, which take half a second with PyTorch's modules.

    A benchmark collects before every turn, and Python does by itself. Exporting and compiling load many more modules.
    """
    global _loaded
    if len(sys.modules) > _loaded + 100:
        _loaded = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, None]:
    """Escape what is no text in the log of a test, which pytest-xdist cannot send."""
    outcome = yield
    report = outcome.get_result()
    report.sections = [
        (title, text.encode("utf-8", "backslashreplace").decode("utf-8")) for title, text in report.sections
    ]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with `coco_tiny` and `bccd`; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("SSD_TEST_DATA", beside))
    if not (folder / "coco_tiny").is_dir():
        pytest.skip(f"no test images in {folder}; set SSD_TEST_DATA to the folder with coco_tiny and bccd")
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[Forking]:
    """Runs commands in processes of their own that need not start Python."""
    with forking() as started:
        yield started


@pytest.fixture(scope="session")
def shared_traces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An export traces only what no test of this run has traced before: see `traced_once`."""
    from traced_once import traced_once

    from export import onnx

    folder = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each of its processes a folder within that of the run.
    traces = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "traces"
    traces.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "_traced", traced_once(onnx._traced, traces))
        yield
