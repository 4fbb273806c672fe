"""How long do the metrics take: COCO AP beside pycocotools, with the same numbers, and VOC's mAP?

    python benchmarks/metrics.py [--json OUT.json] [--images 5000]

Generated objects and detections: 80 classes, 100 detections an image, about half of them near an object. Both get
the same arrays and build their own index; the twelve numbers are compared. VOC's mAP is that of the same detections.
"""

import argparse
import contextlib
import io
import time
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from _common.turns import recorded_environment
from ssd_train.datasets.dataset import GroundTruth
from ssd_train.detections import Detections
from ssd_train.files import write_json
from ssd_train.metrics.coco_ap import coco_average_precision
from ssd_train.metrics.voc_ap import voc_average_precision

CLASSES = 80
CLASS_NAMES = [str(label) for label in range(CLASSES)]
DETECTIONS = 100
SIDE = 640


def generate(images: int) -> tuple[list[GroundTruth], list[Detections]]:
    rng = np.random.default_rng(0)
    truths, found = [], []
    for _ in range(images):
        count = int(rng.integers(1, 15))
        corners = rng.uniform(0, SIDE - 210, (count, 2))
        sizes = rng.uniform(5, 200, (count, 2))
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        labels = rng.integers(0, CLASSES, count)
        truths.append(
            GroundTruth(
                boxes=boxes,
                labels=labels,
                is_difficult=np.zeros(count, np.bool_),
                is_crowd=rng.random(count) < 0.02,
                areas=sizes.prod(axis=1) * rng.uniform(0.5, 1, count),
            )
        )
        near = rng.integers(0, count, DETECTIONS)
        moved = boxes[near] + rng.normal(0, 10, (DETECTIONS, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guessed = rng.integers(0, CLASSES, DETECTIONS)
        # Rounded, so that there are equal scores.
        scores = np.sort(rng.random(DETECTIONS).round(3).astype(np.float32))[::-1]
        found.append(
            Detections(
                boxes=moved.astype(np.float32),
                scores=scores,
                labels=np.where(rng.random(DETECTIONS) < 0.5, labels[near], guessed),
            )
        )
    return truths, found


def with_pycocotools(truths: list[GroundTruth], found: list[Detections]) -> list[float]:
    """The twelve numbers by the reference."""

    def row(image: int, label: int, box: list[float], **more: float) -> dict[str, object]:
        x1, y1, x2, y2 = box
        bbox = [x1, y1, x2 - x1, y2 - y1]
        return {"image_id": image, "category_id": label, "bbox": bbox, "area": (x2 - x1) * (y2 - y1), **more}

    objects = [
        row(image, label, box, area=area, iscrowd=int(is_crowd))
        for image, truth in enumerate(truths)
        for label, box, area, is_crowd in zip(
            truth.labels.tolist(), truth.boxes.tolist(), truth.areas.tolist(), truth.is_crowd, strict=True
        )
    ]
    detections = [
        row(image, label, box, score=score, iscrowd=0)
        for image, of_image in enumerate(found)
        for label, box, score in zip(
            of_image.labels.tolist(), of_image.boxes.tolist(), of_image.scores.tolist(), strict=True
        )
    ]
    both = []
    for rows in (objects, detections):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(truths))],
            "categories": [{"id": label} for label in range(CLASSES)],
            "annotations": [{"id": number, **each} for number, each in enumerate(rows, start=1)],
        }
        coco.createIndex()
        both.append(coco)
    evaluated = COCOeval(*both, "bbox")
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    return list(evaluated.stats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    environment = recorded_environment()
    truths, found = generate(options.images)
    start = time.perf_counter()
    ours = coco_average_precision(truths, found, CLASS_NAMES)
    ours_seconds = time.perf_counter() - start
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        expected = with_pycocotools(truths, found)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    voc = voc_average_precision(truths, found, CLASS_NAMES)
    voc_seconds = time.perf_counter() - start
    result = {
        "images": options.images,
        "seconds": ours_seconds,
        "pycocotools_seconds": seconds,
        "ratio": seconds / ours_seconds,
        "largest_difference": float(np.abs(np.array(list(ours.numbers.values())) - expected).max()),
        "numbers": ours.numbers,
        "voc_seconds": voc_seconds,
        "voc07_map": voc.numbers["VOC07 mAP"],
    }
    print(", ".join(f"{key} {value}" for key, value in result.items()))
    if options.json is not None:
        write_json(options.json, {"environment": environment, **result})


if __name__ == "__main__":
    main()
