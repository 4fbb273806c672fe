"""What was found, cut out: a picture a detection, in a folder a class."""

import math
from typing import Any

from ssd_deploy.results.base import FolderWriter, Outcome, Run
from ssd_deploy.results.names import Names, fitted, picture_suffix, safe_name
from ssd_train.draw import write_picture
from ssd_train.errors import ResultError


class CropWriter(FolderWriter):
    """`crops/CLASS/NAME_0.jpg`, numbered in the order of the detections, without anything drawn."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.out_dir / "crops")
        self._names = Names(run, self.folder, picture_suffix)
        self._folders = _class_folders(run.spec.class_names)

    def prepare(self, outcome: Outcome) -> None:
        path = self._names.of_frame(outcome.frame)
        problem = None
        rows = zip(outcome.detections.boxes.tolist(), outcome.detections.labels.tolist(), strict=True)
        for number, ((left, top, right, bottom), label) in enumerate(rows):
            # Whole pixels that the box touches.
            crop = outcome.image[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)]
            # One that lies outside the picture has none.
            if crop.size:
                crop_path = self.folder / self._folders[label] / fitted(path.stem, f"_{number}{path.suffix}")
                try:
                    write_picture(crop_path, crop)
                except ResultError as error:
                    problem = problem or error
        if problem is not None:
            raise problem

    def write(self, outcome: Outcome, prepared: Any) -> None:
        self.has_files |= len(outcome.detections) > 0


def _class_folders(class_names: tuple[str, ...]) -> list[str]:
    """Return a folder's name for each class, each its own, whatever the class is called."""
    folders: list[str] = []
    taken: set[str] = set()
    for name in class_names:
        folder, number = fitted(safe_name(name), ""), 2
        while folder.casefold() in taken:
            folder, number = fitted(safe_name(name), f"-{number}"), number + 1
        folders.append(folder)
        taken.add(folder.casefold())
    return folders
