"""Pascal VOC's annotations: `Annotations/NAME.xml` for every picture."""

from ssd_deploy.results.base import FolderWriter, Outcome, Run
from ssd_deploy.results.names import Names, check_not_a_data_set, picture_suffix
from ssd_train.detection_formats import to_voc
from ssd_train.files import written_atomically


class VocWriter(FolderWriter):
    """An XML file a picture, without scores, for which VOC has no place."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.out_dir / "Annotations")
        check_not_a_data_set(run, self.folder)
        self._names = Names(run, self.folder, lambda _: ".xml")

    def prepare(self, outcome: Outcome) -> None:
        path, frame = self._names.of_frame(outcome.frame), outcome.frame
        filename = frame.path.name if frame.path is not None else f"{path.stem}{picture_suffix(frame)}"
        with written_atomically(path) as temporary:
            temporary.write_text(to_voc(outcome.detections, filename), encoding="utf-8")
