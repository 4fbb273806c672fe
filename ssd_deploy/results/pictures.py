"""Annotated pictures."""

from pathlib import Path

from ssd_deploy.results.base import FolderWriter, Outcome, Run
from ssd_deploy.results.names import Names, picture_suffix
from ssd_deploy.sources.frame import Frame
from ssd_train.draw import write_picture


class PictureWriter(FolderWriter):
    """A picture a frame, under the name of its image; a video's under the video's name and the frame's number."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.out_dir)
        self._names = Names(run, self.folder, picture_suffix)

    def prepare(self, outcome: Outcome) -> None:
        write_picture(self._names.of_frame(outcome.frame), outcome.drawn())

    def path_of_picture(self, frame: Frame) -> Path:
        return self._names.of_frame(frame)
