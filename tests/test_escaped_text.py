import csv
import io
import os
import xml.etree.ElementTree as ElementTree

import pytest

from ssd_train.escaped_text import escaped, unescaped

NAMES = [
    "dog",
    "ü €\U0001f600",
    os.fsdecode(b"caf\xe9.jpg"),
    "\ud800",
    "\ud83d\ude00",
    "a\nb\r\tc\0\x1f\x7f\x85\u2028\ufffe",
    r"C:\users\dog",
    r"\u00ff \u000a \udce9 \u005c \\udce9",
    "\\\udce9",
    "\\\nu000a",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_one_line_of_text_and_read_back(name: str) -> None:
    text = escaped(name)
    assert unescaped(text) == name
    assert text.encode("utf-8") and len(f"{text}.".splitlines()) == 1
    assert ElementTree.fromstring(f"<a>{text}</a>").text == text
    table = io.StringIO()
    csv.writer(table).writerow([text, ""])
    assert len(table.getvalue().splitlines()) == 1


def test_ordinary_text_stays_as_it_is() -> None:
    for name in ("dog", "ü €", r"C:\users\u00ffdog", "a & b", "\U0001f600"):
        assert escaped(name) == name


def test_letters_that_a_locale_took_for_bytes_are_letters() -> None:
    assert escaped("\udcc3\udcbc.jpg") == "ü.jpg"
