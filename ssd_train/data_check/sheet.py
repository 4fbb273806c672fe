"""A sheet of sample pictures with their boxes: what the annotations say, for people to see."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
from ssd_train.draw import draw, write_picture
from ssd_train.errors import DatasetError, ImageError
from ssd_train.picture_grid import fit_width, picture_grid

MAX_PICTURES = 16


def write_sheet(path: Path, samples: Sequence[Sample], class_names: tuple[str, ...]) -> bool:
    """Write pictures that lie evenly over a list of samples; those that cannot be read are left out.

    Returns:
        Whether there was any picture to write.
    """
    pictures = []
    for index in np.unique(np.linspace(0, len(samples) - 1, min(MAX_PICTURES, len(samples))).round().astype(int)):
        truth = samples[index].ground_truth
        known = Detections(truth.boxes.astype(np.float32), np.ones(len(truth), np.float32), truth.labels)
        try:
            image = samples[index].load_image()
        except (ImageError, DatasetError):
            continue  # the report says so
        pictures.append(fit_width(draw(image, known, class_names, with_scores=False)))
    if pictures:
        write_picture(path, picture_grid(pictures))
    return bool(pictures)
