"""Working thresholds beside a weight file, whose bytes must not change: its SHA-256 is what it is known by. No torch.

`best.safetensors` has `best.thresholds.json`, with the hash of the weights that the thresholds were found for: those
of a later training into the same folder get none of another's.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssd_train.files import sha256_of_file, write_json
from ssd_train.json_input import JSONError, convert, read_json
from ssd_train.spec import WorkingThresholds, quoted_names

_log = logging.getLogger(__name__)

AGAIN = "save them again with `ssd-deploy eval --save-thresholds`"


def thresholds_path(weights: Path) -> Path:
    """Return the place of a weight file's thresholds: `best.safetensors` has `best.thresholds.json`."""
    return weights.with_name(f"{weights.stem}.thresholds.json")


def write_thresholds(weights: Path, thresholds: WorkingThresholds) -> Path:
    """Write thresholds beside the weight file that they were found for; returns the new file.

    Raises:
        SSDDeployError: the folder cannot be written.
    """
    path = thresholds_path(weights)
    write_json(path, {"weights_sha256": sha256_of_file(weights), **dataclasses.asdict(thresholds)})
    return path


def read_thresholds(
    weights: Path, class_names: Sequence[str], weights_sha256: str | None = None
) -> WorkingThresholds | None:
    """Return the thresholds beside a weight file; None where there are none.

    Those of other weights or classes, and a file that cannot be read, are left out with a warning.

    Args:
        class_names: the detector's.
        weights_sha256: of the weight file where it is known.
    """
    path = thresholds_path(weights)
    if not path.is_file():
        return None
    try:
        values = read_json(path, dict[str, Any])
        made_for = values.pop("weights_sha256", None)
        thresholds: WorkingThresholds = convert(values, WorkingThresholds)
    except JSONError as error:
        return _left_out(path, f"it cannot be read ({error})")
    unknown = sorted(thresholds.per_class.keys() - set(class_names))
    if made_for != (weights_sha256 or sha256_of_file(weights)):
        return _left_out(path, f"it was saved for other weights than {weights.name}")
    if unknown:
        return _left_out(path, f"{quoted_names(unknown)} is no class of this detector")
    return thresholds


@functools.cache  # a detector is described, then loaded: one warning is enough
def _left_out(path: Path, reason: str) -> None:
    _log.warning("%s: is left out, since %s; %s", path, reason, AGAIN)
