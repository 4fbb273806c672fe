"""Readers with a fault each, for the harness to find, and one without."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import mutations
from cases import Kind, Seed

from ssd_train.errors import DatasetError

SEEDS = (Seed(files={"a.txt": b"0123456789" * 20}, target="a.txt"),)


def is_changed(path: Path) -> bool:
    return path.read_bytes() != SEEDS[0].files["a.txt"]


def sound(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        raise DatasetError(f"{path}: was changed; write it again")


def lets_an_error_through(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        {}[path]


def crashes(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        ctypes.string_at(0)


def hangs(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        time.sleep(60)


def takes_all_memory(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        bytearray(3 << 30)


def leaves_a_file(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        Path("left").touch()


def says_too_much(folder: Path, path: Path, out: Path) -> None:
    if is_changed(path):
        raise DatasetError("x" * 100_000)


def kind(read: Callable[[Path, Path, Path], None]) -> Kind:
    return Kind(name=read.__name__, seeds=lambda folder: SEEDS, read=read)


def in_json(folder: Path) -> tuple[Seed, ...]:
    return (Seed(files={"a.json": b'{"a": [1, 2, "three"]}'}, target="a.json"),)


KINDS = (
    Kind(name="in_json", seeds=in_json, read=sound, change=mutations.change_json),
    *map(kind, (sound, lets_an_error_through, crashes, takes_all_memory, leaves_a_file, says_too_much, hangs)),
)
