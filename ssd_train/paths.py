"""Paths that a user names: `~` is the home folder, and what can be no path is a sentence."""

import errno
import os
from pathlib import Path
from typing import NoReturn

from ssd_train.errors import SSDDeployError

# What a system says of names that no file can have, rather than of a file that is not there.
_IMPOSSIBLE = (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)
_SHOWN_LETTERS = 120


def user_path(
    named: str | os.PathLike[str],
    error: type[SSDDeployError] = SSDDeployError,
    *,
    source: str = "",
    arguments: tuple[str, ...] = (),
) -> Path:
    """Return what a user named as a path, `~` and `~user` expanded. Nothing needs to be there.

    What begins like a home folder that nobody has, `~.jpg`, is the file of that name where there is one.

    Args:
        named: as it was written.
        error: raised, since callers promise kinds of their own.
        source: where it was written, such as a variable's name, for the sentence.
        arguments: as of every error.

    Raises:
        SSDDeployError: nobody has such a home folder, or no file system can have such a path: a zero byte, letters that
            are none, a name that is too long, links in a circle.
    """

    def fail(reason: object, advice: str, cause: Exception) -> NoReturn:
        raise error(
            f"{source}{' ' if source else ''}{_shown(named)}: {reason}; {advice}", arguments=arguments
        ) from cause

    try:
        path = Path(named).expanduser()
    except RuntimeError as failure:
        # Nobody's home, so that a file of that very name is meant, as a shell's `*` names it.
        if os.path.lexists(named):
            return Path(named)
        fail("the home folder is not known", "write the path in full, or set HOME", failure)
    except TypeError as failure:
        raise error(f"a path is a {type(named).__name__}; pass text or a Path", arguments=arguments) from failure
    try:
        # Otherwise each function that looks at such a path raises in its own way, or takes it for an absent one.
        os.stat(path)
    except ValueError as failure:
        fail(f"can be no path ({failure})", "mend the name", failure)
    except OSError as failure:
        if failure.errno in _IMPOSSIBLE:
            fail(f"can be no path ({failure.strerror})", "mend the name", failure)
    return path


def _shown(named: str | os.PathLike[str]) -> str:
    """Return a name for a sentence: what cannot be printed is escaped, and the middle of a long one left out."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in os.fspath(named))
    half = _SHOWN_LETTERS // 2
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:half]}…{text[-half:]}"
