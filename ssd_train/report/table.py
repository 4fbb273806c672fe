"""A table as data: what its columns are, and what stands in them; the page makes it sortable."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

# How a value is written: as it is, a whole number, a fraction in percent, a number of three digits, or one of two or
# four decimals.
Form = Literal["text", "count", "percent", "number", "points", "precise"]

NOTHING = "–"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        title: its header.
        form: how its values are written.
        about: one sentence for those who point at it.
    """

    title: str
    form: Form = "text"
    about: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """A text that leads somewhere; `href` is relative to the page."""

    text: str
    href: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SortableTable:
    """Columns and rows; None and NaN stand for what is not defined.

    Raises:
        ValueError: a row has not one value a column.
    """

    columns: tuple[Column, ...]
    rows: Sequence[Sequence[Any]]

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row has not {len(self.columns)} values")


def is_nothing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def shown(value: Any, form: Form = "text") -> str:
    """Return a value as people read it."""
    if is_nothing(value):
        return NOTHING
    if isinstance(value, Link):
        return value.text
    if form == "percent":
        return f"{100 * value:.1f} %"
    if form == "number":
        return f"{value:.3g}"
    if form == "points":
        return f"{value:.2f}"
    if form == "precise":
        return f"{value:.4f}"
    return str(value)


def sort_key(value: Any, form: Form = "text") -> str:
    """Return what the page sorts by, unrounded; empty for nothing, which always comes last."""
    if is_nothing(value):
        return ""
    return shown(value) if form == "text" else repr(float(value))
