from pathlib import Path

import pytest

from ssd_train.class_list import read_class_list
from ssd_train.errors import SpecError


@pytest.mark.parametrize(
    "content",
    [b"RBC\nWBC\n", b"RBC\r\nWBC", b"\n  RBC \n\nWBC\n", "\ufeffRBC\nWBC\n".encode()],
    ids=["plain", "Windows line ends", "spaces and empty lines", "byte-order mark"],
)
def test_names_are_read_a_line_each(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert read_class_list(path) == ("RBC", "WBC")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"\xff\xfe\x00", "cannot be read"), (b"\n", "is empty"), (b"a\nb\na\n", "repeats a")],
)
def test_a_list_that_is_none_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "classes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=f"classes.txt: .*{message}"):
        read_class_list(path)
