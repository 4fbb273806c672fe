"""The skeleton of every page: nothing from outside, values that are no markup, tables that carry what they sort by."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ssd_train.report.page import render
from ssd_train.report.pictures import shrunk, thumbnail_uri
from ssd_train.report.table import Column, Link, SortableTable, shown, sort_key

EVIL = "<script>alert('1')</script>"
TEMPLATE = """{% extends "base.html.j2" %}
{% import "parts.html.j2" as parts %}
{% block title %}{{ name }}{% endblock %}
{% block content %}<h1>{{ name }}</h1>{{ parts.table(rows) }}{{ parts.facts({name: name}) }}
{{ parts.thumbnail("data:image/jpeg;base64,AA==", "a b.jpg", name, name) }}{% endblock %}"""


class Tags(HTMLParser):
    """Every start tag of a page with its attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page of another package's template, with names that are markup."""
    folder = tmp_path / "some_package" / "templates"
    folder.mkdir(parents=True)
    (tmp_path / "some_package" / "__init__.py").touch()
    (folder / "some.html.j2").write_text(TEMPLATE)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = SortableTable(
        columns=(Column(title=EVIL, about='"quoted"'), Column(title="AP", form="percent")),
        rows=((EVIL, 0.1234), (Link(text=EVIL, href='x"y'), float("nan"))),
    )
    return render("some.html.j2", {"name": EVIL, "rows": rows}, package="some_package")


def test_names_of_users_are_text_and_never_markup(page: str) -> None:
    tags = Tags(page)
    assert [tag for tag, _ in tags.tags].count("script") == 1, "only the page's own"
    assert tags.text.count(EVIL) >= 5
    assert any(attributes.get("href") == 'x"y' for _, attributes in tags.tags)


def test_nothing_is_loaded_from_outside(page: str) -> None:
    assert "default-src 'none'" in page
    sources = [attributes.get("src") or "" for tag, attributes in Tags(page).tags if tag in ("img", "script")]
    assert all(source.startswith("data:") for source in sources if source)
    assert not re.search(r"https?://|@import|url\(", page)


def test_cells_carry_what_they_sort_by(page: str) -> None:
    keys = [attributes["data-key"] for tag, attributes in Tags(page).tags if tag == "td"]
    assert keys == [EVIL, "0.1234", EVIL, ""]


@pytest.mark.parametrize(
    ("value", "form", "text", "key"),
    [
        (0.98765, "percent", "98.8 %", "0.98765"),
        (1234.5, "number", "1.23e+03", "1234.5"),
        (7, "count", "7", "7.0"),
        (float("nan"), "percent", "–", ""),
        (None, "count", "–", ""),
        ("", "text", "–", ""),
    ],
)
def test_values_as_people_read_them_and_as_they_sort(value: object, form: str, text: str, key: str) -> None:
    assert (shown(value, form), sort_key(value, form)) == (text, key)  # type: ignore[arg-type]


def test_a_row_has_a_value_a_column() -> None:
    with pytest.raises(ValueError, match="1 values"):
        SortableTable(columns=(Column(title="a"),), rows=((1, 2),))


def test_pictures_shrink_in_proportion_and_never_grow() -> None:
    assert shrunk(np.zeros((100, 400, 3), np.uint8), 200, 200).shape == (50, 200, 3)
    assert shrunk(np.zeros((400, 2, 3), np.uint8), 200, 100).shape == (100, 1, 3)
    assert shrunk(np.zeros((10, 20, 3), np.uint8), 200, 200).shape == (10, 20, 3)
    assert thumbnail_uri(np.zeros((10, 20, 3), np.uint8)).startswith("data:image/jpeg;base64,")
