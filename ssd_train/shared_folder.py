"""Files of ours in folders that others may write to: never through a link that somebody put there."""

import os
import stat
from pathlib import Path

# Where the system has no links of this kind, there is nothing to follow. The second keeps a pipe from holding us.
_SAFE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def own_file(path: str, flags: int) -> int:
    """Open a file for writing; a link, a pipe or another user's second name of a file in its place is removed first.

    To be the `opener` of `open`.

    Raises:
        OSError: it cannot be opened, or what is in its place cannot be removed.
    """
    # Not emptied before it is known what it is.
    kept = flags & ~os.O_TRUNC
    try:
        descriptor = os.open(path, kept | _SAFE_FLAGS, 0o666)
    except OSError:
        if not os.path.lexists(path) or _is_plain(os.lstat(path)) or os.path.isdir(path) and not os.path.islink(path):
            raise
    else:
        if _is_plain(os.fstat(descriptor)):
            if flags & os.O_TRUNC:
                os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)
    os.unlink(path)
    return os.open(path, kept | _SAFE_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)


def make_way(path: Path) -> None:
    """Remove a link, a pipe or the like from the place of a file of ours, which is then written as a new one.

    A result of a user's goes through a link, which is the user's own; nobody has a reason to make one in a cache.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not _is_plain(found) and not stat.S_ISDIR(found.st_mode):
        path.unlink()


def plain_size(path: Path) -> int:
    """Return the size of a file that `own_file` would go on with; 0 where it would make a new one."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return found.st_size if _is_plain(found) else 0


def _is_plain(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1
