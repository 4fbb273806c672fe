"""What a machine can run out of, whoever noticed: one sentence about it, and what to do."""

import errno
import os
from collections.abc import Iterator

# Error number -> what helps.
ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EROFS: "choose another folder",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer --workers",
    errno.ENFILE: "close other programs, or have the machine's limit of open files raised",
    errno.ENOMEM: "close other programs, or take smaller batches",
}

# Words of libraries that have no error number to give.
_WORDS = {os.strerror(number): number for number in ADVICE} | {
    "bad allocation": errno.ENOMEM,
    "std::bad_alloc": errno.ENOMEM,
    "can't allocate memory": errno.ENOMEM,
}


def shortage_of(error: BaseException) -> str | None:
    """Return a sentence where an error, or one that led to it, is a shortage; None where it is something else."""
    for each in _chain(error):
        number = _number(each)
        if number is not None:
            named = getattr(each, "filename", None)
            where = f"{named}: " if isinstance(named, str) else ""
            return f"{where}{os.strerror(number)}; {ADVICE[number]}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in ADVICE:
        return error.errno
    return next((number for words, number in _WORDS.items() if words in str(error)), None)
