"""`metrics.jsonl` read back: lines as a training writes them, and nothing else that may stand in it. No torch."""

import functools
import logging
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from ssd_train.errors import SSDDeployError
from ssd_train.json_input import JSONError, convert, parse_json

METRICS_NAME = "metrics.jsonl"

# No training comes near these; what is drawn or counted on from larger ones overflows.
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)] | None

_log = logging.getLogger(__name__)


class _OfStep(TypedDict):
    step: _Count


class _OfEpoch(_OfStep, total=False):
    epoch: _Count
    cls_loss: _Number
    box_loss: _Number
    lr: _Number
    scores: dict[str, _Number]


# What is read again of a line of a kind, where it is there; all have a step at least.
_KINDS: dict[Any, Any] = {"epoch": _OfEpoch, "validation": _OfEpoch}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, none where there is no file; whatever is no line of a training's is left out.

    A process that was killed may leave the last one half-written, and a file may have been edited.

    Raises:
        SSDDeployError: the file cannot be read.
    """
    if not path.is_file():
        return []
    lines, foreign = [], 0
    try:
        with path.open("rb") as file:
            for text in filter(None, map(bytes.strip, file)):
                try:
                    line = parse_json(text, dict[str, Any])
                    kind = line.get("kind")
                    convert(line, _KINDS.get(kind, _OfStep) if isinstance(kind, str) else _OfStep)
                    lines.append(line)
                except JSONError:
                    foreign += 1
    except OSError as error:
        raise SSDDeployError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if foreign:
        _warn_of_foreign(path, foreign)
    return lines


@functools.cache  # a training reads it after every validation
def _warn_of_foreign(path: Path, count: int) -> None:
    _log.warning("%s: left out %d lines that are none of a training's", path, count)
