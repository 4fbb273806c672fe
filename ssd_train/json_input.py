"""JSON from outside: bounded, finite and of a declared type, or a clause that says what is wrong with it. No torch.

Everything that the program reads as JSON comes through here. Who reads it knows which file it is and what to do, and
makes a sentence of `JSONError`'s clause.
"""

import dataclasses
import json
import math
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

import msgspec

from ssd_train.errors import SSDDeployError
from ssd_train.input_files import open_input

# Levels of lists and objects. Nothing that is read here has more than ten; copying, writing and comparing values take
# a call or two of Python's a level, of which it has a thousand.
MAX_DEPTH = 64

# Far above any settings, description or header.
MOST_BYTES = 2**25

# Of annotations: Objects365, among the largest there are, has 6.6 GB.
MOST_BYTES_OF_ANNOTATIONS = 2**34

# What the parser, its decoder or a short memory may raise beside its own error.
_FAULTS = (ValueError, RecursionError, MemoryError, OverflowError, SystemError)


class JSONError(ValueError):
    """JSON that cannot be used; its text is a clause to go behind the name of the file, without a full stop."""


class UnreadableError(JSONError):
    """The file itself cannot be read."""


def read_json(path: Path, kind: Any = Any, *, most_bytes: int = MOST_BYTES) -> Any:
    """Read a file; see `parse_json`.

    Args:
        most_bytes: a larger file is refused unread.

    Raises:
        JSONError: the file cannot be read, or as `parse_json`.
    """
    return parse_json(_bytes_of(path, most_bytes), kind)


def read_annotations(path: Path) -> Any:
    """Read a file of annotations, which may be large; see `parse_leniently`.

    Raises:
        JSONError: the file cannot be read, or is no JSON.
    """
    return parse_leniently(_bytes_of(path, MOST_BYTES_OF_ANNOTATIONS))


def parse_leniently(data: bytes | str) -> Any:
    """Parse JSON in which single values may be odd, and as fast as Python can.

    Numbers that are infinite or NaN are left as they are, those of thousands of digits are infinite, and neither depth
    nor repeated keys are looked at: who reads the values checks those that it uses.

    Raises:
        JSONError: it is no JSON.
    """
    text = data if isinstance(data, str) else _text(data)
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # an integer of more digits than Python takes; hooks would cost everyone else their time
            return json.loads(text, parse_int=_any_integer)
    except _FAULTS as error:
        raise JSONError(_not_json(error)) from error


def parse_json(data: bytes | str, kind: Any = Any) -> Any:
    """Parse JSON.

    Args:
        data: text, or bytes of it in UTF-8, or in UTF-16 or 32 as byte order marks and zero bytes tell.
        kind: a type that msgspec converts to, such as a dataclass, a TypedDict or `list[str]`; strictly, so that a
            text is no number and a truth value no integer.

    Returns:
        A value of `kind`, whose numbers are finite, and whose integers a float can hold.

    Raises:
        JSONError: it is no JSON, deeper than `MAX_DEPTH`, has a number that is not finite or a key twice in an object,
            or is not of that kind.
    """
    try:
        value = json.loads(
            data if isinstance(data, str) else _text(data),
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_object,
        )
    except JSONError:
        raise
    except _FAULTS as error:
        raise JSONError(_not_json(error)) from error
    _check_depth(value)
    return value if kind is Any else convert(value, kind)


def convert(value: Any, kind: Any) -> Any:
    """Return plain values as a declared type, strictly; paths are made of text.

    Raises:
        JSONError: a value is of another type, or outside the range that its type checks; or a dataclass has no field
            of an entry's name.
    """
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        unknown = value.keys() - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise JSONError(f"has the unknown entry {quoted(min(unknown, key=str))}")
    try:
        return msgspec.convert(value, kind, strict=True, dec_hook=_as_path)
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "")
        raise JSONError(_shortened(text[:1].lower() + text[1:], 200)) from error
    except SSDDeployError as error:  # of a dataclass that checks itself
        raise JSONError(str(error)) from error
    except _FAULTS as error:
        raise JSONError(f"cannot be used ({type(error).__name__})") from error


def quoted(value: object, most: int = 80) -> str:
    """Return a value from outside as Python writes it, for a sentence: on one line, escaped, short; it never raises."""
    form = reprlib.Repr()
    form.maxlevel, form.maxlist, form.maxdict, form.maxstring, form.maxother, form.maxlong = 4, 8, 8, most, most, 40
    try:
        return _shortened(form.repr(value), most)
    except Exception:  # whatever the form of its type may raise
        return f"a value of type {type(value).__name__}"


def quoted_json(value: object, most: int = 80) -> str:
    """Return a value as JSON writes it; otherwise as `quoted`."""
    try:
        return _shortened(json.dumps(value), most)
    except Exception:  # too deep, too many digits, nothing that JSON has
        return quoted(value, most)


def shown(text: str, most: int = 200) -> str:
    """Return text from outside for a sentence: as it is where it prints on one line and is short, else `quoted`."""
    return text if len(text) <= most and text.isprintable() else quoted(text, most)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _bytes_of(path: Path, most_bytes: int) -> bytes:
    try:
        with open_input(path) as file:
            status = os.fstat(file.fileno())
            is_plain = stat.S_ISREG(status.st_mode)
            # A pipe does not tell how much will come, and a device may never end.
            if (status.st_size if is_plain else 0) > most_bytes:
                raise JSONError(f"has {status.st_size} bytes, and {most_bytes} are the most that is read")
            data = file.read() if is_plain else file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from error
    except JSONError:
        raise
    except (ValueError, MemoryError) as error:  # a zero byte in the name; no room
        raise UnreadableError(f"cannot be read ({str(error) or type(error).__name__})") from error
    if not is_plain and len(data) > MOST_BYTES:
        raise JSONError(f"goes on after {MOST_BYTES} bytes, the most that is read of what is no file")
    return data


def _text(data: bytes) -> str:
    # Python's own reader would let halves of surrogate pairs pass as bytes.
    try:
        return data.decode(json.detect_encoding(data))
    except (UnicodeDecodeError, MemoryError) as error:
        raise JSONError(f"is not JSON ({str(error) or 'no memory'})") from error


def _not_json(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "is not JSON (nested too deep)"
    if isinstance(error, MemoryError):
        return "is not JSON (larger than the memory there is)"
    return f"is not JSON ({shown(str(error)) or type(error).__name__})"


def _integer(digits: str) -> int:
    _finite(digits)
    return int(digits)


def _any_integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return -math.inf if digits.startswith("-") else math.inf


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise JSONError(f"has the number {quoted(digits, 40)}, which is not finite")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JSONError(f"has {quoted(twice)} twice in one object")
    return values


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise JSONError(f"is not JSON ({MAX_DEPTH} levels of lists and objects are the most that is read)")
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level, depth = inner, depth + 1


def _as_path(kind: type, value: Any) -> Path:
    if kind is Path and isinstance(value, str):
        if "\0" in value:
            raise ValueError("expected a path, got text with a zero byte")
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
