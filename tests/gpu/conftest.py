"""What the tests on a GPU run on: each part that is missing here is a skip with its own reason.

SSD_GPU_MODELS names a folder with models that `export_models.py` made, SSD_GPU_CACHE one that keeps engines,
SSD_GPU_RESULTS a file that gets a line of JSON for each measurement, SSD_GPU_IMAGES how many images of
coco_tiny are used (all of them).
"""

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gpu_parts import MAX_BATCH, PRECISIONS, SMALL, Models, Record, append_record

from export.engine.build import BuiltEngine
from export.engine.flavours import FLAVOURS
from ssd_deploy import doctor
from ssd_deploy.backends import Finding
from ssd_deploy.backends.base import Runner
from ssd_train.spec import RAW_NAMES

# Fixture -> the backend, by doctor's name, that a test with it needs.
NEEDS = {"tensorrt_flavour": "tensorrt", "torch_on_gpu": "torch (cuda)", "onnxruntime_on_gpu": "onnxruntime (cuda)"}


@functools.cache
def works() -> dict[str, Finding]:
    """Return what works here, by the names of `ssd-deploy doctor`."""
    return doctor.examine()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose backend does not work here, with doctor's reason: the package, the driver or the card.

    Done here and not in the fixtures, so that pytest folds all tests of a reason into one line.
    """
    assert isinstance(item, pytest.Function)
    needed = [backend for fixture, backend in NEEDS.items() if fixture in item.fixturenames]
    if "flavour" in item.fixturenames:
        needed.append(item.callspec.params["flavour"])
    for backend in needed:
        finding = works()[backend]
        if not finding.works:
            pytest.skip(f"{backend}: {finding.detail}")


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    """Each flavour of TensorRT that runs engines here."""
    return str(request.param)


@pytest.fixture
def tensorrt_flavour() -> str:
    """TensorRT itself, for what TensorRT for RTX does not have."""
    return "tensorrt"


@pytest.fixture
def torch_on_gpu() -> None:
    """PyTorch finds a GPU."""


@pytest.fixture
def onnxruntime_on_gpu() -> None:
    """ONNX Runtime has CUDA and finds a GPU."""


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    named = os.environ.get("SSD_GPU_MODELS")
    folder = Path(named) if named else tmp_path_factory.mktemp("models")
    cache = os.environ.get("SSD_GPU_CACHE")
    return Models(folder, Path(cache) if cache else tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def coco_tiny(real_data: Path) -> Path:
    return real_data / "coco_tiny"


@pytest.fixture(scope="session")
def image_limit() -> int | None:
    """How many images of coco_tiny to use; None for all."""
    named = os.environ.get("SSD_GPU_IMAGES")
    return int(named) if named else None


@pytest.fixture
def small_engine(models: Models, flavour: str) -> BuiltEngine:
    """The small network in float32, for batches of 1 to 5."""
    return models.engine(SMALL, "fp32", flavour, opt_batch=2, max_batch=MAX_BATCH)


@pytest.fixture
def open_engine(models: Models) -> Iterator[Callable[..., Any]]:
    """Open engines by path; what is still open after the test is closed."""
    from ssd_deploy.backends import tensorrt

    opened: list[Runner] = []

    def open_path(path: Path, **options: Any) -> Runner:
        opened.append(tensorrt.TensorRTRunner(path, **options))
        return opened[-1]

    yield open_path
    for runner in opened:
        runner.close()


@pytest.fixture
def small_runner(models: Models, flavour: str, precision: str, open_engine: Callable[..., Any]) -> Any:
    """The small network in each precision, with its raw predictions."""
    engine, raw = (
        models.engine(SMALL, precision, flavour, opt_batch=2, max_batch=MAX_BATCH, **outputs).path
        for outputs in ({}, {"outputs": RAW_NAMES})
    )
    return open_engine(engine, raw=raw)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Keep what a test measured, in its report and in the file of SSD_GPU_RESULTS."""

    def keep(**values: Any) -> None:
        for name, value in values.items():
            request.node.user_properties.append((name, value))
        named = os.environ.get("SSD_GPU_RESULTS")
        if named:
            append_record(Path(named), {"test": request.node.name} | values)

    return keep
