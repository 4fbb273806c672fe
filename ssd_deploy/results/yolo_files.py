"""YOLO's labels: `labels/NAME.txt` for every picture, and `classes.txt`."""

from pathlib import Path

from ssd_deploy.results.base import Ending, FolderWriter, Outcome, Run
from ssd_deploy.results.names import Names, check_not_a_data_set
from ssd_train.datasets.yolo import NAMES_FILE
from ssd_train.detection_formats import to_yolo
from ssd_train.escaped_text import escaped
from ssd_train.files import written_atomically


class YoloWriter(FolderWriter):
    """A text file a picture, as annotations to train on: without scores, and empty where nothing was found."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.out_dir / "labels")
        self._out_dir, self._class_names = run.out_dir, run.spec.class_names
        check_not_a_data_set(run, self.folder)
        self._names = Names(run, self.folder, lambda _: ".txt")

    def prepare(self, outcome: Outcome) -> None:
        with written_atomically(self._names.of_frame(outcome.frame)) as temporary:
            temporary.write_text(to_yolo(outcome.detections, with_scores=False), encoding="utf-8")

    def close(self, ending: Ending) -> Path | None:
        if self.has_files:
            with written_atomically(self._out_dir / NAMES_FILE) as temporary:
                temporary.write_text("\n".join(map(escaped, self._class_names)) + "\n", encoding="utf-8")
        return super().close(ending)
