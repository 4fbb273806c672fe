"""Compiles the parser of DeepStream's bundle by its own Makefile, and calls it as nvinfer does.

The headers are this project's own, with the published names and layout: DeepStream itself is not there.
"""

import dataclasses
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

# Laid out as an installed DeepStream.
DEEPSTREAM = Path(__file__).with_name("deepstream")
INCLUDES = DEEPSTREAM / "sources" / "includes"
SANITIZERS = "-g -fsanitize=address,undefined -fno-sanitize-recover=all"
# `NvDsInferDataType`.
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "int64": 4, "uint8": 5}


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """An output as nvinfer hands it over; `shape` and `dtype` are those of the values unless they lie."""

    name: str | None
    values: NDArray | None
    shape: tuple[int, ...] | None = None
    dtype: int | None = None

    def packed(self) -> bytes:
        name = None if self.name is None else self.name.encode()
        shape = self.shape if self.shape is not None else self.values.shape
        dtype = self.dtype if self.dtype is not None else TYPES[self.values.dtype.name]
        data = None if self.values is None else np.ascontiguousarray(self.values).tobytes()
        dimensions = struct.pack("<9I", len(shape), *shape, *[0] * (8 - len(shape)))
        return _sized(name) + struct.pack("<i", dtype) + dimensions + _sized(data)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One call: the outputs of one frame, the network's input (height, width), and the lowest score of each class."""

    layers: Sequence[Layer]
    input_size: tuple[int, int]
    thresholds: Sequence[float]
    classes: int | None = None

    def packed(self) -> bytes:
        classes = len(self.thresholds) if self.classes is None else self.classes
        height, width = self.input_size
        head = struct.pack("<4I", width, height, classes, len(self.thresholds))
        layers = b"".join(layer.packed() for layer in self.layers)
        thresholds = np.asarray(self.thresholds, np.float32).tobytes()
        return head + thresholds + struct.pack("<I", len(self.layers)) + layers


@dataclasses.dataclass(frozen=True, eq=False)
class Parsed:
    """What the parser returned, its objects as (K, 4) ltwh, and what it said."""

    worked: bool
    labels: NDArray[np.int64]
    boxes_ltwh: NDArray[np.float32]
    scores: NDArray[np.float32]


def _sized(data: bytes | None) -> bytes:
    return struct.pack("<i", -1) if data is None else struct.pack("<i", len(data)) + data


def compile_parser(sources: Path, folder: Path) -> Path:
    """Return a program that calls the parser in `sources`, a bundle; skip the test without a compiler."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None or shutil.which("make") is None:
        pytest.skip("no g++ or no make to compile the parser of DeepStream's bundle with")
    build = folder / "parser"
    shutil.copytree(sources, build)
    flags = f"CXXFLAGS=-O0 -Wall -Wextra -Werror {SANITIZERS}"
    subprocess.run(["make", "-s", "-C", build, f"CXX={compiler}", f"DEEPSTREAM={DEEPSTREAM}", flags], check=True)
    program = folder / "run_parser"
    library = build / "libnvdsparsebbox_ssd_deploy.so"
    source = DEEPSTREAM / "run_parser.cpp"
    command = [compiler, "-std=c++17", f"-I{INCLUDES}", *SANITIZERS.split(), source, library]
    subprocess.run([*command, f"-Wl,-rpath,{build}", "-o", program], check=True)
    return program


def run_parser(program: Path, cases: Sequence[Case]) -> tuple[list[Parsed], list[str]]:
    """Call the parser for each case; returns what it found, and the lines that it wrote to standard error."""
    done = subprocess.run([program], input=b"".join(case.packed() for case in cases), capture_output=True)
    said = done.stderr.decode()
    assert done.returncode == 0, said
    lines = iter(done.stdout.decode().splitlines())
    parsed = []
    for line in lines:
        worked, count = line.split()
        rows = np.array([next(lines).split() for _ in range(int(count))], np.float64).reshape(-1, 7)
        assert not rows[:, 6].any(), "an object has an angle that nobody set"
        parsed.append(
            Parsed(
                worked == "true",
                rows[:, 0].astype(np.int64),
                rows[:, 1:5].astype(np.float32),
                rows[:, 5].astype(np.float32),
            )
        )
    assert len(parsed) == len(cases)
    return parsed, said.splitlines()
