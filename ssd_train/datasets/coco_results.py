"""Detections as a COCO result file, which pycocotools and the COCO server read."""

import json
from collections.abc import Sequence
from pathlib import Path

from ssd_train.datasets.dataset import Dataset
from ssd_train.detection_formats import to_coco
from ssd_train.detections import Detections
from ssd_train.files import written_atomically


def write_results(path: Path, dataset: Dataset, detections: Sequence[Detections]) -> None:
    """Write a JSON list of {image_id, category_id, bbox, score}, atomically.

    A bbox is [x, y, width, height] in image pixels, clipped to the image; ids are the data set's own.
    Detections of classes that it has no id for are left out.

    Args:
        path: the file to write; its folder is created.
        dataset: gives image ids, sizes and category ids.
        detections: one each a sample, in that order.

    Raises:
        SSDDeployError: the file cannot be written.
        ValueError: `detections` does not have one entry a sample.
    """
    results = []
    for sample, found in zip(dataset.samples, detections, strict=True):
        results += to_coco(found.clipped(sample.image_size), sample.image_id, dataset.category_ids)
    with written_atomically(path) as temporary:
        temporary.write_text(json.dumps(results, allow_nan=False), encoding="utf-8")
