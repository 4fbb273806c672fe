"""What a name that is to be written stands for: a file, perhaps behind links, or what takes bytes as it is."""

import dataclasses
import errno
import os
import re
import stat
from pathlib import Path

# As many links as Linux follows before it calls them a circle (path_resolution(7)).
_MOST_LINKS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePlace:
    """Where the bytes of a result go.

    Attributes:
        path: the file behind all links; it need not exist.
        status: of what is there; None where nothing is.
        descriptor: of this process, where the name is that of one, as `/dev/stdout` is; else None.
    """

    path: Path
    status: os.stat_result | None
    descriptor: int | None = None

    @property
    def is_stream(self) -> bool:
        """Whether it is written into and never replaced: a device, a pipe, or what this process has open."""
        return self.descriptor is not None or (self.status is not None and not stat.S_ISREG(self.status.st_mode))


def find_place(path: Path) -> FilePlace:
    """Follow a name's links to what they lead to, which is not opened.

    Raises:
        OSError: there is a circle of links, a folder, a socket, or a name that is too long.
        ValueError: the name has characters that no file's name can have here.
    """
    place = os.path.join(os.getcwd(), path)
    for _ in range(_MOST_LINKS):
        number = _descriptor(place)
        if number is not None:
            return FilePlace(path=Path(place), status=os.fstat(number), descriptor=number)
        folder, name = os.path.split(place)
        place = os.path.join(os.path.realpath(folder), name)
        try:
            target = os.readlink(place)
        except (OSError, AttributeError):
            break  # no link, or nothing at all
        place = os.path.join(os.path.dirname(place), target)
    try:
        status = os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return FilePlace(path=Path(place), status=None)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", place)
    if stat.S_ISSOCK(status.st_mode):
        raise OSError(errno.ENXIO, "it is a socket", place)
    return FilePlace(path=Path(place), status=status)


def _descriptor(place: str) -> int | None:
    """Return the number of a descriptor of this process that a name stands for."""
    # Opened anew by such a name a regular file would be cut off, and a socket not be opened at all.
    named = re.fullmatch(rf"/dev/std(out|err)|(?:/dev|/proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)", place)
    if named is None:
        return None
    return {"out": 1, "err": 2}[named[1]] if named[1] else int(named[2])
