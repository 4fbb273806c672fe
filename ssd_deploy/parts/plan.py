"""What a run in parts is, kept in its folder, so that a later one goes on with it and no other does."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.parts.listing import Part, cut, find_lists
from ssd_deploy.parts.results import PartResult, finished
from ssd_train.errors import SSDDeployError
from ssd_train.files import remove_unfinished, to_json, write_json
from ssd_train.json_input import JSONError, quoted, read_json

PLAN_NAME = "plan.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saved:
    """What a plan's file says.

    Attributes:
        asked: all that the results depend on, as JSON has it.
        lists: Parquet files with the names of the pictures.
        sizes: a hash of the parts' sizes.
    """

    asked: dict[str, Any]
    lists: tuple[str, ...]
    sizes: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A run in parts.

    Attributes:
        folder: of its results, one that all machines share.
        parts: all of them, in order.
        done: index -> what came of those that an earlier run finished.
    """

    folder: Path
    parts: tuple[Part, ...]
    done: Mapping[int, PartResult]

    @property
    def pictures(self) -> int:
        return sum(part.count for part in self.parts)

    @property
    def missing(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.index not in self.done)


def plan(folder: Path, words: Sequence[str], part_size: int, settings: Mapping[str, Any]) -> Plan:
    """Begin a run, or go on with the one that the folder holds.

    Pictures that came into a folder since it was begun belong to another run.

    Args:
        folder: made if missing.
        words, part_size: see `find_lists`.
        settings: all else that the results depend on, values that JSON can hold; compared with those of an earlier run.

    Raises:
        SSDDeployError: the folder holds another run, or cannot be written.
        ImageError: see `find_lists`.
    """
    path = folder / PLAN_NAME
    # As it is read back: JSON has no tuples.
    asked = json.loads(to_json({"sources": list(words), "part_size": part_size, **settings}))
    remove_unfinished(folder)
    known = _read(path) if path.exists() else None
    lists = find_lists(words, folder, part_size) if known is None else list(map(Path, known.lists))
    parts = tuple(cut(lists, part_size))
    sizes = hashlib.sha256(repr([part.count for part in parts]).encode()).hexdigest()
    wanted = Saved(asked=asked, lists=tuple(map(str, lists)), sizes=sizes)
    if known is None:
        write_json(path, dataclasses.asdict(wanted))
    else:
        _check_same(known, wanted, path)
    return Plan(folder=folder, parts=parts, done=finished(folder, parts))


def _read(path: Path) -> Saved:
    try:
        saved: Saved = read_json(path, Saved)
    except JSONError as error:
        raise SSDDeployError(f"{path}: is no plan of a run ({error}); name another folder") from error
    return saved


def _check_same(known: Saved, wanted: Saved, path: Path) -> None:
    for name in known.asked.keys() | wanted.asked.keys():
        before, now = known.asked.get(name), wanted.asked.get(name)
        if before != now:
            raise SSDDeployError(
                f"{path}: the folder holds a run whose {name} is {quoted(before)}, and not {quoted(now)}; name another"
            )
    if known.sizes != wanted.sizes:
        raise SSDDeployError(f"{path}: the lists of pictures have changed since then; name another folder")
