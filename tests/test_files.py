import hashlib
import json
from pathlib import Path

import pytest

from ssd_train.errors import SSDDeployError
from ssd_train.files import remove_unfinished, sha256_of_file, write_json, written_atomically


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
    kept = ["last.ckpt", ".hidden", ".last.abcdefgh.ckpt", "last.0123abcd.ckpt"]
    for name in [*kept, ".last.0123abcd.ckpt", ".config.ffffffff"]:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
