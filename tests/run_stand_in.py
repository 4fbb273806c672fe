"""Starts the tests of `tests/stand_in` in a process of their own, in which `tensorrt` is the stand-in.

    python tests/run_stand_in.py cuda-python|pycuda FILE... [PYTEST OPTION...]

Without a card, `fake_driver.py` compiles the CUDA driver that they run on; SSD_FAKE_DRIVER names its folder.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FOLDER = TESTS / "stand_in"

# pycuda links to more functions than the fake driver has; Python would have all of them found at once.
START = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def command(files: Sequence[str], *options: str) -> list[str]:
    """Return the command that runs files of `tests/stand_in`."""
    paths = [str(FOLDER / name) for name in files]
    return [sys.executable, "-c", START, "-p", "no:cacheprovider", "-p", "stand_in_fixtures", "-v", *options, *paths]


def environment(layer: str, driver: Path | None) -> dict[str, str]:
    """Return the variables of the process.

    Args:
        layer: `pycuda` or `cuda-python`, the only one that is used.
        driver: folder of the fake driver; None for a real card.
    """
    # Of the pytest that asks for it, if there is one.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    packages = [FOLDER / "packages", FOLDER, TESTS, TESTS.parent, kept.get("PYTHONPATH", "")]
    kept |= {"PYTHONPATH": os.pathsep.join(filter(None, map(str, packages))), "SSD_STAND_IN_LAYER": layer}
    if driver is not None:
        kept["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, (str(driver), kept.get("LD_LIBRARY_PATH"))))
    return kept


def run(layer: str, files: Sequence[str], *options: str, driver: Path | None) -> subprocess.CompletedProcess[str]:
    """Run files of `tests/stand_in`, and return what they printed."""
    return subprocess.run(
        command(files, *options), env=environment(layer, driver), capture_output=True, text=True, cwd=TESTS.parent
    )
