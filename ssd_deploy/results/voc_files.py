"""Pascal VOC's annotations: `Annotations/NAME.xml` for every picture."""

from pathlib import Path
from typing import Any

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.names import Names, check_not_a_data_set, picture_suffix
from ssd_train.detection_formats import to_voc
from ssd_train.files import written_atomically


class VocWriter(Writer):
    """An XML file a picture, without scores, for which VOC has no place."""

    def __init__(self, run: Run) -> None:
        self._folder = run.out_dir / "Annotations"
        check_not_a_data_set(run, self._folder)
        self._names = Names(run, self._folder, lambda _: ".xml")
        self._is_written = False

    def prepare(self, outcome: Outcome) -> None:
        path, frame = self._names.of_frame(outcome.frame), outcome.frame
        filename = frame.path.name if frame.path is not None else f"{path.stem}{picture_suffix(frame)}"
        with written_atomically(path) as temporary:
            temporary.write_text(to_voc(outcome.detections, filename), encoding="utf-8")

    def write(self, outcome: Outcome, prepared: Any) -> None:
        self._is_written = True

    def close(self, ending: Ending) -> Path | None:
        return self._folder if self._is_written else None
