"""Compiles the fake of the CUDA driver, `fake_driver.c`, so that the real packages run where there is no card."""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def compile_fake_driver(folder: Path) -> Path:
    """Write `folder/libcuda.so.1` and return the folder, for LD_LIBRARY_PATH; skip the test without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for the fake driver")
    source = Path(__file__).with_name("fake_driver.c")
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        folder / "libcuda.so.1",
        source,
        "-ldl",
        "-lpthread",
    ]
    subprocess.run(command, check=True)
    return folder


def has_driver() -> bool:
    """Whether this process finds a CUDA driver, real or fake."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
