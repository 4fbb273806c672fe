"""One training a run folder: a lock that says who holds it.

The system's lock decides wherever the disk has one, since it ends with its owner, however that ends. The text in the
file, pid, host and time, is for people, and decides on network drives without locks. No lock of a package: those that
may be installed empty the file where they ask for it, and with it what it says.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ssd_train.errors import SSDDeployError

LOCK_NAME = "train.lock"

# As many bytes of a lock are read; what is longer is none of ours.
MAX_BYTES = 4096

# How each begins.
_START = b"pid "

# For whoever has just taken a lock of one who is gone to write its own name into it.
PATIENCE_S = 2.0

_log = logging.getLogger(__name__)

# Of locks that this process holds.
_descriptors: set[int] = set()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a lock.

    Attributes:
        pid, host: the process and its machine.
        started: when the process began, in seconds since 1970; another process may have its pid later.
    """

    pid: int
    host: str
    started: float

    def is_gone(self) -> bool:
        """Whether it was a process of this machine that has ended."""
        import psutil

        if self.host != socket.gethostname():
            return False
        try:
            # Both are of the same clock; a second is more than rounding and less than a reuse of the pid.
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


@contextlib.contextmanager
def held_run_folder(folder: Path) -> Iterator[None]:
    """Within the block no other training, of this process or another, can begin in the folder.

    The folder is made; it is removed again where the block leaves it empty.

    Raises:
        SSDDeployError: another training holds it, it cannot be written, or the user has a file of the lock's name.
    """
    path = folder / LOCK_NAME
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except OSError as error:
        _remove(missing)
        raise SSDDeployError(
            f"{path}: cannot be written ({error.strerror}); make room or choose another folder", arguments=("out",)
        ) from error
    _descriptors.add(descriptor)
    _close_in_children()
    try:
        yield
    finally:
        # While it is locked, so that nobody takes a file that is about to go.
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                path.unlink()
        _descriptors.discard(descriptor)
        os.close(descriptor)
        _remove(missing)


def _take(path: Path) -> int:
    """Lock the file and write into it; returns its descriptor. Raises SSDDeployError where it is held, or OSError."""
    end = time.monotonic() + PATIENCE_S
    while True:
        # A link would lead the text elsewhere.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            is_locked = _lock(descriptor)
            if not _is_lock(descriptor):
                raise SSDDeployError(
                    f"{path}: is no lock of a training, which that name is for; move it, or name another folder",
                    arguments=("out",),
                )
            owner = _read(descriptor)
            is_held = is_locked is False or (is_locked is None and os.fstat(descriptor).st_size > 0)
            if is_held and not (owner is not None and owner.is_gone()):
                raise _held(path, owner, may_be_gone=is_locked is None)
            # Its owner may have removed it between the two calls: then it locks nobody out. And one that is locked
            # while its text names who is gone was just taken by another, who is about to write.
            if _is_there(path, descriptor) and (is_locked is not False or time.monotonic() > end):
                if is_locked is None:
                    _log.warning(
                        "%s: the disk has no locks; two trainings that begin there at the same moment would not notice "
                        "each other", path.parent,
                    )  # fmt: skip
                _write(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.05)


def _lock(descriptor: int) -> bool | None:
    """Take the system's lock; returns whether it is ours, None where the disk has none."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Some network drives have no locks, and Windows has no flock.
    except (OSError, ImportError):
        return None
    return True


def _is_lock(descriptor: int) -> bool:
    """Whether a file is one that `_write` wrote or was about to write, and none of the user's."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode) and os.pread(descriptor, len(_START), 0) in (b"", _START)


def _read(descriptor: int) -> Owner | None:
    """Return whom the text names; None where it names nobody."""
    text = os.pread(descriptor, MAX_BYTES, 0).decode("utf-8", "replace")
    values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    try:
        return Owner(pid=int(values["pid"]), host=values["host"], started=float(values["started"]))
    except (KeyError, ValueError):
        return None


def _write(descriptor: int) -> None:
    import psutil

    pid = os.getpid()
    text = (
        f"{_START.decode()}{pid}\nhost {socket.gethostname()}\nstarted {psutil.Process(pid).create_time()}\n"
        f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _held(path: Path, owner: Owner | None, *, may_be_gone: bool) -> SSDDeployError:
    who = "another training" if owner is None else f"another training (process {owner.pid} on {owner.host})"
    gone = f", or remove {path} if it is gone" if may_be_gone else ""
    return SSDDeployError(
        f"{path.parent}: {who} is writing there; wait until it ends, or name another folder{gone}", arguments=("out",)
    )


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


@functools.cache
def _close_in_children() -> None:
    """A lock lasts as long as any process has the file open, and processes that load images outlive a kill."""

    def close() -> None:
        for descriptor in _descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        _descriptors.clear()

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=close)


def _remove(folders: list[Path]) -> None:
    """Remove folders that were made and stayed empty, the innermost first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
