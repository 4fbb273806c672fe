"""What the tests on the stand-in for TensorRT share; a plugin of pytest, named by `run_stand_in.py`.

No `conftest.py`, since whoever collects all tests would import it: it needs the stand-in as `tensorrt`, and so a
process of its own.
"""

import dataclasses
import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorrt
from tensorrt import driver
from tiny_detector import write_tiny

from export.engine.build import BuiltEngine
from export.engine.file import BuildOptions
from ssd_deploy import engines
from ssd_deploy.backends import cuda_open
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.backends.tensorrt import TensorRTRunner
from ssd_train.errors import BackendError

OPENERS = {"pycuda": "open_with_pycuda", "cuda-python": "open_with_cuda_python"}

# Of the tiny detector's engines.
BATCHES = BuildOptions(min_batch=1, opt_batch=2, max_batch=4)


@pytest.fixture(scope="session", autouse=True)
def _one_layer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Only the CUDA package that SSD_STAND_IN_LAYER names is used, and no engine lands in the user's cache."""
    assert "stand-in" in tensorrt.__version__, "this is the real TensorRT"

    def left_out(index: int) -> Any:
        raise BackendError("this run leaves it out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSD_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        for layer, opener in OPENERS.items():
            if layer != os.environ["SSD_STAND_IN_LAYER"]:
                patch.setattr(cuda_open, opener, left_out)
        yield


@pytest.fixture(autouse=True)
def _all_given_back() -> Iterator[None]:
    """A test leaves nothing of TensorRT and CUDA behind and does nothing that they forbid; see `forbidden`."""
    before = held()
    driver.misuses.clear()
    yield
    gc.collect()
    assert driver.misuses == []
    assert held() == before


def held() -> dict[str, int]:
    """Return what is taken and not given back: objects of the stand-in, and handles of the fake driver."""
    objects = {kind: count for kind, count in driver.alive.items() if count}
    return objects | ({"handles": driver.library().fake_live()} if driver.is_fake() else {})


@pytest.fixture
def forbidden() -> Callable[[Callable[[], Any], str], None]:
    """Fail unless an action is found to be a misuse, in such words, and nothing else is."""

    def check(action: Callable[[], Any], words: str) -> None:
        with pytest.raises(driver.Misuse, match=words):
            action()
        found, driver.misuses[:] = list(driver.misuses), []
        assert len(found) == 1, found

    return check


@pytest.fixture(scope="session")
def on_fake_card() -> bool:
    """Whether the driver is the fake."""
    return driver.is_fake()


@pytest.fixture
def needs_fake_card(on_fake_card: bool) -> None:
    if not on_fake_card:
        pytest.skip("only the fake driver shows this")


@pytest.fixture
def device() -> CudaDevice:
    """The card, through the package of this run."""
    return cuda_open.open_device()


@pytest.fixture
def needs_graphs() -> None:
    """Skip where no package here captures a CUDA graph; pycuda leaves that to the other one."""
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("CUDA graphs need cuda-python beside pycuda")


@pytest.fixture(params=[False, True], ids=["eager", "cuda-graph"])
def cuda_graph(request: pytest.FixtureRequest) -> bool:
    """Without CUDA graphs, and with them where a package here captures one."""
    if request.param:
        request.getfixturevalue("needs_graphs")
    return bool(request.param)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.onnx")


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BuiltEngine]:
    """Build a file's engine in a cache of the test's own; keywords are `BuildOptions`'s."""

    def built(onnx: Path, *, flavour: str = "tensorrt", outputs: Any = None, **options: Any) -> BuiltEngine:
        more = {} if outputs is None else {"outputs": outputs}
        asked = dataclasses.replace(BATCHES, **options)
        return engines.engine_for(onnx, asked, flavour=flavour, cache=tmp_path / "cache", **more)

    return built


@pytest.fixture
def engine(build: Callable[..., BuiltEngine], tiny_onnx: Path) -> BuiltEngine:
    """The tiny detector's engine, for one to four images."""
    return build(tiny_onnx)


@pytest.fixture
def open_engine(device: CudaDevice) -> Iterator[Callable[..., TensorRTRunner]]:
    """Open engines; what is still open after the test is closed."""
    opened: list[TensorRTRunner] = []

    def open_path(path: Path, **options: Any) -> TensorRTRunner:
        opened.append(TensorRTRunner(path, **{"device": device, **options}))
        return opened[-1]

    yield open_path
    while opened:
        opened.pop().close()
