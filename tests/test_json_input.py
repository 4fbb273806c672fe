"""JSON from outside: bounded, finite, of its type, or one clause; and values of it in a sentence."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ssd_train import json_input
from ssd_train.json_input import (
    MAX_DEPTH,
    JSONError,
    UnreadableError,
    convert,
    parse_json,
    parse_leniently,
    quoted,
    quoted_json,
    read_annotations,
    read_json,
    shown,
)

UNUSABLE = {
    "nothing": b"",
    "half an object": b'{"a": 1',
    "nested 100,000 deep": b"[" * 100_000,
    "deep and whole": b"[" * 900 + b"]" * 900,
    "one level too many": b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2),
    "NaN": b'{"a": NaN}',
    "infinity": b"[-Infinity]",
    "a number beyond all floats": b"[1e999]",
    "an integer of 400 digits": b"9" * 400,
    "an integer of 5000 digits": b"9" * 5000,
    "a key twice": b'{"a": 1, "a": 2}',
    "no UTF-8": b'"\xff"',
    "half a surrogate pair as bytes": b'"\xed\xa0\x80"',
    "UTF-16 cut off": b"\xff\xfe{",
    "a zero byte": b'"\x00"',
}


@pytest.mark.parametrize("data", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_used_is_one_short_clause(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    for read in (lambda: parse_json(data), lambda: read_json(path)):
        with pytest.raises(JSONError) as caught:
            read()
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_every_encoding_of_json_is_read(encoding: str) -> None:
    assert parse_json('{"ä": 1}'.encode(encoding)) == {"ä": 1} == parse_leniently('{"ä": 1}'.encode(encoding))


def test_the_deepest_that_is_read_can_be_written_and_compared_again() -> None:
    text = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(text)) == text


def test_odd_numbers_of_annotations_are_left_to_who_uses_them(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"a": [NaN, 1e999, {"9" * 400}, {"9" * 5000}, -{"9" * 5000}], "a": [1]}}', encoding="utf-8")
    assert read_annotations(path) == {"a": [1]}
    values = parse_leniently(path.read_text(encoding="utf-8").replace(', "a": [1]', ""))["a"]
    assert values[0] != values[0] and values[1] == values[3] == -values[4] == float("inf")
    assert values[2] == int("9" * 400)


@pytest.mark.parametrize("data", [b"", b"[" * 100_000, b"\xff\xfe\xfa", b"nul"], ids=repr)
def test_annotations_that_are_no_json_are_a_clause_too(data: bytes) -> None:
    with pytest.raises(JSONError):
        parse_leniently(data)


def test_a_file_that_cannot_be_read_is_told_apart(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("a\0b"), tmp_path / ("x" * 300)):
        with pytest.raises(UnreadableError, match="cannot be read"):
            read_json(path)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]" + " " * 100, encoding="utf-8")
    with pytest.raises(JSONError, match="has 103 bytes, and 102 are the most"):
        read_json(path, most_bytes=102)
    monkeypatch.setattr(json_input, "MOST_BYTES", 1000)
    with pytest.raises(JSONError, match="goes on after 1000 bytes"):
        read_json(Path("/dev/zero"))


@dataclasses.dataclass
class _Kind:
    count: int
    path: Path
    numbers: tuple[float, float]


def test_values_become_the_declared_type() -> None:
    made = parse_json('{"count": 1, "path": "a/b", "numbers": [1, 2.5]}', _Kind)
    assert made == _Kind(count=1, path=Path("a/b"), numbers=(1.0, 2.5))


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"count": True}, "expected int, got bool - at $.count"),
        ({"count": "1"}, "expected int, got str - at $.count"),
        ({"path": "a\0"}, "zero byte"),
        ({"path": 5}, "expected Path, got int"),
        ({"more": 1}, "has the unknown entry 'more'"),
        ({"numbers": [1]}, "expected array of length 2"),
        ({"numbers": [1, "x"]}, "expected float, got str - at $.numbers[1]"),
    ],
)
def test_a_value_of_another_type_is_told_by_its_place(change: dict[str, Any], clause: str) -> None:
    with pytest.raises(JSONError) as caught:
        convert({"count": 1, "path": "a", "numbers": [1, 2], **change}, _Kind)
    assert clause in str(caught.value)


def _deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


class _Nasty:
    def __repr__(self) -> str:
        raise OSError


@pytest.mark.parametrize(
    "value",
    [_deep(990), 10**400, 10**5000, "x" * 10**6, "a\ud800\0\n\u202e", ["y"] * 10**5, {"a": _deep(990)}, _Nasty(), {}],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_short_and_prints_in_a_sentence(value: object) -> None:
    for text in (quoted(value), quoted_json(value)):
        assert len(text) <= 80 and text.isprintable() and text.encode()


def test_plain_text_is_shown_as_it_is() -> None:
    assert shown("größe.jpg") == "größe.jpg" and shown("a\nb") == r"'a\nb'" and len(shown("x" * 1000)) <= 200


def test_large_files_of_annotations_take_no_longer_than_pythons_own_reader(tmp_path: Path) -> None:
    rows = [{"id": index, "bbox": [1.5, 2.5, 3, 4], "category_id": 1} for index in range(30_000)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows), encoding="utf-8")

    def fastest(read: Any) -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            read()
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(lambda: read_annotations(path)) < 2 * fastest(lambda: json.loads(path.read_bytes()))
