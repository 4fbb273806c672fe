"""`detections.json`: everything that was found, and what found it."""

import dataclasses
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.growing import GrowingFile
from ssd_train.detection_formats import to_dict
from ssd_train.files import to_json
from ssd_train.thresholds import Keeping

RESULTS_NAME = "detections.json"


class JsonWriter(Writer):
    """One file for the run; each frame's entry goes to the disk as it comes, so that memory stays level."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file = GrowingFile(run.out_dir / RESULTS_NAME)
        self._separator = "\n"

    def write(self, outcome: Outcome, prepared: Any) -> None:
        file = self._begun()
        file.write(f"{self._separator}{_json(entry(outcome))}")
        self._separator = ",\n"

    def close(self, ending: Ending) -> Path | None:
        # A run that ended before its first picture leaves the results of an earlier one alone.
        if not self._file.is_begun and not ending.is_complete:
            return None
        file = self._begun()
        file.write(f'\n],\n"errors": {_json(list(ending.errors))},\n"is_complete": {_json(ending.is_complete)}\n}}\n')
        self._file.finish()
        return self._file.path

    def _begun(self) -> TextIO:
        is_new = not self._file.is_begun
        file = self._file.file()
        if is_new:
            head = {
                "backend": self._run.backend,
                "detector": dataclasses.asdict(self._run.spec),
                **_thresholds(self._run.keeping, self._run.spec.class_names),
            }
            file.write("{\n" + "".join(f"{_json(key)}: {_json(value)},\n" for key, value in head.items()))
            file.write('"images": [')
        return file


def entry(outcome: Outcome) -> dict[str, Any]:
    """Return a frame's entry: which it is, its size, and its detections, boxes xyxy in its pixels."""
    frame = outcome.frame
    is_video = frame.source.kind != "pictures"
    return {
        "file": str(frame.path or (frame.source.name if is_video else frame.name)),
        **({"index": frame.index, "time_s": frame.time_s} if is_video else {}),
        **to_dict(outcome.detections),
    }


def _thresholds(keeping: Keeping, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the lowest score that is given out, and those of the classes where they differ."""
    least = keeping.score_thresholds.tolist()
    return {
        "threshold": min(least),
        "class_thresholds": dict(zip(class_names, least, strict=True)) if np.ptp(least) > 0 else {},
        "max_detections": keeping.max_detections,
    }


def _json(value: Any) -> str:
    return to_json(value, indent=None)
