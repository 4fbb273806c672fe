"""What every kind of result is given, and what it has to do."""

import abc
import dataclasses
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.detections import Detections
from ssd_train.draw import draw
from ssd_train.errors import SSDDeployError
from ssd_train.spec import DetectorSpec
from ssd_train.thresholds import Keeping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is known before the first frame.

    Attributes:
        out_dir: folder of all results; made with the first of them.
        backend: the runner's name.
        spec: the detector.
        keeping: the thresholds that hold.
        sources: what there is to come, in order.
        pictures: every frame of the sources that are pictures, in order.
    """

    out_dir: Path
    backend: str
    spec: DetectorSpec
    keeping: Keeping
    sources: Sequence[SourceInfo]
    pictures: Sequence[Frame]

    def inputs(self) -> set[str]:
        """Return the files that no result may replace, behind all links."""
        named = [frame.path for frame in self.pictures if frame.path is not None]
        named += [Path(info.name) for info in self.sources if info.kind == "video"]
        return {os.path.realpath(path) for path in named}


class Outcome:
    """A frame and what was found in it.

    Args:
        frame: where it comes from; its `image` is not used.
        image: (H, W, 3) RGB uint8.
        detections: what is to be given out, clipped to the image; with class names and the image's size.
    """

    def __init__(self, frame: Frame, image: NDArray[np.uint8], detections: Detections) -> None:
        self.frame, self.image, self.detections = frame, image, detections
        self._lock = threading.Lock()
        self._drawn: NDArray[np.uint8] | None = None

    def drawn(self) -> NDArray[np.uint8]:
        """Return the picture with its detections in it, drawn once for all who ask, from whatever thread."""
        with self._lock:
            if self._drawn is None:
                self._drawn = draw(self.image, self.detections, self.detections.class_names)
            return self._drawn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended.

    Attributes:
        is_complete: whether every source came to its end.
        errors: a sentence for each picture, frame or stream that was lost.
    """

    is_complete: bool
    errors: Sequence[str]


class Writer(abc.ABC):
    """Writes one kind of result for a run.

    `prepare` runs in several threads at once, in any order; `write`, `end_source` and `close` run one after the other,
    in the order of the frames. A writer makes no file before its first frame. Both `prepare` and `write` raise
    ResultError where the result of this frame alone cannot be written; any other error ends the run.
    """

    def prepare(self, outcome: Outcome) -> Any:
        """Do what needs no order; the answer goes to `write`."""
        return None

    @abc.abstractmethod
    def write(self, outcome: Outcome, prepared: Any) -> None:
        """Take the next frame."""

    def end_source(self, info: SourceInfo, length: int | None) -> None:
        """Know that a source came to its end.

        Args:
            info: which.
            length: frames from its first to its last, lost ones included; None where that is not known.
        """
        return

    @abc.abstractmethod
    def close(self, ending: Ending) -> Path | None:
        """Finish; returns the file or folder of the results, None where there are none."""

    def path_of_picture(self, frame: Frame) -> Path | None:
        """Return a picture's annotated picture; None for a kind of result that is none."""
        return None

    def path_of_video(self, info: SourceInfo) -> Path | None:
        """Return a source's annotated video; None for a kind of result that is none."""
        return None


class FolderWriter(Writer):
    """A writer whose files are whole after `prepare`, a folder of them.

    Args:
        folder: where they lie.

    Raises:
        SSDDeployError: there is a file in the place of the folder.
    """

    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise SSDDeployError(f"{folder}: is a file; its name is that of a folder of results", arguments=("out",))
        self.folder = folder
        self.has_files = False

    def write(self, outcome: Outcome, prepared: Any) -> None:
        self.has_files = True

    def close(self, ending: Ending) -> Path | None:
        return self.folder if self.has_files else None
