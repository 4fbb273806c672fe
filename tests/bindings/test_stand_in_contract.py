"""The stand-in for TensorRT has nothing that TensorRT's own bindings do not have, and all that the project calls."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in_contract
from bindings_contract import check, read_sources
from bindings_stubs import Bindings
from stand_in_contract import PACKAGE, STAND_IN, differences, members, offered, write_own_stubs

REPOSITORY = Path(__file__).parents[2]

# The stand-in is one for TensorRT, and not for TensorRT for RTX.
each_version = pytest.mark.parametrize("bindings", ["10", "11"], indirect=True)


@each_version
def test_everything_that_the_stand_in_offers_is_in_the_bindings(bindings: Bindings, stubs: Path) -> None:
    assert list(differences(bindings, stubs)) == []
    # What is compared is not nothing: methods, properties, members of enumerations.
    names = {f"{name}.{member}" for name, node in offered().items() for member in members(node)}
    assert {"IExecutionContext.execute_async_v3", "ICudaEngine.num_io_tensors", "BuilderFlag.TF32"} <= names
    assert len(names) > 100


# A builder that makes nothing.
LESS = "class Builder:\n    def __init__(self, logger: 'ILogger') -> None: ..."

WRONG = {
    "Builder": ("class Builder:\n    def build_engine(self): ...", "Builder.build_engine: the bindings have none"),
    "Runtime": (
        "class Runtime:\n    def deserialize_cuda_engine(self, plan): ...",
        r"Runtime.deserialize_cuda_engine(plan): the bindings have",
    ),
    "ICudaEngine": ("class ICudaEngine:\n    def num_io_tensors(self): ...", "a method in one, none in the other"),
    "IExecutionContext": (
        "class IExecutionContext:\n    def execute_async_v3(self): ...",
        "IExecutionContext.execute_async_v3(): the bindings have",
    ),
    "DataType": ("class DataType:\n    FLOAT32 = 0", "DataType.FLOAT32: the bindings have none"),
    "Engine": ("class Engine: ...", "Engine: no such class"),
}


@each_version
def test_what_the_bindings_do_not_have_is_found(
    bindings: Bindings, stubs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = {name: ast.parse(code).body[0] for name, (code, _) in WRONG.items()}
    monkeypatch.setattr(stand_in_contract, "offered", lambda: wrong)
    found = list(differences(bindings, stubs))
    assert len(found) == len(WRONG)
    for line, (_, words) in zip(found, WRONG.values(), strict=True):
        assert words in line


@pytest.mark.parametrize("bindings", ["10"], indirect=True)
def test_numbers_of_enumerations_are_those_of_tensorrt_10(bindings: Bindings) -> None:
    kinds = [name for name, node in offered().items() if [ast.unparse(base) for base in node.bases] == ["enum.IntEnum"]]
    assert len(kinds) > 5
    code = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
print(json.dumps({name: {key: int(value) for key, value in getattr(module, name).__members__.items()}
                  for name in sys.argv[2:]}))
"""

    def numbers(module: str, **paths: Path) -> dict[str, dict[str, int]]:
        environment = os.environ | {name: str(path) for name, path in paths.items()}
        done = subprocess.run([sys.executable, "-c", code, module, *kinds], env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        read: dict[str, dict[str, int]] = json.loads(done.stdout)
        return read

    assert bindings.packages and bindings.libraries
    theirs = numbers(bindings.module, PYTHONPATH=bindings.packages, LD_LIBRARY_PATH=bindings.libraries)
    ours = numbers("tensorrt.enumerations", PYTHONPATH=PACKAGE.parent)
    for name, values in ours.items():
        assert values.items() <= theirs[name].items(), name


def test_the_project_calls_nothing_that_the_stand_in_does_not_offer(tmp_path: Path) -> None:
    write_own_stubs(tmp_path)
    findings, uses = check(read_sources(REPOSITORY), STAND_IN, tmp_path)
    assert not findings, "\n".join(map(str, findings))
    assert len(uses) > 60


def test_a_call_that_the_stand_in_does_not_offer_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = offered()
    monkeypatch.setattr(stand_in_contract, "offered", lambda: {**classes, "Builder": ast.parse(LESS).body[0]})
    write_own_stubs(tmp_path)
    findings, _ = check(read_sources(REPOSITORY), STAND_IN, tmp_path)
    assert any(
        str(finding).startswith("export/engine/plan.py") and "create_network" in str(finding) for finding in findings
    )
