"""Every script of benchmarks/ starts, and benchmarks/README.md says what it answers."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # imports every library that a measurement needs

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.fixture
def as_script(monkeypatch):
    """Let a script run here as `python benchmarks/SCRIPT --help` does, with torch imported once for all of them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(name):
        monkeypatch.setattr(sys, "argv", [str(FOLDER / name), "--help"])
        runpy.run_path(str(FOLDER / name), run_name="__main__")

    return run


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_how_it_is_used(name, as_script, capsys):
    with pytest.raises(SystemExit) as ended:
        as_script(name)
    assert ended.value.code == 0
    assert f"python benchmarks/{name}" in capsys.readouterr().out


def test_a_script_starts_from_the_root_by_its_path():
    command = [sys.executable, "benchmarks/peers.py", "--help"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0 and "python benchmarks/peers.py" in done.stdout, done.stderr


def test_what_the_scripts_share_is_a_script_too_where_it_runs_a_model():
    command = [sys.executable, "benchmarks/_common/run_model.py", "--help"]
    done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0 and "run_model.py MODEL" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["gluoncv_detector.py", "gluoncv_input.py"])
def test_a_script_for_gluoncvs_python_lies_where_it_is_started_from(name):
    callers = "".join(path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.py") if path.name != name)
    assert f'"{name}"' in callers and (FOLDER / "_common" / name).is_file()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.sh")))
def test_every_shell_script_is_well_formed(name):
    assert subprocess.run(["bash", "-n", str(FOLDER / name)], capture_output=True).returncode == 0


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.sh")))
def test_every_file_that_a_shell_script_starts_exists(name):
    text = (FOLDER / name).read_text(encoding="utf-8")
    started = re.findall(r"(?:benchmarks|tests)/[\w/]+\.(?:py|sh)", text)
    # See `script` in on_gpu.sh.
    started += [f"benchmarks/{script}" for script in re.findall(r"^ +script \w+ (\w+\.py)", text, re.MULTILINE)]
    for path in started:
        assert (FOLDER.parent / path).is_file(), path


def test_the_readme_names_every_script():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    scripts = [f"benchmarks/{path.name}" for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.sh")]]
    assert [script for script in scripts if script not in text] == []


def test_every_result_that_is_kept_is_shown():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    kept = [path.relative_to(FOLDER) for path in (FOLDER / "results").rglob("*") if path.is_file()]
    assert [str(path) for path in kept if str(path) not in text] == []
