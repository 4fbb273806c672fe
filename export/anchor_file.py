"""Anchors that somebody else's network was trained with, from a file of theirs."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import ModelError
from ssd_train.input_files import decoded, open_input
from ssd_train.json_input import JSONError, read_json

# Past any network.
MOST_BYTES = 1 << 26

EXPECTED = "expected A rows of four numbers in .npy, .json or .csv"


def read_anchors(path: Path) -> NDArray[np.float64]:
    """Return the (A, 4) numbers of a file.

    Raises:
        ModelError: it cannot be read, or has something else.
    """
    try:
        values = _READERS.get(path.suffix.lower(), _read_text)(path)
    except (OSError, ValueError, EOFError, JSONError, MemoryError) as error:
        raise ModelError(f"{path}: the anchors cannot be read ({error}); {EXPECTED}", arguments=("anchors",)) from error
    if values.ndim == 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all():
        raise ModelError(
            f"{path}: has {values.dtype} of shape {values.shape}; {EXPECTED}, all finite", arguments=("anchors",)
        )
    return values


def _read_npy(path: Path) -> NDArray[np.float64]:
    _check_size(path)
    return np.asarray(np.load(path, allow_pickle=False), np.float64)


def _read_json(path: Path) -> NDArray[np.float64]:
    rows: Any = read_json(path, list[list[float]], most_bytes=MOST_BYTES)
    return np.asarray(rows, np.float64)


def _read_text(path: Path) -> NDArray[np.float64]:
    _check_size(path)
    with open_input(path) as file:
        lines = decoded(file, path).replace(",", " ").split("\n")
    return np.asarray([[float(value) for value in line.split()] for line in lines if line.strip()], np.float64)


def _check_size(path: Path) -> None:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes, of at most {MOST_BYTES:,}")


_READERS = {".npy": _read_npy, ".json": _read_json}
