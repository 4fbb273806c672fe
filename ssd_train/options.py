"""Settings as data: a field of a dataclass says once what it means and what it may be.

The command line makes its options of such fields (`command_line.options_of`), and `check_ranges` holds every other
caller to the same ranges.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from ssd_train.errors import SSDDeployError
from ssd_train.json_input import shown

_KEY = "option"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """What there is to know about a field.

    Attributes:
        help: one sentence for people; a unit where there is one.
        names: what the command line calls it, such as `("-j", "--workers")`; empty for `--` and the field's name.
        least, most: the range, both ends included.
        above, below: the range, its ends left out.
        choices: the only values, perhaps a table that grows; empty for all.
    """

    help: str
    names: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Collection[str] = ()

    def expected(self) -> str:
        """Say what values there are: `1 or more`, `above 0 and below 1`, `step or cos`; empty where all are."""
        if self.choices:
            return " or ".join(self.choices)
        if self.least is not None and self.most is not None:
            return f"{self.least:.15g} to {self.most:.15g}"
        ends = (
            (self.least, "{:.15g} or more"),
            (self.above, "above {:.15g}"),
            (self.most, "at most {:.15g}"),
            (self.below, "below {:.15g}"),
        )
        return " and ".join(text.format(end) for end, text in ends if end is not None)

    def allows(self, value: Any) -> bool:
        """Whether a value is in range; None, which stands for what was left open, always is."""
        if value is None:
            return True
        if self.choices:
            return value in self.choices
        if isinstance(value, tuple):
            return True
        if isinstance(value, float) and not math.isfinite(value):
            return not self.expected()
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def option(
    default: Any,
    help: str,
    *,
    names: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Collection[str] = (),
) -> Any:
    """Return a dataclass field with a default and an `Option`, whose arguments these are."""
    about = Option(help=help, names=names, least=least, most=most, above=above, below=below, choices=choices)
    return dataclasses.field(default=default, metadata={_KEY: about})


def about(field: "dataclasses.Field[Any]") -> Option | None:
    """Return what a field was declared with; None for an ordinary field."""
    return field.metadata.get(_KEY)


def check_ranges(settings: Any, error: type[SSDDeployError]) -> None:
    """Raise `error` for the first field of a dataclass that is out of its range."""
    for field in dataclasses.fields(settings):
        known, value = about(field), getattr(settings, field.name)
        if known is not None and not known.allows(value):
            raise error(f"{field.name} {shown(str(value))}: expected {known.expected()}", arguments=(field.name,))


def left_open(kind: type, name: str) -> Any:
    """Return a dataclass field like that of another class, whose default is None: what that one says in its stead."""
    (field,) = [field for field in dataclasses.fields(kind) if field.name == name]
    return dataclasses.field(default=None, metadata=field.metadata)
