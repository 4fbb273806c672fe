"""What a run in parts is, kept in its folder, so that a later one goes on with it and no other does."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssd_deploy.parts.listing import Part, cut, find_lists
from ssd_deploy.parts.results import PartResult, finished
from ssd_train.errors import SSDDeployError
from ssd_train.files import remove_unfinished, write_json
from ssd_train.json_input import JSONError, quoted, read_json

PLAN_NAME = "plan.json"


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
    def missing(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.index not in self.done)


def plan(folder: Path, words: Sequence[str], part_size: int, settings: Mapping[str, Any]) -> Plan:
    """Begin a run, or go on with the one that the folder holds.

    Pictures that came into a folder since it was begun belong to another run.

    Args:
        folder: made if missing.
        words, part_size: see `find_lists`.
        settings: all else that the results depend on, as JSON has it; compared with those of an earlier run.

    Raises:
        SSDDeployError: the folder holds another run, or cannot be written.
        ImageError: see `find_lists`.
    """
    path = folder / PLAN_NAME
    asked = {"sources": list(words), "part_size": part_size, **settings}
    remove_unfinished(folder)
    if path.exists():
        lists = _lists_of(path, asked)
    else:
        lists = find_lists(words, folder, part_size)
    parts = tuple(cut(lists, part_size))
    fingerprint = hashlib.sha256(repr([(part.count, part.group) for part in parts]).encode()).hexdigest()
    known = {**asked, "lists": list(map(str, lists)), "parts": fingerprint}
    if path.exists():
        if read_json(path).get("parts") != fingerprint:
            raise SSDDeployError(f"{path}: its lists of pictures have changed since; name another folder")
    else:
        write_json(path, known)
    return Plan(folder=folder, parts=parts, done=finished(folder, parts))


def _lists_of(path: Path, asked: Mapping[str, Any]) -> list[Path]:
    """Return the lists of an earlier run of the same settings."""
    try:
        known = read_json(path, dict[str, Any])
        lists = [Path(str(name)) for name in known["lists"]]
    except (JSONError, KeyError, TypeError) as error:
        raise SSDDeployError(f"{path}: is no plan of a run ({error}); name another folder") from error
    for name, value in asked.items():
        if known.get(name) != value:
            raise SSDDeployError(
                f"{path}: the folder holds a run whose {name} is {quoted(known.get(name))} and not {quoted(value)}; "
                "name another folder"
            )
    return lists
