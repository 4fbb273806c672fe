import hashlib
import json
import multiprocessing
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ssd_train.ending_signals import Ended, held, raised_as_ended
from ssd_train.errors import ResultError, SSDDeployError
from ssd_train.files import (
    PART_SUFFIX,
    check_file,
    check_writable,
    remove_unfinished,
    sha256_of_file,
    to_json,
    write_json,
    written_atomically,
)
from ssd_train.temporary import remove_temporary_folders


def test_a_finished_block_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.txt"
    for text in ("old", "new"):
        with written_atomically(path) as temporary:
            temporary.write_text(text)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_atomically(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"


def test_a_folder_in_the_way_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(SSDDeployError, match="is a folder"), written_atomically(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SSDDeployError, match="cannot be written"),
        written_atomically(tmp_path / "file" / "b.txt"),
    ):
        pass


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode == ordinary.stat().st_mode


def test_json_holds_null_for_nan_at_any_depth(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1.5, (float("nan"),)], "b": {"c": float("nan")}, "d": "ß"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "a": [1.5, [None]],
        "b": {"c": None},
        "d": "ß",
    }


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashlib.sha256(b"abc").hexdigest() == sha256_of_file(tmp_path / "a")


def test_what_a_killed_write_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    # Of the user, and of versions that had another name for it.
    kept = ["last.ckpt", ".hidden", ".notes.20261127.txt", ".last.0123abcd.ckpt", f"a{PART_SUFFIX}"]
    for name in [*kept, f".0123456789abcdef{PART_SUFFIX}"]:
        (tmp_path / name).touch()
    (tmp_path / f".folder{PART_SUFFIX}").mkdir()
    os.mkfifo(tmp_path / f".pipe{PART_SUFFIX}")
    (tmp_path / f".link{PART_SUFFIX}").symlink_to(tmp_path / "last.ckpt")
    kept += [f".{name}{PART_SUFFIX}" for name in ("folder", "pipe", "link")]
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_what_is_being_written_stays(tmp_path: Path) -> None:
    with written_atomically(tmp_path / "a.txt") as temporary:
        # As several writers do.
        temporary.write_text("x")
        remove_unfinished(tmp_path)
        temporary.write_text("whole")
        remove_unfinished(tmp_path)
    assert (tmp_path / "a.txt").read_text() == "whole" and len(list(tmp_path.iterdir())) == 1


def test_what_a_process_was_writing_when_it_was_killed_is_removed(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        with written_atomically(path) as temporary:
            temporary.write_text("half")
            started.put(None)
            time.sleep(60)

    context = multiprocessing.get_context("fork")
    started: Any = context.SimpleQueue()
    writer = context.Process(target=write, args=(tmp_path / "a.txt",))
    writer.start()
    started.get()
    remove_unfinished(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "it is another process's, which is still writing"
    writer.kill()
    writer.join()
    assert len(list(tmp_path.iterdir())) == 1
    remove_unfinished(tmp_path)
    assert not list(tmp_path.iterdir())


def test_writers_and_whoever_clears_up_at_once_lose_nothing(tmp_path: Path) -> None:
    is_over = threading.Event()

    def clear() -> None:
        while not is_over.is_set():
            remove_unfinished(tmp_path)

    def write(number: int) -> None:
        for _ in range(100):
            write_json(tmp_path / f"{number}.json", number)

    with ThreadPoolExecutor(6) as pool:
        clearing = [pool.submit(clear) for _ in range(3)]
        writing = [pool.submit(write, number) for number in range(3)]
        try:
            for each in writing:
                each.result()
        finally:
            is_over.set()
        for each in clearing:
            each.result()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json", "2.json"]


@pytest.mark.parametrize("there", [True, False], ids=["link", "dangling link"])
def test_a_link_is_followed_and_stays(tmp_path: Path, there: bool) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "farther").symlink_to("results/a.json")
    link = tmp_path / "link.json"
    link.symlink_to("farther")
    if there:
        (tmp_path / "results" / "a.json").write_text("old")
    check_writable(link)
    write_json(link, 1)
    assert link.is_symlink() and (tmp_path / "results" / "a.json").read_text() == "1\n"
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_a_link_to_a_folder_that_is_not_there_yet_makes_it(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    check_writable(tmp_path / "run" / "a.json")
    assert not (tmp_path / "disk").exists()
    write_json(tmp_path / "run" / "a.json", 1)
    assert (tmp_path / "run").is_symlink() and (tmp_path / "disk" / "run" / "a.json").read_text() == "1\n"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to(path.name), "symbolic links"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "is a socket"),
    ],
    ids=["circle", "folder", "socket"],
)
def test_what_cannot_be_written_is_one_sentence_and_stays(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "a.json"
    make(path)
    before = path.lstat()
    for attempt in (check_writable, lambda path: write_json(path, 1)):
        with pytest.raises(ResultError, match=f"a.json: cannot be written .*{said}"):
            attempt(path)
    assert path.lstat().st_ino == before.st_ino and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a" * 256, "a\0b", "a\ud800"])
def test_an_impossible_name_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultError, match="cannot be written|no possible name"):
        write_json(tmp_path / name, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a" * 250 + ".json", os.fsdecode(b"\xff" * 255), "ä" * 127, "\n"])
def test_every_name_that_is_possible_can_be_written(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    write_json(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_device_is_written_into_and_stays(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (Path("/dev/null"), link):
        check_writable(path)
        write_json(path, 1)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and link.is_symlink()
    check_writable(Path("/dev/full"))
    with pytest.raises(SSDDeployError, match="/dev/full: cannot be written .*space"):
        write_json(Path("/dev/full"), 1)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_pipe_is_written_into_once_it_has_a_reader(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)  # which would wait forever, did it open it
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_json(pipe, {"a": 1})
        assert json.loads(read.result(10)) == {"a": 1}
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_pipe_without_a_reader_is_left_at_the_first_signal(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with raised_as_ended(), pytest.raises(Ended), held():
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        write_json(pipe, 1)


def test_what_is_being_written_goes_with_the_process(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be written"), written_atomically(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        remove_temporary_folders()
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_what_this_process_has_open_goes_on_where_it_is(tmp_path: Path, name: str) -> None:
    with (tmp_path / "log").open("w") as file:
        file.write("before\n")
        file.flush()
        path = Path(name.format(file.fileno()))
        check_writable(path)
        write_json(path, 1)
        file.write("after\n")
    assert (tmp_path / "log").read_text() == "before\n1\nafter\n" and list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_what_is_read_again_takes_files_alone(tmp_path: Path) -> None:
    check_file(tmp_path / "a")
    with pytest.raises(ResultError, match="/dev/null: is a device or a pipe"):
        check_file(Path("/dev/null"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o777])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(mode)
    with written_atomically(path) as temporary:
        # Nobody reads meanwhile what they may not read afterwards.
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    os.chown(path, 1234, 4321)
    write_json(path, 1)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_is_read_only_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    path.chmod(0o444)
    for attempt in (check_writable, lambda path: write_json(path, 1)):
        with pytest.raises(ResultError, match="read-only"):
            attempt(path)
    assert path.read_text() == "old"


def test_another_name_of_the_same_file_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "b.json").hardlink_to(tmp_path / "a.json")
    write_json(tmp_path / "a.json", 1)
    assert ((tmp_path / "a.json").read_text(), (tmp_path / "b.json").read_text()) == ("1\n", "old")


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "\ud800", "ü €", "a\nb"])
def test_json_is_utf8_from_which_every_name_is_read_back(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "a.json", {"file": name})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"file": name}
    assert ("ü €" in text) == (name == "ü €")


def test_json_has_letters_that_a_locale_without_them_took_for_bytes() -> None:
    assert json.loads(to_json("\udcc3\udcbc\udcff")) == "ü\udcff"
