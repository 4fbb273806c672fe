"""Stages that are kept: an interrupted run goes on where it was.

Each stage leaves a JSON file with what it found, a hash of all that decided it, and the hashes of the files that it
wrote. A stage whose hash is the same and whose files are whole is not carried out again. Other settings change the
hashes of the stages that they are about, which are carried out anew.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import ssd_deploy
from ssd_train.environment import describe_environment
from ssd_train.files import sha256_of_file, to_json, write_json
from ssd_train.json_input import MOST_BYTES_OF_ANNOTATIONS, JSONError, read_json

log = logging.getLogger(__name__)

# Folder of what is kept, within that of the results.
KEPT_NAME = ".ship"


class _Kept(TypedDict):
    """What a stage leaves; `files` are paths below the folder of the results."""

    key: str
    values: dict[str, Any]
    files: dict[str, str]


# What a stage found, as plain values, and the files that it wrote.
Work = Callable[[], tuple[dict[str, Any], Sequence[Path]]]


class Stages:
    """Carries stages out, or takes what they found before.

    Args:
        folder: of the results.
        total: how many stages there will be, for people.

    Attributes:
        files: every file of the results that a stage of this run stands for.
    """

    def __init__(self, folder: Path, total: int) -> None:
        self.folder = folder
        self.files: dict[Path, str] = {}
        self._total = total
        self._number = 0
        self._start = time.perf_counter()
        # Another release of a package may compute something else.
        self._versions = describe_environment().packages | {"ssd-deploy": ssd_deploy.__version__}

    def run(self, name: str, inputs: Any, work: Work) -> dict[str, Any]:
        """Carry a stage out unless it is whole, and return what it found.

        Args:
            name: of its JSON file too, with other letters than a file's name may have replaced.
            inputs: plain values, all that decides what it finds.
            work: does it; raises what it likes, and then nothing is kept.
        """
        path = self.folder / KEPT_NAME / f"{name.replace('/', '-').replace(' ', '-')}.json"
        key = hashlib.sha256(to_json([inputs, self._versions], indent=None).encode()).hexdigest()
        kept = self._kept(path, key)
        self.begin(name, "" if kept is None else ", as before")
        if kept is None:
            values, files = work()
            hashes = {name_in(file, self.folder): sha256_of_file(file) for file in files}
            kept = {"key": key, "values": values, "files": hashes}
            write_json(path, kept)
        self.files |= {self.folder / name: sha256 for name, sha256 in kept["files"].items()}
        return kept["values"]

    def begin(self, name: str, how: str = "") -> None:
        """Tell people of a stage, with its number and the time until now."""
        self._number += 1
        elapsed = time.perf_counter() - self._start
        log.info("stage %d of %d, %.0f s: %s%s", self._number, self._total, elapsed, name, how)

    def expect(self, remaining: int) -> None:
        """Note how many stages are still to come, where that was not known from the start."""
        self._total = self._number + remaining

    def remove_older(self) -> None:
        """Remove the files of earlier runs that no stage of this one stands for; anything else stays."""
        for path in (self.folder / KEPT_NAME).glob("*.json"):
            kept = self._read(path)
            for name in () if kept is None else kept["files"]:
                file = self.folder / name
                if (
                    file not in self.files
                    and file.is_file()
                    and not os.path.isabs(name)
                    and ".." not in Path(name).parts
                ):
                    file.unlink()
            if kept is None or any(self.folder / name not in self.files for name in kept["files"]):
                path.unlink()

    def _kept(self, path: Path, key: str) -> _Kept | None:
        kept = self._read(path)
        if kept is None or kept["key"] != key:
            return None
        for name, sha256 in kept["files"].items():
            file = self.folder / name
            if not file.is_file() or sha256_of_file(file) != sha256:
                return None
        return kept

    def _read(self, path: Path) -> _Kept | None:
        if not path.is_file():
            return None
        try:
            kept: _Kept = read_json(path, _Kept, most_bytes=MOST_BYTES_OF_ANNOTATIONS)
        except JSONError:
            return None
        return kept


def named_from(out: Path, text: str) -> str:
    """Return a sentence that names files as the certificate does, and not by where the folder lies on this machine."""
    return text.replace(f"{out}/", "")


def name_in(path: Path, out: Path) -> str:
    """Return what a certificate calls a file of its folder."""
    return path.relative_to(out).as_posix()
