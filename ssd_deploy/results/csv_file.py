"""Detections as a table, which spreadsheets and pandas open."""

import csv
from pathlib import Path
from typing import Any

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.growing import GrowingFile
from ssd_train.escaped_text import escaped

COLUMNS = ("file", "frame", "time_s", "class", "score", "x1", "y1", "x2", "y2", "track_id")

# A cell that starts so is a formula to a spreadsheet, which runs it; a quote before it makes it text (OWASP, CSV
# injection).
_FORMULA_STARTS = ("=", "+", "-", "@")


class CsvWriter(Writer):
    """`detections.csv`: a row a detection, boxes in pixels of the picture; names as `escaped` writes them."""

    def __init__(self, run: Run) -> None:
        # The module csv writes line ends of its own, as RFC 4180 has them.
        self._file = GrowingFile(run.out_dir / "detections.csv", newline="")

    def write(self, outcome: Outcome, prepared: Any) -> None:
        rows = csv.writer(self._begun())
        frame, found = outcome.frame, outcome.detections
        is_video = frame.source.kind != "pictures"
        start = [
            _text(str(frame.path or (frame.source.name if is_video else frame.name))),
            frame.index if is_video else "",
            "" if frame.time_s is None else f"{frame.time_s:.6f}",
        ]
        ids = [""] * len(found) if found.track_ids is None else [i if i >= 0 else "" for i in found.track_ids.tolist()]
        for box, score, label, track_id in zip(found.boxes, found.scores, found.labels.tolist(), ids, strict=True):
            # As float32, whose shortest text that reads back the same has no digits of nothing.
            rows.writerow([*start, _text(found.class_names[label]), str(score), *map(str, box), track_id])

    def close(self, ending: Ending) -> Path | None:
        if not self._file.is_begun and not ending.is_complete:
            return None
        self._begun()
        self._file.finish()
        return self._file.path

    def _begun(self) -> Any:
        is_new = not self._file.is_begun
        file = self._file.file()
        if is_new:
            csv.writer(file).writerow(COLUMNS)
        return file


def _text(value: str) -> str:
    value = escaped(value)
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value
