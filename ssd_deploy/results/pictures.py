"""Annotated pictures."""

from pathlib import Path

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.names import Names, picture_suffix
from ssd_deploy.sources.frame import Frame
from ssd_train.draw import write_picture


class PictureWriter(Writer):
    """A picture a frame, under the name of its image; a video's under the video's name and the frame's number."""

    def __init__(self, run: Run) -> None:
        self._folder = run.out_dir
        self._names = Names(run, run.out_dir, picture_suffix)
        self._is_written = False

    def prepare(self, outcome: Outcome) -> None:
        write_picture(self._names.of_frame(outcome.frame), outcome.drawn())

    def write(self, outcome: Outcome, prepared: None) -> None:
        self._is_written = True

    def close(self, ending: Ending) -> Path | None:
        return self._folder if self._is_written else None

    def path_of_picture(self, frame: Frame) -> Path:
        return self._names.of_frame(frame)
