"""Starts tests in a process of their own, in which `tensorrt` is the stand-in of `tests/stand_in/packages`.

    python tests/run_stand_in.py cuda-python|pycuda FILE... [PYTEST OPTION...]

This runs them without a card, on the fake of the CUDA driver: those of `tests/stand_in`, or those for a card, as in
`cuda-python tests/gpu/test_gpu_batches.py -m gpu -k "tensorrt and not rtx"`.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parent
FOLDER = TESTS / "stand_in"

# pycuda links to more functions than the fake driver has; Python would have all of them found at once.
START = "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); import pytest; sys.exit(pytest.main(sys.argv[1:]))"


def command(*arguments: str) -> list[str]:
    """Return the command that runs tests; arguments are pytest's, and files of `tests/stand_in` go by their name."""
    given = [str(FOLDER / name) if (FOLDER / name).is_file() else name for name in arguments]
    return [sys.executable, "-c", START, "-p", "no:cacheprovider", "-p", "stand_in_fixtures", "-v", *given]


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


def main() -> int:
    from fake_driver import compile_fake_driver

    layer, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(layer, compile_fake_driver(Path(folder)))
        return subprocess.run(command(*arguments), env=variables, cwd=TESTS.parent).returncode


if __name__ == "__main__":
    sys.exit(main())
