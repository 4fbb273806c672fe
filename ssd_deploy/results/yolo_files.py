"""YOLO's labels: `labels/NAME.txt` for every picture, and `classes.txt`."""

from pathlib import Path
from typing import Any

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.names import Names, check_not_a_data_set
from ssd_train.datasets.yolo import NAMES_FILE
from ssd_train.detection_formats import to_yolo
from ssd_train.files import written_atomically


class YoloWriter(Writer):
    """A text file a picture, as annotations to train on: without scores, and empty where nothing was found."""

    def __init__(self, run: Run) -> None:
        self._out_dir, self._class_names = run.out_dir, run.spec.class_names
        self._folder = run.out_dir / "labels"
        check_not_a_data_set(run, self._folder)
        self._names = Names(run, self._folder, lambda _: ".txt")
        self._is_written = False

    def prepare(self, outcome: Outcome) -> None:
        with written_atomically(self._names.of_frame(outcome.frame)) as temporary:
            temporary.write_text(to_yolo(outcome.detections, with_scores=False), encoding="utf-8")

    def write(self, outcome: Outcome, prepared: Any) -> None:
        self._is_written = True

    def close(self, ending: Ending) -> Path | None:
        if not self._is_written:
            return None
        with written_atomically(self._out_dir / NAMES_FILE) as temporary:
            temporary.write_text("\n".join(self._class_names) + "\n", encoding="utf-8")
        return self._folder
