"""Two processes that write to one place at the same time."""

import os
import threading
from pathlib import Path

import pytest
from commands import COMMANDS, NETWORK, TRAINING, Material, assert_whole, files_of, options
from forking import Forking
from test_ending_signals import wait_for

from ssd_train.errors import SSDDeployError
from ssd_train.training import run_lock
from ssd_train.training.run_lock import LOCK_NAME, held_run_folder


@pytest.mark.parametrize("name", ["detect", "convert", "eval"])
def test_results_are_those_of_one_or_the_other(server: Forking, material: Material, out: Path, name: str) -> None:
    arguments = COMMANDS[name].arguments(material, out)
    running = [server.start(*arguments) for _ in range(2)]
    assert [each.wait().code for each in running] == [0, 0]
    found = files_of(out)
    for path, content in found.items():
        assert_whole(path, content)
    assert not [path for path in found if Path(path).name.startswith(".")]


def test_a_second_training_is_told_who_holds_the_folder_and_writes_nothing(
    server: Forking, material: Material, out: Path
) -> None:
    values = TRAINING | {"dataset": material.data, "out": out, "epochs": 500, "val-interval": 500}
    first = server.start("train", *options(values), quick=True)
    wait_for(out / "last.ckpt")
    for extra in ([], ["--resume", "auto"], ["--preview"]):
        ended = server.run("train", *options(values), *extra, quick=True)
        assert ended.code == 2 and ended.stderr.count("Error: ") == 1
        assert f"{out}: another training (process {first.pid} on " in ended.stderr
    # Whoever only reads is not kept out.
    other = ["train", "--config", out / "config.json", "--out", out.parent / "other", "--preview"]
    assert server.run(*other).code == 0
    first.kill()
    first.wait()
    assert (out / LOCK_NAME).read_text().startswith(f"pid {first.pid}\nhost ")
    ended = server.run("train", out, "--resume", "--val-interval", 500, quick=True, strikes=[
        ("ssd_train.training.step:Trainer.step", 0, "SIGTERM"),
    ])  # fmt: skip
    assert ended.code == 143 and "goes on after step" in ended.stderr
    assert not (out / LOCK_NAME).exists()


def test_one_process_holds_a_folder_once_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(SSDDeployError) as caught, held_run_folder(folder):
            pass
        refused.append(str(caught.value))

    with held_run_folder(folder):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another training (process " in refused[0]
    assert not (tmp_path / "new").exists()
    with held_run_folder(folder):
        pass


@pytest.mark.parametrize(
    ("text", "is_refused"),
    [
        ("pid 999999999\nhost HERE\nstarted 1.0\n", False),
        # A process of that number, but another one.
        ("pid 1\nhost HERE\nstarted 1.0\n", False),
        ("pid 1\nhost elsewhere\nstarted 1.0\n", True),
        ("", False),
    ],
)
def test_without_locks_of_the_system_the_text_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, is_refused: bool
) -> None:
    monkeypatch.setattr(run_lock, "_lock", lambda descriptor: None)
    path = tmp_path / LOCK_NAME
    path.write_text(text.replace("HERE", run_lock.socket.gethostname()))
    if is_refused:
        with pytest.raises(SSDDeployError, match=f"or remove {path} if it is gone"), held_run_folder(tmp_path):
            pass
        assert path.read_text() == text
    else:
        with held_run_folder(tmp_path):
            pass
        assert not path.exists()


def test_a_lock_of_the_system_that_is_free_counts_whatever_the_text_says(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text("pid 1\nhost elsewhere\nstarted 1.0\n")
    with held_run_folder(tmp_path):
        assert "elsewhere" not in (tmp_path / LOCK_NAME).read_text()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(SSDDeployError, match="cannot be written"), held_run_folder(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("content", [b"my notes", b"\0\xff", b"pi"])
def test_a_file_of_the_users_in_the_locks_place_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    with pytest.raises(SSDDeployError, match="no lock of a training"), held_run_folder(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).read_bytes() == content


def test_a_pipe_in_the_locks_place_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK_NAME)
    with pytest.raises(SSDDeployError, match="no lock of a training"), held_run_folder(tmp_path):
        pass
    assert (tmp_path / LOCK_NAME).is_fifo()


@pytest.mark.slow
def test_two_exports_to_one_file(server: Forking, material: Material, tmp_path: Path) -> None:
    command = ["export", NETWORK, "--weights", "shapes", "--out", tmp_path]
    running = [server.start(*command, traced=str(material.model)) for _ in range(2)]
    assert [each.wait().code for each in running] == [0, 0]
    ((path, content),) = files_of(tmp_path).items()
    assert_whole(path, content)
