"""Files that are whole or absent: atomic writes, and the hash an artifact is known by."""

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_train.errors import SSDDeployError


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces `path` once the block ends without an error.

    A reader sees the old file or the new one, never a part; after an error the old file stands and
    nothing is left behind.

    Raises:
        SSDDeployError: the folder cannot be created or written, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        if path.is_dir():
            raise SSDDeployError(f"{path}: is a folder; name a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise SSDDeployError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise SSDDeployError(
            f"{path}: cannot be written ({error.strerror or error}); make room or choose another folder"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what `written_atomically` leaves in a folder when its process is killed in the middle of a write."""
    for path in folder.glob(".*"):
        if re.search(r"^\..+\.[0-9a-f]{8}(\.\w+)?$", path.name):
            path.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise SSDDeployError for a file that could not be written: before hours of work, not after them.

    Nothing is left behind, folders that had to be made included.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        with contextlib.suppress(_Writable), written_atomically(path):
            raise _Writable
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


class _Writable(Exception):
    """Ends a trial write before it replaces anything."""


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `to_json` does, atomically."""
    text = to_json(value)
    with written_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def to_json(value: Any) -> str:
    """Return indented JSON; NaN becomes null, since JSON has no NaN."""
    return json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)


def without_nan(value: Any) -> Any:
    """Return plain values with None in the place of every NaN, however deep, since JSON has none."""
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
