"""One input: which file of which kind, and the numbers of the changes that make it of that."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from types import ModuleType

import mutations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seed:
    """A valid file, and the files around it that its reader needs.

    Attributes:
        files: path in the folder -> content.
        target: the one that is changed.
        is_refused: it is none that the product takes, but its changes are of interest.
    """

    files: Mapping[str, bytes]
    target: str
    is_refused: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A row of the table of kinds.

    Attributes:
        name: what it is called on the command line and in the table.
        seeds: a folder to work in -> valid files.
        read: (folder, the changed file in it, an empty folder for results) reads it as the product does. It may
            raise `SSDDeployError`, and nothing else.
        change: a change that knows the format; None for bytes alone.
        weight: how many inputs it gets beside other kinds.
        rewrites: it may change or remove files in its folder.
    """

    name: str
    seeds: Callable[[Path], Sequence[Seed]]
    read: Callable[[Path, Path, Path], object]
    change: mutations.Change | None = None
    weight: float = 1.0
    rewrites: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """An input.

    Attributes:
        kind: name of a row.
        seed: place of the file among the kind's seeds.
        steps: a number for each change, in order.
        size: bytes that are left of the result; None for all.
    """

    kind: str
    seed: int
    steps: tuple[int, ...]
    size: int | None = None


def table_of(module: str) -> dict[str, Kind]:
    """Return the rows of a module's `KINDS`, by name."""
    found: ModuleType = importlib.import_module(module)
    return {kind.name: kind for kind in found.KINDS}


def make_cases(kind: str, count: int, seeds: int, seed: int) -> Iterator[Case]:
    """Yield inputs of a kind; the same seed gives the same ones, and the first of more are those of fewer."""
    for number in range(count):
        random = Random(f"{seed} {kind} {number}")
        steps = tuple(random.getrandbits(32) for _ in range(random.choice((1, 1, 1, 2, 3))))
        yield Case(kind=kind, seed=number % seeds, steps=steps)


def make_input(case: Case, kind: Kind, seeds: Sequence[Seed]) -> bytes:
    """Return the bytes of an input."""
    seed = seeds[case.seed]
    data = seed.files[seed.target]
    for step in case.steps:
        data = _changed(data, kind, seeds, Random(step))
    return data if case.size is None else data[: case.size]


def _changed(data: bytes, kind: Kind, seeds: Sequence[Seed], random: Random) -> bytes:
    if kind.change is not None and random.random() < 0.75:
        try:
            return kind.change(data, random)
        except Exception:  # an earlier change made it unreadable for the format's own library, whatever that raises
            pass
    if random.random() < 0.1:
        other = random.choice(seeds)
        return mutations.splice(data, other.files[other.target], random)
    return random.choice(mutations.BYTES)(data, random)
