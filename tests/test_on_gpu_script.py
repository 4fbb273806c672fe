"""`benchmarks/on_gpu.sh` with a stand-in for Python: what it starts, and what is left when a part fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "on_gpu.sh"

# Writes to the file behind --json what it was asked for, and fails where a script's name is in $FAILING. Results are
# merged by the real script.
FAKE_PYTHON = f"""#!{sys.executable}
import json, os, sys

arguments = sys.argv[1:]
if "merge_results" in arguments[0]:
    os.execv("{sys.executable}", ["{sys.executable}", *arguments])
print("asked for", *arguments)
if "--json" in arguments:
    with open(arguments[arguments.index("--json") + 1], "w") as file:
        json.dump({{"script": arguments[0]}}, file)
sys.exit(3 if os.environ["FAILING"] in arguments[0] else 0)
"""


@pytest.fixture
def on_gpu(tmp_path):
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON, encoding="utf-8")
    fake.chmod(0o755)

    def start(*parts, failing="nothing"):
        environment = os.environ | {
            **{"PYTHON": str(fake), "WORK": str(tmp_path / "work"), "FAILING": failing},
            **{"SSD_TEST_DATA": str(tmp_path), "PYTHONPATH": str(ROOT)},
        }
        command = ["bash", str(SCRIPT), str(tmp_path / "out"), *parts]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    return start


def test_a_part_that_fails_costs_itself_alone_and_keeps_what_it_had_written(on_gpu, tmp_path):
    done = on_gpu("inference", "postprocess", "loader", failing="gpu_inference.py")
    assert done.returncode == 1 and done.stdout.endswith("failed: inference\n"), done.stdout
    merged = json.loads((tmp_path / "out" / "results.json").read_text())
    scripts = {"inference": "gpu_inference.py", "postprocess": "postprocess.py", "loader": "input_pipeline.py"}
    assert merged == {part: {"script": f"benchmarks/{name}"} for part, name in scripts.items()}


def test_what_is_printed_is_in_the_log_too_and_a_run_that_works_ends_with_0(on_gpu, tmp_path):
    done = on_gpu("postprocess")
    line = f"asked for benchmarks/postprocess.py --json {tmp_path / 'out' / 'postprocess.json'} --device cuda"
    assert done.returncode == 0, done.stdout
    assert line in done.stdout and line in (tmp_path / "out" / "on_gpu.log").read_text()


def test_a_part_that_does_not_exist_is_refused_before_anything_is_started(on_gpu, tmp_path):
    done = on_gpu("postprocess", "speed")
    assert done.returncode == 2 and done.stdout.startswith("speed: is no part; choose contract engines")
    assert not (tmp_path / "work").exists()
