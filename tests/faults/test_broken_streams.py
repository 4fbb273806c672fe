"""Whatever happens to the standard streams, the work is done and its files are whole."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import COMMANDS, Material, assert_whole, files_of
from forking import Forking

# Fault -> the exit code. A reader that has gone ends quietly, as by SIGPIPE.
FAULTS = {
    "stdout gone": ({"stdout": "gone"}, 141),
    "stdout full": ({"stdout": "full"}, 2),
    "stdout closed": ({"stdout": "closed"}, 0),
    "stderr gone": ({"stderr": "gone"}, 0),
    "stderr full": ({"stderr": "full"}, 0),
    "stderr closed": ({"stderr": "closed"}, 0),
    "stdin closed": ({"stdin": "closed"}, 0),
    "both gone": ({"stdout": "gone", "stderr": "gone"}, 141),
    "all closed": ({"stdin": "closed", "stdout": "closed", "stderr": "closed"}, 0),
}  # fmt: skip
FULL = "Error: standard output cannot be written (No space left on device); make room, or send it elsewhere"


@pytest.fixture(scope="module")
def unbroken(server: Forking, material: Material, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a command leaves where nothing breaks, run once."""
    known: dict[str, dict[str, bytes]] = {}

    def files(name: str, out: Path) -> dict[str, bytes]:
        if name not in known:
            ended = server.run(*COMMANDS[name].arguments(material, out), quick=True)
            assert ended.code == 0, ended.stderr
            known[name] = files_of(out)
            # The next one runs in the same folder, since results name it.
            for path in known[name]:
                (out / path).unlink()
        return known[name]

    out = tmp_path_factory.mktemp("unbroken")
    return lambda name: (files(name, out / name), out / name)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("eval", fault) for fault in FAULTS]
    + [(name, fault) for name in ("detect", "info") for fault in ("stdout full", "both gone", "all closed")]
    + [("train", "both gone")],
)
def test_files_are_as_without_the_fault(
    server: Forking, material: Material, unbroken: Any, name: str, fault: str
) -> None:
    streams, code = FAULTS[fault]
    expected, out = unbroken(name)
    running = server.start(*COMMANDS[name].arguments(material, out), quick=True, **streams)
    ended = running.wait()
    found = files_of(out)
    for path in found:
        (out / path).unlink()
    assert ended.code == code, ended
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if "Error" in line] == ([FULL] if fault == "stdout full" else [])
    assert found.keys() == expected.keys()
    # Two of them hold how long something took; everything else is the same to the last byte.
    different = {path for path in found if found[path] != expected[path]}
    assert different <= {"train": {"metrics.jsonl"}, "detect": {"r.json"}}.get(name, set())
    for path in different:
        assert_whole(path, found[path])
    assert not list(running.tmp.iterdir())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["models", "-q"], ["train", "--help"]])
@pytest.mark.parametrize(("stdout", "code"), [("full", 2), ("gone", 141)])
def test_what_only_prints_ends_in_the_same_way(server: Forking, arguments: list[str], stdout: str, code: int) -> None:
    ended = server.run(*arguments, stdout=stdout)
    assert ended.code == code and ended.stderr == (f"{FULL}\n" if stdout == "full" else "")


@pytest.mark.parametrize("module", ["ssd_deploy", "ssd_train"])
def test_a_shells_pipe_and_a_full_device_with_a_python_of_their_own(module: str) -> None:
    command = f'"{sys.executable}" -m {module} --help'
    script = f"set -o pipefail; {command} | true; echo $?; {command} > /dev/full; echo $?"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    # What fits into a pipe may be written before its reader ends.
    assert done.stdout.split() in (["141", "2"], ["0", "2"]) and done.stderr == f"{FULL}\n"


def test_what_an_encoding_lacks_is_written_as_json_writes_it() -> None:
    script = (
        "import sys\nfrom ssd_train.standard_streams import use_lasting_streams\nuse_lasting_streams()\n"
        "print('a\\u00e9\\ud800\\U0001f600')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii", "PATH": ""}
    )
    assert (done.stdout, done.stderr) == ("a\\u00e9\\ud800\\ud83d\\ude00\n", "")
