"""What the packages underneath would tell their makers: nothing leaves the machine, and nothing is kept for later."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from ssd_train.telemetry import REPORTERS, SWITCHES

ROOT = Path(__file__).resolve().parents[2]
STRACE = shutil.which("strace")
# Other calls then run at their usual speed; a container may not allow it.
BPF = (
    ["--seccomp-bpf"]
    if STRACE and subprocess.run([STRACE, "-f", "--seccomp-bpf", "true"], capture_output=True).returncode == 0
    else []
)

DETECT = """
import sys
import numpy as np
# Where strace is missing, this sees at least what Python asks for.
sys.addaudithook(lambda event, arguments: event.startswith("socket.") and print("asked for", event, arguments))
from ssd_deploy import load_detector
detector = load_detector({}, backend={!r}, device="cpu")
detector.detect(np.zeros((64, 64, 3), np.uint8))
print("detected with", detector.runner.name)
"""


def run(code: str, home: Path, trace: Path, **variables: str) -> str:
    """Run Python in a new home folder, under strace where it is; returns what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = kept | threads | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | variables
    tracing = [STRACE, "-f", "-qq", *BPF, "-e", "trace=network,openat", "-o", str(trace)] if STRACE else []
    command = [*tracing, sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def calls_to_others(trace: Path) -> list[str]:
    """System calls that ask for a network or for names of hosts."""
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    sockets = [line for line in lines if re.search(r"\b(socket|connect|sendto|sendmsg|sendmmsg)\(", line)]
    abroad = [line for line in sockets if "AF_INET" in line or "AF_NETLINK" in line]
    return abroad + [line for line in lines if re.search(r"/etc/(resolv\.conf|hosts)\b", line)]


@pytest.mark.parametrize(
    ("model", "backend"),
    [("file", "onnxruntime"), ("file", "openvino"), pytest.param("packaged", "onnxruntime", marks=pytest.mark.slow)],
)
def test_a_detector_looks_nobody_up_and_writes_nothing_home(
    tmp_path: Path, model_path: Path, model: str, backend: str
) -> None:
    pytest.importorskip(backend)
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    named = repr(str(model_path)) if model == "file" else '"ssd_300_mobilenet0.25_custom", weights="shapes"'
    assert run(DETECT.format(named, backend), home, trace).splitlines() == [f"detected with {backend} (CPU)"]
    assert list(home.rglob("*")) == []
    if STRACE is None:
        pytest.skip("strace is not installed: seen were files under the home folder and Python's own sockets alone")
    assert calls_to_others(trace) == []


def test_the_test_sees_a_report(tmp_path: Path) -> None:
    """Without our switch there is one, by ONNX Runtime alone, and Python's look-ups are seen too."""
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29) or sys.platform != "linux":
        pytest.skip(f"onnxruntime {onnxruntime.__version__} reports nothing here")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    run("import socket, onnxruntime\nsocket.socket(socket.AF_INET).close()", home, trace)
    assert list(home.rglob("*")) != []
    assert STRACE is None or calls_to_others(trace) != []


def test_the_test_sees_openvino_s_report_too(tmp_path: Path) -> None:
    installed = {(each.name or "").lower().replace("-", "_") for each in importlib.metadata.distributions()}
    if not installed.issuperset(REPORTERS):
        pytest.skip("openvino is not installed, or without what it reports by")
    home, trace = tmp_path / "home", tmp_path / "trace"
    home.mkdir()
    nowhere = "http://127.0.0.1:9"
    run("import openvino", home, trace, http_proxy=nowhere, https_proxy=nowhere)
    assert list(home.rglob("*")) != []


@pytest.mark.parametrize("package", ["ssd_train", "export", "ssd_deploy", "ssd_deploy.cli"])
def test_every_package_turns_reports_off_and_leaves_a_users_choice(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import os, sys, {package}; print(*(os.environ[name] for name in {tuple(SWITCHES)}))"
    code += f"; assert all(sys.modules[name] is None for name in {REPORTERS})"
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [*SWITCHES.values()]
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0] == "0"
