"""Tables: each choice of the project is a row, found by its name, and nothing else decides."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from ssd_train.errors import SSDDeployError


class Named(Protocol):
    """A row."""

    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=Named)


class Table(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order in which they are offered.

    Args:
        what: what a row is, for errors: `backend`, for instance.
        rows: the first rows; `add` takes further ones.
        error: what `find` raises.

    Raises:
        ValueError: two rows have one name.
    """

    def __init__(self, what: str, rows: Iterable[Row], error: type[SSDDeployError]) -> None:
        self.what = what
        self.error = error
        self._rows: dict[str, Row] = {}
        for row in rows:
            self.add(row)

    def __getitem__(self, name: str) -> Row:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> Row:
        """Add a row behind the others, and return it."""
        if row.name in self._rows:
            raise ValueError(f"there are two rows of the {self.what} {row.name!r}")
        self._rows[row.name] = row
        return row

    def find(self, name: str) -> Row:
        """Return a row; raise the table's error, which lists what exists, where there is none."""
        if name not in self._rows:
            raise self.error(f"{self.what} {name!r} does not exist; choose {', '.join(self._rows)}")
        return self._rows[name]
