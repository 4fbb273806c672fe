"""Disks that are full or read-only, files that grow too large, descriptors that run out: one sentence, nothing lost."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import COMMANDS, Material, files_of
from forking import Ended, Forking

CHEAP = ["detect", "eval", "convert", "info"]


def assert_one_sentence(ended: Ended) -> None:
    lines = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert ended.code == 2 and len(lines) == 1 and ended.stderr.rstrip().endswith(lines[0]), ended


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A disk of its own in memory."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("no permission to mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", [*CHEAP, "train"])
def test_a_limit_of_a_files_size(server: Forking, material: Material, out: Path, name: str) -> None:
    ended = server.run(*COMMANDS[name].arguments(material, out), quick=True, limits={"RLIMIT_FSIZE": 200})
    assert_one_sentence(ended)
    assert not out.exists() or not files_of(out)


@pytest.mark.parametrize("name", [*CHEAP, "train"])
@pytest.mark.parametrize("options", ["size=8k", "ro"])
def test_a_disk_that_is_full_or_read_only(
    server: Forking, material: Material, out: Path, name: str, options: str
) -> None:
    with mounted(out, options):
        with contextlib.suppress(OSError):
            # Room for the first file at most.
            (out / "filler").write_bytes(bytes(4096 if name == "train" else 8192))
        before = files_of(out)
        ended = server.run(*COMMANDS[name].arguments(material, out), quick=True)
        assert_one_sentence(ended)
        left = files_of(out).keys() - before.keys()
        # A training keeps what it has, to go on from; nothing else is left of anything.
        assert left <= ({"config.json", "metrics.jsonl"} if name == "train" else set())


def test_a_training_whose_disk_fills_up_keeps_its_checkpoint_and_goes_on(
    server: Forking, material: Material, out: Path
) -> None:
    arguments = [*COMMANDS["train"].arguments(material, out), "--resume", "auto"]
    with mounted(out, "size=64m"):
        assert server.run(*arguments, "--epochs", 1, quick=True).code in (0, 2)
        filler = out / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        ended = server.run(*arguments, quick=True)
        assert_one_sentence(ended)
        filler.unlink()
        assert server.run(*arguments, quick=True).code == 0
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", CHEAP)
@pytest.mark.parametrize("descriptors", [3, 4, 8])
def test_no_descriptors_left(server: Forking, material: Material, out: Path, name: str, descriptors: int) -> None:
    limits = {"RLIMIT_NOFILE": descriptors}
    running = server.start(*COMMANDS[name].arguments(material, out), limits=limits)
    ended = running.wait()
    if ended.code:
        assert_one_sentence(ended)
    assert "Traceback" not in ended.stderr
    assert not list(running.tmp.iterdir())
