import subprocess
import sys
from pathlib import Path

import pytest

from ssd_train.command_line import user_errors
from ssd_train.errors import BackendError
from ssd_train.requirements import require


@pytest.mark.parametrize(
    "broken",
    [
        "raise ImportError('libGL.so.1: cannot open shared object file')",
        "raise OSError('libcuda.so: file too short')",
        "raise MemoryError",
        "raise RuntimeError('built with another version\\nof numpy')",
        "import a_package_that_nobody_has",
        "syntax error",
    ],
)
def test_package_that_does_not_load_is_one_sentence(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        BackendError, match="^A chart needs broken_package, which is installed but does not load"
    ) as caught:
        require("broken_package", "plots", "A chart")
    assert "\n" not in str(caught.value)


def test_package_that_is_not_there_names_the_extra() -> None:
    with pytest.raises(BackendError, match=r"pip install 'ssd-deploy\[plots\]'"):
        require("a_package_that_nobody_has", "plots", "A chart")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ImportError("libGL.so.1: no such file", name="cv2"), "cv2 does not load (libGL.so.1: no such file)"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "cv2 does not load (No module named 'cv2')"),
        (MemoryError(), "too little memory"),
    ],
)
def test_commands_end_with_a_sentence(error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, user_errors():
        raise error
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_limit_of_memory_that_pytorch_does_not_fit_into() -> None:
    program = """
import resource, sys
import ssd_deploy.cli, ssd_train.command_line, numpy, cv2, onnxruntime
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
sys.argv = ["ssd-deploy", "convert", "--network", "ssd_300_mobilenet0.25_custom", "--weights", "shapes", "--out", "a"]
ssd_deploy.cli.main()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2, run.stderr
    assert "Error: A PyTorch network needs torch, which is installed but does not load" in run.stderr
    assert "Traceback" not in run.stderr
