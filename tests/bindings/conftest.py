"""The bindings of each version, and stubs of them, written once for all tests here."""

import importlib.util
import os
from pathlib import Path

import pytest
from bindings_stubs import RTX, VERSIONS, Bindings, made_bindings, write_stubs

REPOSITORY = Path(__file__).parents[2]


def _bindings(version: str) -> Bindings:
    if version == "rtx":
        if importlib.util.find_spec("tensorrt_rtx") is None:
            pytest.skip("tensorrt_rtx is not installed: pip install 'ssd-deploy[tensorrt-rtx]'")
        return RTX
    folder = Path(os.environ.get("SSD_BINDINGS_DIR") or REPOSITORY / ".bindings")
    if not (folder / "made").is_file():
        pytest.skip(f"there are no TensorRT bindings in {folder}: bash tests/bindings/make_bindings.sh")
    return made_bindings(folder, version)


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stubs")


@pytest.fixture(scope="session", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, stubs: Path) -> Bindings:
    found = _bindings(request.param)
    write_stubs(found, stubs)
    return found
