"""Seeded changes of a file's bytes: those that know nothing of it, and those of text and of trees of values.

A change is a function of (bytes, `random.Random`), so that the same numbers make the same input again.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Change = Callable[[bytes, Random], bytes]

# What lengths, counts and offsets are replaced by.
MAGIC = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
# Beyond what an input may grow to by repeating parts of it.
MOST_BYTES = 1 << 24

# --- Bytes ---


def flip_bits(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 32)) if changed else 0):
        changed[_place(len(changed), random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + random.randbytes(end - start) + data[end:]


def fill(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + random.choice((b"\0", b"\xff", b" ", b"{", b"-")) * (end - start) + data[end:]


def cut_off(data: bytes, random: Random) -> bytes:
    return data[: _place(len(data) + 1, random)]


def delete(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[end:]


def insert(data: bytes, random: Random) -> bytes:
    start = _place(len(data) + 1, random)
    return data[:start] + random.randbytes(random.choice((1, 2, 4, 16, 300))) + data[start:]


def repeat(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    times = min(random.choice((1, 1, 2, 10, 1000)), MOST_BYTES // (end - start + 1))
    return data[:end] + data[start:end] * times + data[end:]


def put_number(data: bytes, random: Random) -> bytes:
    """Put a number that breaks careless readers in the place of one of 1, 2, 4 or 8 bytes."""
    size = random.choice((1, 2, 4, 4, 8))
    start = _place(max(len(data) - size, 0) + 1, random)
    number = random.choice(MAGIC) % (1 << 8 * size)
    return data[:start] + number.to_bytes(size, random.choice(("little", "big"))) + data[start + size :]


BYTES: tuple[Change, ...] = (flip_bits, overwrite, fill, cut_off, delete, insert, repeat, put_number)


def splice(data: bytes, other: bytes, random: Random) -> bytes:
    """Return the beginning of one file and the end of another."""
    return data[: _place(len(data) + 1, random)] + other[_place(len(other) + 1, random) :]


def _place(size: int, random: Random) -> int:
    """Return an index below `size`; half of them near the ends, where headers and directories are."""
    near = min(size, random.choice((64, 512)))
    kind = random.random()
    place = random.randrange(near) if kind < 0.3 else size - 1 - random.randrange(near) if kind < 0.5 else None
    return random.randrange(size) if place is None else place


def _span(data: bytes, random: Random) -> tuple[int, int]:
    start = _place(len(data) + 1, random)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 100, len(data) // 4 + 1)))


# --- Text ---

ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "a\ud800b", "../../etc/passwd", "/etc/passwd", "~nosuch/x", "~", "x" * 300,
    "x" * 70_000, "\x1b[31mred\x1b[0m", "two\nlines", "\u202eright to left", "nan", "inf", "-inf", "1e999", "9" * 400,
    "9" * 5000, "-1", "0", "1.5", "\u0663", "1_000", "0x10", "true", "null", "[]", "{}", "{0}%s", "犬", "a/b\\c:d?",
    "http://127.0.0.1:1/x", "file:///etc/passwd", "-", ".", "..", "con", "\ufeff",
)  # fmt: skip


def change_lines(data: bytes, random: Random) -> bytes:
    """Change a line of a text file, or a word of it."""
    lines = data.split(b"\n")
    place = random.randrange(len(lines))
    kind = random.randrange(6)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines[place:place] = [lines[place]] * random.choice((1, 2, 1000))
    elif kind == 2:
        lines[place] = encoded(random.choice(ODD_TEXTS))
    elif kind == 3:
        lines.insert(place, encoded(random.choice(ODD_TEXTS)))
    else:
        words = re.split(rb"([ \t:,]+)", lines[place])
        words[random.randrange(len(words))] = encoded(random.choice(ODD_TEXTS))
        lines[place] = b"".join(words)
    return b"\n".join(lines)


XML_PARTS = (
    b'<!DOCTYPE a [<!ENTITY x "x"><!ENTITY y "&x;&x;&x;&x;">]>', b"&y;", b'<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    b"<![CDATA[", b'<?xml version="1.0" encoding="UTF-16"?>', b'<?xml version="1.0" encoding="nosuch"?>',
    b"<a>" * 100_000, b"</annotation>", b"<object/>", b"<bndbox/>", b"<!-- -->", b"&#0;", b"&#xD800;",
)  # fmt: skip


def change_xml(data: bytes, random: Random) -> bytes:
    """Replace a text between tags, or repeat or delete an element."""
    kind = random.randrange(5)
    if kind == 0:
        places = list(re.finditer(rb"<(\w+)>[^<]*</\1>", data))
    elif kind == 1:
        places = list(re.finditer(rb"(?s)<(object|bndbox|size)>.*?</\1>", data))
    else:
        places = list(re.finditer(rb"(?<=>)[^<\s][^<]*(?=<)", data))
    if not places or kind == 4:
        start = _place(len(data) + 1, random)
        return data[:start] + random.choice(XML_PARTS) + data[start:]
    place = random.choice(places)
    new = encoded(random.choice(ODD_TEXTS)) if kind > 1 else place[0] * random.choice((0, 2, 2, 300))
    return data[: place.start()] + new + data[place.end() :]


def encoded(text: str) -> bytes:
    """Return the bytes of a text; those of a lone surrogate are no UTF-8."""
    return text.encode("utf-8", "surrogatepass")


# --- Trees: what JSON, YAML, pickles and the like hold ---

# Stands in a tree for text that no encoder writes.
RAW = "@@raw {}@@"
RAW_TEXTS = (
    "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "1e999", "-1e999", "NaN", "Infinity",
    "9" * 400, "9" * 5000, "-" + "9" * 400, "1" + "0" * 400 + ".5", "0.1e-400", '"\\ud800"', '"\\udc00\\ud800"', "",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, -1, 0, 1, 2, 0.5, -0.5, 1e308, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, [], {}, [[]],
    [None], {"": None}, [1, 2, 3, 4], ["a"], *ODD_TEXTS, *(RAW.format(index) for index in range(len(RAW_TEXTS))),
)  # fmt: skip


def change_tree(tree: Any, random: Random, odd_values: Sequence[Any] = ODD_VALUES) -> Any:
    """Return a tree of dicts and lists with one place changed: another value, a key more or less, a place twice."""
    places = list(_places(tree))
    path = random.choice(places) if random.random() < 0.9 else ()
    if not path:
        return random.choice(odd_values) if random.random() < 0.3 else tree
    kind = random.randrange(10)
    other = _at(tree, random.choice(places)) if kind == 5 else random.choice(odd_values)
    return _changed(tree, path, kind, other, random)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _places(value, (*path, key))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _changed(tree: Any, path: tuple[Any, ...], kind: int, other: Any, random: Random) -> Any:
    """Return a copy along the path, changed at its end."""
    items = dict(tree) if isinstance(tree, dict) else list(tree)
    key = path[0]
    if len(path) > 1:
        items[key] = _changed(items[key], path[1:], kind, other, random)
    elif kind == 0:
        del items[key]
    elif kind == 1 and isinstance(items, list):
        items[key:key] = [items[key]] * random.choice((1, 2, 50))
    elif kind == 1:
        # JSON may say a key twice, which no dict can: `to_json` takes the mark away.
        items[RAW.format("twice") + str(key)] = other
    elif kind == 2 and isinstance(items, dict):
        items[random.choice(ODD_TEXTS)] = items.pop(key)
    elif kind == 3:
        items[key] = [items[key]]
    elif kind == 4:
        items[key] = str(items[key]) if not isinstance(items[key], str) else list(items[key])
    else:
        items[key] = other
    return items


def to_json(tree: Any) -> str:
    """Return JSON, and more: NaN, numbers of any length, nesting of any depth, and keys that are there twice."""
    text = json.dumps(tree, default=repr).replace(RAW.format("twice"), "")
    for index, raw in enumerate(RAW_TEXTS):
        text = text.replace(json.dumps(RAW.format(index)), raw).replace(RAW.format(index), raw)
    return text


def change_json(data: bytes, random: Random) -> bytes:
    return encoded(to_json(change_tree(json.loads(data), random)))


def change_json_lines(data: bytes, random: Random) -> bytes:
    """Change a value of one line, or a whole line."""
    lines = data.splitlines()
    place = random.randrange(len(lines))
    if random.random() < 0.2:
        return change_lines(data, random)
    lines[place] = change_json(lines[place], random)
    return b"\n".join(lines) + b"\n"


YAML_PARTS = (
    b"&a [*a]", b"*nosuch", b"!!python/object/apply:os.system ['true']", b"<<: *a", b"? ", b"!!binary x",
    b"!!timestamp 2020-99-99", b"1:30:99", b"- - - -", b"%YAML 9.9\n---\n", b"---\n", b"\t", b"[" * 20_000,
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b]\nnames: [*c,*c,*c,*c,*c]\n",
    b"2020-13-45", b"0b2", b"0o9", b"{a: b, a: c}", b"!!set {a, b}", b"{[a]: b}", b"!!int x", b"!!float x", b".inf",
)  # fmt: skip


def change_yaml(data: bytes, random: Random) -> bytes:
    """Change a value, a line, or put something in that YAML alone has."""
    import yaml

    kind = random.randrange(3)
    if kind == 0:
        return change_lines(data, random)
    if kind == 1:
        start = _place(len(data) + 1, random)
        return data[:start] + random.choice(YAML_PARTS) + data[start:]
    # JSON is YAML, too.
    return encoded(to_json(change_tree(yaml.safe_load(data), random)))
