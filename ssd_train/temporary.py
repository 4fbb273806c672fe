"""Temporary folders and unfinished files that go with the process, whatever ends it, short of a kill."""

import atexit
import contextlib
import functools
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "ssd-deploy-"

# Folder or file -> the process that made it: one that was forked from it has no business with them.
_own: dict[Path, int] = {}


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Within the block, have a file that is being written removed where the process ends; at its end it is removed."""
    remove_at_exit()
    _own[path] = os.getpid()
    try:
        yield
    finally:
        _remove(path)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a new empty folder, which is removed at the block's end with all that is in it."""
    folder = kept_folder()
    try:
        yield folder
    finally:
        _remove(folder)


def kept_folder() -> Path:
    """Return a new empty folder, which is removed when the process ends."""
    remove_at_exit()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(8)}"
    # Noted before it is there: a signal may come between the two, and `mkdtemp` would not say what it had made.
    _own[folder] = os.getpid()
    folder.mkdir(mode=0o700)
    return folder


def remove_temporary_folders() -> None:
    """Remove all of them now, and the one that PyTorch makes on its import where nothing came to be in it."""
    for path in list(_own):
        _remove(path)
    of_torch = sys.modules.get("torch._inductor.runtime.cache_dir_utils")
    if of_torch is not None:
        # AttributeError: another version of PyTorch.
        with contextlib.suppress(OSError, AttributeError):
            os.rmdir(of_torch.default_cache_dir())


def _remove(path: Path) -> None:
    if _own.get(path) == os.getpid():
        with contextlib.suppress(OSError):
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    _own.pop(path, None)


@functools.cache
def remove_at_exit() -> None:
    """Have them removed when the process ends."""
    atexit.register(remove_temporary_folders)
