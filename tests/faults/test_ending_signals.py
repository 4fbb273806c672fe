"""Every signal that asks a process to end is answered as Ctrl-C is."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import COMMANDS, NETWORK, TRAINING, Material, files_of, options
from forking import Forking, Running

from ssd_train.ending_signals import ENDING_SIGNALS

SIGNALS = [number.name for number in ENDING_SIGNALS]


def code_of(name: str) -> int:
    return 128 + getattr(signal, name)


@pytest.mark.parametrize("name", SIGNALS)
def test_detect_writes_what_it_found(server: Forking, material: Material, out: Path, name: str) -> None:
    row = COMMANDS["detect"]
    running = server.start(*row.arguments(material, out), strikes=[(row.works_in, 3, name)])
    ended = running.wait()
    assert ended.code == code_of(name), ended
    assert ended.stderr.rstrip().endswith(f"ended by {name}") and "Traceback" not in ended.stderr
    found = json.loads((out / "detections.json").read_text())
    assert found["is_complete"] is False and 1 <= len(found["images"]) <= 4
    pictures = {path.name for path in out.glob("*.jpg")}
    assert {Path(image["file"]).name for image in found["images"]} == pictures
    assert {path.name for path in out.iterdir()} == pictures | {"detections.json"}
    assert not list(running.tmp.iterdir())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.parametrize("command", ["eval", "info", "convert"])
def test_other_commands_leave_nothing_half_done(
    server: Forking, material: Material, out: Path, command: str, name: str
) -> None:
    row = COMMANDS[command]
    running = server.start(*row.arguments(material, out), strikes=[(row.works_in, 0, name)])
    ended = running.wait()
    assert ended.code == code_of(name) and "Traceback" not in ended.stderr, ended
    assert not out.exists() or not files_of(out)
    assert not list(running.tmp.iterdir())


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["export", NETWORK, "--weights", "shapes"], "export.onnx:export_onnx"),
        (["export", NETWORK, "--weights", "shapes"], "torch.onnx:export"),
        (["benchmark", "MODEL", "--batch-size", 1, "--rounds", 1], "ssd_deploy.benchmark.images:_write_jpeg"),
        (["parity", NETWORK, "MODEL", "--weights", "shapes", "--images", "PICTURES"],
         "ssd_deploy.backends.pytorch:TorchRunner.run_raw"),
    ],
    ids=["export", "export amid PyTorch's", "benchmark", "parity"],
)  # fmt: skip
def test_temporary_folders_go(
    server: Forking, material: Material, out: Path, arguments: list[object], where: str
) -> None:
    words = {"MODEL": material.model, "PICTURES": material.pictures}
    given = [words.get(str(each), each) for each in arguments]
    to = ["--out", out] if arguments[0] == "export" else []
    running = server.start(*given, *to, strikes=[(where, 0, "SIGTERM")])
    ended = running.wait()
    assert ended.code == code_of("SIGTERM") and "Traceback" not in ended.stderr, ended
    assert not list(running.tmp.iterdir()) and not out.exists()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGXCPU"])
def test_a_training_saves_and_says_how_to_go_on(server: Forking, material: Material, out: Path, name: str) -> None:
    row = COMMANDS["train"]
    running = server.start(*row.arguments(material, out), quick=True, strikes=[(row.works_in, 0, name)])
    ended = running.wait()
    assert ended.code == code_of(name), ended
    assert f"`ssd-deploy train {out} --resume` goes on" in ended.stderr.splitlines()[-1]
    assert {path.name for path in out.iterdir()} == {"augmented.jpg", "config.json", "last.ckpt", "metrics.jsonl"}
    assert not list(running.tmp.iterdir())


def test_a_validation_is_left_at_once(server: Forking, material: Material, out: Path) -> None:
    row = COMMANDS["train"]
    where = "ssd_train.training.validation_loss:ValidationLoss.add"
    ended = server.run(*row.arguments(material, out), quick=True, strikes=[(where, 0, "SIGTERM")])
    assert ended.code == code_of("SIGTERM") and "validation loss" not in ended.stderr
    assert "stopped after step 1, saved" in ended.stderr
    ended = server.run("train", out, "--resume", quick=True)
    assert ended.code == 0 and ended.stderr.count("validation loss") == 2


def test_what_was_to_be_ignored_stays_ignored(server: Forking, material: Material, out: Path) -> None:
    row = COMMANDS["detect"]
    strikes = [(row.works_in, 2, "SIGHUP")]
    ended = server.run(*row.arguments(material, out), strikes=strikes, ignore=["SIGHUP"])
    assert ended.code == 0 and json.loads((out / "detections.json").read_text())["is_complete"] is True
    row = COMMANDS["train"]
    strikes = [(row.works_in, 0, "SIGHUP")]
    ended = server.run(*row.arguments(material, out / "run"), quick=True, strikes=strikes, ignore=["SIGHUP"])
    assert ended.code == 0 and "stopped" not in ended.stderr


def test_a_second_signal_ends_at_once_and_temporary_folders_go(server: Forking, material: Material) -> None:
    first = ("ssd_deploy.benchmark.images:_write_jpeg", 1, "SIGTERM")
    # What the first one has removed, so that it comes while that one is answered.
    second = ("shutil:rmtree", 0, "SIGHUP")
    running = server.start("benchmark", material.model, "--batch-size", 1, "--rounds", 1, strikes=[first, second])
    ended = running.wait()
    assert ended.code == code_of("SIGHUP") and "Traceback" not in ended.stderr
    assert not list(running.tmp.iterdir())


def training_with_workers(server: Forking, material: Material, out: Path) -> Running:
    """Start a long training whose images are loaded by two processes, and wait until it takes steps."""
    values = TRAINING | {"dataset": material.data, "out": out, "workers": 2, "epochs": 500, "val-interval": 500}
    running = server.start("train", *options(values), quick=True)
    wait_for(out / "metrics.jsonl")
    return running


def test_processes_that_load_images_leave_signals_to_their_training_and_end_with_it(
    server: Forking, material: Material, out: Path
) -> None:
    running = training_with_workers(server, material, out)
    for pid in sorted(session(running.pid) - {running.pid}):
        # As a batch system does: every process of the job.
        subprocess.run(["kill", "-TERM", str(pid)], check=True)
    time.sleep(0.2)
    subprocess.run(["kill", "-TERM", str(running.pid)], check=True)
    ended = running.wait()
    assert ended.code == code_of("SIGTERM") and "--resume` goes on" in ended.stderr, ended
    assert not session(running.pid)


def test_a_process_that_loads_images_and_is_killed_is_one_sentence(
    server: Forking, material: Material, out: Path
) -> None:
    running = training_with_workers(server, material, out)
    for pid in session(running.pid) - {running.pid}:
        subprocess.run(["kill", "-KILL", str(pid)], check=False)
    ended = running.wait()
    assert ended.code == 2 and "Traceback" not in ended.stderr, ended
    assert ended.stderr.splitlines()[-1].startswith("Error: a process that loads images was ended from outside")
    assert not session(running.pid)


def wait_for(path: Path, limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not (path.is_file() and path.stat().st_size):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


def session(number: int) -> set[int]:
    """Return the processes of a session that have not ended (Linux)."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == number and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def test_nohup_and_a_python_of_their_own() -> None:
    script = (
        "import signal, os\nfrom ssd_train.ending_signals import raised_as_ended\n"
        "with raised_as_ended():\n    os.kill(os.getpid(), signal.SIGHUP)\n    print('on')"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "on\n")


@pytest.mark.parametrize("where", ["typer.main.get_command", "typer.core.TyperGroup.make_context"])
def test_a_signal_before_the_command_has_its_own_exit_code(where: str) -> None:
    script = (
        "import os, signal, typer.core, typer.main\nfrom ssd_deploy.cli import main\n"
        f"{where} = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "") and "Traceback" not in done.stderr
