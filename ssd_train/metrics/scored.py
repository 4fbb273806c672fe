"""What a metric gives."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The numbers of one metric on one data set.

    Attributes:
        numbers: name -> fraction; NaN where nothing defines it. The metric's headline is one of them.
        per_class: class name -> its numbers by name (fractions, NaN likewise) and its number of `objects` that count.
        notes: what was left out, a sentence each.
    """

    numbers: dict[str, float]
    per_class: dict[str, dict[str, float]]
    notes: tuple[str, ...] = ()
