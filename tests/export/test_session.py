"""ONNX Runtime as this project opens it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.session import open_session

# Whatever brings in ONNX Runtime; `onnxruntime` itself is looked at while it is found, hence before it runs.
FIRST_IMPORTS = (
    "export.session",
    "export.onnx",
    "export.quantize",
    "export.steps, export.cpu_graph",
    "ssd_deploy.backends.onnxruntime",
    "ssd_deploy.doctor, onnxruntime",
)
CODE = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "onnxruntime":
            print(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
import {}
"""


@pytest.mark.parametrize("modules", FIRST_IMPORTS)
def test_onnx_runtime_reports_nothing_home(modules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    done = subprocess.run([sys.executable, "-c", CODE.format(modules)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]


def test_a_file_whose_name_is_not_utf8_is_opened(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "minus", [value], [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / os.fsdecode(b"mod\xe9l.onnx")
    path.write_bytes(model.SerializeToString())
    (found,) = open_session(path, "it").run(None, {"x": np.ones(1, np.float32)})
    assert found == -1
