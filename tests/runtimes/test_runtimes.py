"""An exported file means the same in every runtime that docs/runtimes.md names, and after tools that rewrite it."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from runtimes import FILES, FOLDER, PROGRAMS, REFERENCE, REPOSITORY, RUNTIMES, Answers, Input, Outputs, run

from ssd_deploy.parity.pairs import count_changes
from ssd_train.detections import Detections

# Logits and offsets of this detector; the largest logit is 25.
RAW_TOLERANCE = 1e-4

# Pixels and score. Sums in another order change raw predictions of this detector by up to 3e-5, which is 1e-5 of a
# score at most, and through a variance of 0.1 and an anchor of 300 pixels 1e-3 of a pixel. A value in half precision
# that is rounded the other way is off by 5e-4 of itself.
TOLERANCES = {"fp32": (1e-3, 1e-5), "fp16": (0.1, 2e-3)}

# Single detections of an int8 file hang on where a runtime rounds, and those are few here.
SCORE_THRESHOLD = 0.5
INT8_CHANGED = 0.1

PAIRS = [(runtime, file) for runtime, row in RUNTIMES.items() if runtime != REFERENCE for file in row.files]


@pytest.mark.parametrize(("runtime", "file"), PAIRS)
def test_a_runtime_finds_what_the_newest_onnx_runtime_finds(
    answers: Callable[[str], Answers], runtime: str, file: str
) -> None:
    row = RUNTIMES[runtime]
    version = answers(runtime).version
    if int(version.split(".")[0]) < row.least_major:
        pytest.skip(f"{runtime} is {version} here, and such a file needs {row.least_major}")
    expected, got = answers(REFERENCE).by_file[file], answers(runtime).by_file[file]
    assert not isinstance(expected, str), expected
    problem = got if isinstance(got, str) else differs(file, expected, got)
    if problem is not None and file in row.faults:
        pytest.xfail(f"{row.faults[file]}: {problem}")
    assert problem is None


def differs(file: str, expected: Outputs, got: Outputs) -> str | None:
    """Say how outputs differ by more than the file's precision allows; None where they do not."""
    shapes, expected_shapes = ({name: values.shape for name, values in side.items()} for side in (got, expected))
    if shapes != expected_shapes:
        return f"outputs {shapes} instead of {expected_shapes}"
    if file.endswith("raw"):
        furthest = max(float(np.abs(got[name] - values).max()) for name, values in expected.items())
        return f"raw predictions differ by {furthest}" if not furthest <= RAW_TOLERANCE else None
    precision = file.split("-")[0]
    if precision == "int8":
        changes = count_changes(detections(expected), detections(got), SCORE_THRESHOLD)
        return changes.text() if changes.total < 8 or changes.share > INT8_CHANGED else None
    box_tolerance, score_tolerance = TOLERANCES[precision]
    near = np.abs(expected["boxes"][:, :, None] - got["boxes"][:, None]).max(axis=-1) <= box_tolerance
    near &= np.abs(expected["scores"][:, :, None] - got["scores"][:, None]) <= score_tolerance
    near &= expected["labels"][:, :, None] == got["labels"][:, None]
    alone = alone_in(near, expected["scores"]) + alone_in(near.transpose(0, 2, 1), got["scores"])
    return f"{alone} detections of the two sides have no partner" if alone else None


def alone_in(near: NDArray[np.bool_], scores: NDArray[np.float32]) -> int:
    """Count detections without a partner; padding has -1 everywhere, and is another's partner."""
    assert (scores > 0).any(), "nothing was found, so nothing is compared"
    return int((~near.any(axis=2)).sum())


def detections(outputs: Outputs) -> list[Detections]:
    return [
        Detections(boxes[labels >= 0], scores[labels >= 0], labels[labels >= 0])
        for boxes, scores, labels in zip(outputs["boxes"], outputs["scores"], outputs["labels"], strict=True)
    ]


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(("uint8", "batch"))])
def test_other_inputs_change_nothing(answers: Callable[[str], Answers], file: str) -> None:
    """In one runtime, so that nothing is left to differ but the last bit of the normalisation."""
    plain = file.removesuffix("-uint8").removesuffix("-batch")
    expected, got = (answers(REFERENCE).by_file[name] for name in (plain, file))
    assert not isinstance(expected, str) and not isinstance(got, str), (expected, got)
    assert differs(plain, expected, got) is None


# Tool of `programs/rewrite.py`, file. onnxsim takes ten times as long as the others.
REWRITTEN = [
    ("onnxslim", "fp32"),
    ("onnxslim", "fp16-uint8"),
    ("onnxslim", "int8"),
    ("onnxsim", "fp32"),
    ("version converter", "fp32-uint8"),
    ("version converter", "fp16"),
    ("version converter", "int8"),
]


@pytest.mark.parametrize(("tool", "file"), REWRITTEN)
def test_a_rewritten_file_finds_the_same_and_describes_itself(
    answers: Callable[[str], Answers], inputs: Mapping[str, Input], tool: str, file: str, tmp_path: Path
) -> None:
    source, name, images = inputs[file]
    target = tmp_path / "rewritten.onnx"
    paths = os.pathsep.join([str(FOLDER / "simplifiers"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(PROGRAMS / "rewrite.py"), tool, str(source), str(target)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    before, after = onnx.load(source), onnx.load(target)
    assert before.graph != after.graph or before.opset_import != after.opset_import
    metadata = {entry.key: entry.value for entry in after.metadata_props}
    assert metadata.items() >= {entry.key: entry.value for entry in before.metadata_props}.items()
    expected = answers(REFERENCE).by_file[file]
    (got,) = run(RUNTIMES[REFERENCE], {"rewritten": (target, name, images)}, tmp_path).by_file.values()
    assert not isinstance(expected, str) and not isinstance(got, str), (expected, got)
    assert differs(file, expected, got) is None


def test_the_oldest_release_is_the_one_that_the_package_allows(answers: Callable[[str], Answers]) -> None:
    dependencies = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {match[1] for line in dependencies if (match := re.match(r"onnxruntime(?:-gpu)?>=([\d.]+);", line))}
    assert bounds == {answers("ONNX Runtime, oldest").version.removesuffix(".0")}


def test_the_page_names_the_versions_that_are_pinned() -> None:
    page = (REPOSITORY / "docs" / "runtimes.md").read_text(encoding="utf-8")
    pins = re.findall(r"([\w-]+)(?:==|@)([\d.]+)", (Path(__file__).parent / "make_runtimes.sh").read_text())
    assert len(pins) > 8
    only_needed_by_others = ("numpy", "colorama")
    assert [pin for pin in pins if pin[0] not in only_needed_by_others and pin[1] not in page] == []
