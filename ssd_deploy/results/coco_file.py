"""`coco.json`: a COCO data set of what was found, each annotation with its score.

pycocotools' `COCO(...)`, FiftyOne and CVAT open it as it is. Its list of annotations is a list of results, too, for
`COCO.loadRes` of a data set with the same image and category ids.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.growing import GrowingFile
from ssd_deploy.results.names import Names, picture_suffix
from ssd_deploy.sources.frame import Frame
from ssd_train.detection_formats import to_coco
from ssd_train.files import to_json


class CocoWriter(Writer):
    """One file for the run; annotations go to the disk as they come, and a line about each image stays until the end.

    Image ids count from 1 in order, category ids in the order of the detector's classes. An image's `file_name` is its
    path from the folder that all pictures share; a video's frame is called as its annotated picture would be.
    """

    def __init__(self, run: Run) -> None:
        self._class_names = run.spec.class_names
        self._root = _shared_folder([frame.path for frame in run.pictures if frame.path is not None])
        self._names = Names(run, run.out_dir, picture_suffix)
        self._file = GrowingFile(run.out_dir / "coco.json")
        self._images: list[str] = []
        self._annotations = 0

    def write(self, outcome: Outcome, prepared: Any) -> None:
        file = self._begun()
        frame, image_id = outcome.frame, len(self._images) + 1
        height, width = outcome.image.shape[:2]
        image = {
            "id": image_id,
            "file_name": self._file_name(frame),
            "height": height,
            "width": width,
        }
        if frame.source.kind != "pictures":
            image |= {"source": frame.source.name, "frame": frame.index, "time_s": frame.time_s}
        self._images.append(to_json(image, indent=None))
        for result in to_coco(outcome.detections, image_id):
            file.write(
                f"{',' if self._annotations else ''}\n{to_json(annotation(result, self._annotations + 1), indent=None)}"
            )
            self._annotations += 1

    def close(self, ending: Ending) -> Path | None:
        if not self._file.is_begun and not ending.is_complete:
            return None
        file = self._begun()
        images = ",\n".join(self._images)
        classes = to_json(categories(self._class_names), indent=None)
        file.write(f'\n],\n"images": [\n{images}\n],\n"categories": {classes}\n}}\n')
        self._file.finish()
        return self._file.path

    def _file_name(self, frame: Frame) -> str:
        if frame.path is None:
            return self._names.of_frame(frame).name
        path = Path(os.path.abspath(frame.path))
        return (path if self._root is None else path.relative_to(self._root)).as_posix()

    def _begun(self) -> TextIO:
        is_new = not self._file.is_begun
        file = self._file.file()
        if is_new:
            file.write('{\n"annotations": [')
        return file


def annotation(result: dict[str, Any], number: int) -> dict[str, Any]:
    """Return an entry of COCO's result format with what a data set has beside; `number` counts from 1, since COCOeval
    takes 0 for no match.
    """
    return result | {"id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}


def categories(class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return COCO's list of classes, ids from 1 in label order."""
    return [{"id": label + 1, "name": name} for label, name in enumerate(class_names)]


def _shared_folder(paths: Sequence[Path]) -> Path | None:
    """Return the folder that all files lie in; None where there is none, as on two drives of Windows."""
    try:
        return Path(os.path.commonpath([os.path.abspath(path.parent) for path in paths]))
    except ValueError:
        return None
