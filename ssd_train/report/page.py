"""A template and plain values -> one HTML file with everything inside.

A page extends `base.html.j2`, whose blocks are `title` and `content`, and uses the macros of `parts.html.j2`. The
template of another package lies in its own folder `templates`.
"""

import contextlib
import datetime
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ssd_train.escaped_text import decoded
from ssd_train.files import check_writable, written_atomically
from ssd_train.printable import printable
from ssd_train.report.table import shown, sort_key
from ssd_train.requirements import require

PAGE_NAME = "report.html"
DATA_NAME = "report.json"


def check_packages() -> None:
    """Raise BackendError where jinja2 or matplotlib is not installed."""
    for package in ("jinja2", "matplotlib"):
        require(package, "report", "A report")


def check_report(folder: Path) -> None:
    """Raise for a report that could not be written: before hours of work, not after them.

    Raises:
        BackendError: jinja2 or matplotlib is not installed.
        SSDDeployError: the folder cannot be written.
    """
    check_packages()
    check_writable(folder / PAGE_NAME)


def files_of(folder: Path) -> tuple[Path, Path]:
    """Return a report's page and its data."""
    return folder / PAGE_NAME, folder / DATA_NAME


def render(template: str, values: dict[str, Any], *, package: str = "ssd_train.report") -> str:
    """Return a page as HTML. Every value is escaped: names of classes and files come from users and are no markup.

    Args:
        template: file name in the folder `templates` of `package`.
        values: what it shows; one that it names and that is missing is an error.
        package: where the template is.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("ssd_train.report")]),
        autoescape=True,
        # What turns the direction of a line would turn what stands behind it.
        finalize=lambda value: printable(decoded(value)) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "sort_key": sort_key}
    made_at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return environment.get_template(template).render(made_at=made_at, **values)


def write_page(path: Path, template: str, values: dict[str, Any], *, package: str = "ssd_train.report") -> None:
    """Write a page atomically; see `render`."""
    html = render(template, values, package=package)
    with written_atomically(path) as temporary:
        # A name that is not UTF-8, as Linux has them, must not cost the page.
        temporary.write_text(decoded(html), encoding="utf-8", errors="backslashreplace")


def older_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return what an earlier report wrote under names of these patterns; to be asked before the new one is written.

    Without a report's data in the folder there was none, and files of such names are the user's.
    """
    if not (folder / DATA_NAME).is_file():
        return []
    return [path for pattern in patterns for path in folder.glob(pattern)]


def remove_older(older: Iterable[Path], kept: Collection[str]) -> None:
    """Remove an earlier report's files, except for the names that are kept."""
    for path in older:
        if path.name not in kept:
            with contextlib.suppress(OSError):
                path.unlink()
