"""Files that are whole or absent: atomic writes, and the hash an artifact is known by."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ssd_train.ending_signals import let_through
from ssd_train.errors import ResultError, SSDDeployError
from ssd_train.escaped_text import escaped_surrogates
from ssd_train.file_place import FilePlace, find_place
from ssd_train.temporary import temporary_folder, unfinished

try:
    import fcntl
except ImportError:  # Windows, where nobody can tell whose an unfinished file is: it stays
    fcntl = None  # type: ignore[assignment]

# Of a file that is being written; nobody else calls a file so, and no reader takes one for a picture or for labels.
PART_SUFFIX = ".ssd-deploy-part"

# What is wrong with a disk or with this process, and no matter of one file's name.
_OF_ALL_FILES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
}


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path whose file replaces `path` once the block ends without an error.

    A reader sees the old file or the new one, never a part; after an error the old file stands and nothing is left
    behind. The temporary file lies beside `path`, and its name says nothing of the format. A file that exists keeps its
    permissions, and its owner where this process may give files away; a new one gets those of the umask.

    What is no plain file stays what it is. A link's target is written, and made where it is missing. A device or a
    pipe, `/dev/stdout` too, is written into at the end of the block, once everything is there; a pipe then waits for
    its reader. Of several hard links to a file this name alone gets the new one; the others keep the old.

    Raises:
        ResultError: there is a folder, a circle of links, a file that is read-only, or no such name is possible.
        SSDDeployError: the folder cannot be created or written, or the disk is full.
    """
    place = _place_of(path)
    if place.is_stream:
        with _poured_into(path, place) as temporary:
            yield temporary
        return
    with _told(path, "choose another folder"):
        place.path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with _told(path, "choose another folder"):
            temporary = stack.enter_context(_part_beside(place))
        with _told(path, "make room or choose another folder", temporary):
            yield temporary
            if place.status is not None:
                _give_rights(temporary, place.status)
            os.replace(temporary, place.path)


def check_writable(path: Path) -> None:
    """Raise SSDDeployError for a file that could not be written: before hours of work, not after them.

    Nothing is left behind, folders that had to be made included. Devices and pipes are not opened.
    """
    place = _place_of(path)
    if place.is_stream:
        return
    missing = [folder for folder in place.path.parents if not folder.exists()]
    try:
        with _told(path, "choose another folder"):
            place.path.parent.mkdir(parents=True, exist_ok=True)
            with _part_beside(place):
                pass
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def check_file(path: Path) -> None:
    """Raise SSDDeployError unless `path` can be written and read again, as a device or a pipe cannot."""
    check_writable(path)
    if _place_of(path).is_stream:
        raise ResultError(f"{path}: is a device or a pipe, and what is written here is read again; name a file")


def remove_unfinished(folder: Path) -> None:
    """Remove what `written_atomically` leaves in a folder when its process is killed in the middle of a write.

    That is files with its suffix that no process holds. Another process that is writing keeps its own.
    """
    for path in folder.glob(f".*{PART_SUFFIX}"):
        with contextlib.suppress(OSError):
            # Neither a link is followed, nor does a pipe of that name wait for a reader.
            file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            try:
                if stat.S_ISREG(os.fstat(file).st_mode) and _is_locked(file):
                    path.unlink()
            finally:
                os.close(file)


def _place_of(path: Path) -> FilePlace:
    """Return what a name stands for; raise ResultError where that cannot be written."""
    with _told(path, "choose another name"):
        place = find_place(path)
    if place.descriptor is None and place.status is not None and not os.access(place.path, os.W_OK):
        raise ResultError(f"{path}: cannot be written, since it is read-only; allow it, or choose another name")
    return place


@contextlib.contextmanager
def _told(path: Path, advice: str, *own: Path) -> Iterator[None]:
    """Turn what the system says about a file into a sentence; with `own` only of these files, or of no file."""
    try:
        yield
    except OSError as error:
        if own and error.filename not in (None, *map(str, own)):
            raise
        kind = SSDDeployError if error.errno in _OF_ALL_FILES else ResultError
        raise kind(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error
    except ValueError as error:
        if own:
            raise
        raise ResultError(f"{path}: is no possible name for a file ({error}); {advice}") from error


@contextlib.contextmanager
def _part_beside(place: FilePlace) -> Iterator[Path]:
    """Make an empty file beside its final place and hold its lock; it is removed at the end, if it is still there."""
    # What replaces a file that others may not read is not theirs to read meanwhile.
    mode = 0o666 if place.status is None else 0o600
    while True:
        # Short, so that it is possible wherever the final name is.
        path = place.path.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        # Between the two calls whoever clears up may have taken it for an abandoned one.
        if fcntl is None or not _is_locked(file, waits=True) or os.fstat(file).st_nlink:
            break
        os.close(file)
    if fcntl is None:
        os.close(file)  # an open file cannot be renamed on Windows
    try:
        with unfinished(path):
            yield path
    finally:
        if fcntl is not None:
            os.close(file)


def _is_locked(file: int, *, waits: bool = False) -> bool:
    """Lock a file until it is closed; returns whether that was possible, as on some network drives it is not."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _give_rights(path: Path, like: os.stat_result) -> None:
    """Give a file the permissions of the one that it replaces, and its owner where that is allowed."""
    own = os.stat(path)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(path, like.st_uid, like.st_gid)
    # Without the bits that run a program as its owner, who may be another one now.
    os.chmod(path, stat.S_IMODE(like.st_mode) & 0o777)


@contextlib.contextmanager
def _poured_into(path: Path, place: FilePlace) -> Iterator[Path]:
    """Yield a temporary file elsewhere, whose bytes go into a device or pipe at the end.

    By way of a file, since some formats are not written from the first byte to the last, and errors come first.
    """
    with temporary_folder() as folder:
        temporary = folder / "result"
        temporary.touch()
        with _told(path, "make room in the folder of temporary files", temporary):
            yield temporary
        with _told(path, "check what reads it, or name a file"):
            # A device that went away meanwhile is no reason to make a file of that name. A pipe may wait for ever.
            with let_through(place.descriptor is None and place.path.is_fifo()):
                opened = os.open(place.path, os.O_WRONLY) if place.descriptor is None else os.dup(place.descriptor)
            with open(opened, "wb") as stream, temporary.open("rb") as made:
                shutil.copyfileobj(made, stream)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `to_json` does, atomically."""
    text = to_json(value)
    with written_atomically(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def to_json(value: Any, *, indent: int | None = 2) -> str:
    r"""Return JSON; NaN becomes null, since JSON has no NaN.

    Lone surrogates, as a name that is not UTF-8 has them, become escapes (`\udce9`), which JSON's readers turn back.

    Args:
        indent: spaces a level; None for one line.
    """
    text = json.dumps(without_nan(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return escaped_surrogates(text)


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
