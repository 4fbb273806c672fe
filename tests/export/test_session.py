"""ONNX Runtime as this project opens it."""

import subprocess
import sys

import pytest

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
