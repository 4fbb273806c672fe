"""What became of an input: a value, a sentence that every terminal can show, or a failure."""

import contextlib
import dataclasses
import io
import traceback
import unicodedata
from pathlib import Path

from ssd_train.command_line import user_errors
from ssd_train.errors import SSDDeployError

# What a sentence for people may come to; a file's own words in it are shortened.
LONGEST_SENTENCE = 4000
# Of Unicode's bidirectional algorithm: what turns the text that follows.
_DIRECTIONS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of an input.

    Attributes:
        result: `read`, `refused` (a sentence) or `failed`.
        what: the sentence; of a failure its kind, such as the error's type.
        where: of a failure file and line of the innermost code of this project.
        trace: of a failure everything known.
        cpu_s: processor time that it took, whatever else the machine does.
    """

    result: str
    what: str = ""
    where: str = ""
    trace: str = ""
    cpu_s: float = 0.0


class TooLong(BaseException):
    """Past `except Exception`, which would take it for the file's fault."""


def judge(error: BaseException | None) -> Outcome:
    """Return the outcome of a read that raised an error, or none."""
    if error is None:
        return Outcome(result="read")
    return _refused(error) if isinstance(error, SSDDeployError) else _failed(error)


def _refused(error: SSDDeployError) -> Outcome:
    """Print the error as the command does: it has to be a line that every terminal can show."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")
    with contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit), user_errors():
        raise error
    printed.flush()
    text = printed.buffer.getvalue().decode()
    trace = "".join(traceback.format_exception(error))
    where = _where(error)
    if text.count("\n") != 1 or not text.startswith("Error: "):
        return Outcome(result="failed", what="NotOneLine", where=where, trace=trace)
    if any(map(_is_obeyed, text.removesuffix("\n"))):
        return Outcome(result="failed", what="ControlCharacters", where=where, trace=trace)
    if len(text) > LONGEST_SENTENCE:
        return Outcome(result="failed", what="LongSentence", where=where, trace=f"{len(text)} letters\n{trace}")
    return Outcome(result="refused", what=text)


def _is_obeyed(letter: str) -> bool:
    """Whether a terminal may do something else with a letter than show it."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(letter) in _DIRECTIONS


def _failed(error: BaseException) -> Outcome:
    trace = "".join(traceback.format_exception(error))
    what = "Hang" if isinstance(error, TooLong) else type(error).__name__
    return Outcome(result="failed", what=what, where=_where(error), trace=trace)


def _where(error: BaseException) -> str:
    """Return the innermost line of this project's packages that an error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    for frame in reversed(frames):
        parts = Path(frame.filename).parts
        package = next((place for place, part in enumerate(parts) if part in ("ssd_train", "export", "ssd_deploy")), 0)
        if package and "site-packages" not in parts:
            return f"{'/'.join(parts[package:])}:{frame.lineno}"
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
