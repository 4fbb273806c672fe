"""Rows as aligned plain text, which survives a pipe and a log file, and fits a terminal."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

from ssd_train.printable import one_line

GAP = 2


def output_width() -> int | None:
    """Return how wide what is printed may be; None, without a limit, in a pipe, where a row stays a line.

    `COLUMNS` goes before the terminal, as for every program.
    """
    if os.environ.get("COLUMNS") or sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return None


def text_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    keys: int = 1,
    width: int | None = None,
    wrap_last: bool = False,
) -> str:
    """Return a table.

    Args:
        left: so many columns align left, the others right.
        keys: the first columns, which say what a row is about.
        width: most characters a line. Columns that do not fit follow in a second table behind the same keys.
        wrap_last: the last column is running text: break its lines instead.
    """
    cells = [list(map(one_line, row)) for row in (header, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    if width is not None and _total(widths) > width:
        if wrap_last:
            widths[-1] = max(len(header[-1]), width - _total(widths[:-1]) - GAP)
        else:
            # Names of backends are long and have gaps to break at; names of networks have none.
            longest_word = max(len(word) for row in cells for word in row[0].split() or [""])
            widths[0] = min(widths[0], max(longest_word, width // 3))
    return "\n\n".join(_block(cells, block, widths, left) for block in _blocks(widths, keys, width, wrap_last))


def wrapped(lines: Iterable[str], width: int | None) -> list[str]:
    """Break sentences that are too long, indenting what follows; words, such as paths, stay whole."""
    lines = map(one_line, lines)
    if width is None:
        return list(lines)
    broken: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        broken += textwrap.wrap(
            line, width, subsequent_indent=indent + "  ", break_long_words=False, break_on_hyphens=False
        ) or [line]
    return broken


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _blocks(widths: Sequence[int], keys: int, width: int | None, in_one: bool) -> list[list[int]]:
    """Return the columns of each table."""
    columns = list(range(len(widths)))
    if in_one or width is None:
        return [columns]
    blocks = [columns[:keys]]
    for column in columns[keys:]:
        if len(blocks[-1]) > keys and _total([widths[each] for each in (*blocks[-1], column)]) > width:
            blocks.append(columns[:keys])
        blocks[-1].append(column)
    return blocks


def _block(cells: Sequence[Sequence[str]], columns: Sequence[int], widths: Sequence[int], left: int) -> str:
    lines = [_row([row[column] for column in columns], columns, widths, left) for row in cells]
    rule = "  ".join("-" * widths[column] for column in columns)
    return "\n".join([lines[0], rule, *lines[1:]])


def _row(cells: Sequence[str], columns: Sequence[int], widths: Sequence[int], left: int) -> str:
    """Return the lines of a row: more than one where a cell is wider than its column."""
    broken = [
        textwrap.wrap(cell, widths[column], break_on_hyphens=False) or [""]
        for column, cell in zip(columns, cells, strict=True)
    ]
    lines = []
    for number in range(max(map(len, broken))):
        parts = [each[number] if number < len(each) else "" for each in broken]
        aligned = [
            part.ljust(widths[column]) if column < left else part.rjust(widths[column])
            for column, part in zip(columns, parts, strict=True)
        ]
        lines.append((" " * GAP).join(aligned).rstrip())
    return "\n".join(lines)
