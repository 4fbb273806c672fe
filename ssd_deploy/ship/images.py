"""The images of a certificate: a hash of what was scored, and the answers for a few that travel along."""

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.detections import Detections
from ssd_train.files import sha256_of_file, written_atomically

# Where copies of images travel along.
SAMPLES_FOLDER = "samples"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found in one image.

    Attributes:
        boxes: xyxy in pixels of the image.
        scores, labels: one each a box, the best first; labels index the class list.
    """

    boxes: list[list[float]]
    scores: list[float]
    labels: list[int]

    @classmethod
    def of(cls, found: Detections) -> "Answer":
        return cls(boxes=found.boxes.tolist(), scores=found.scores.tolist(), labels=found.labels.tolist())

    def detections(self) -> Detections:
        """Return the same, equal to the last bit."""
        boxes = np.array(self.boxes, np.float32).reshape(-1, 4)
        return Detections(boxes, np.array(self.scores, np.float32), np.array(self.labels, np.int64))


def data_sha256(dataset: Dataset) -> str:
    """Return a SHA-256 over every image's name, bytes and annotated objects, in the order in which they are scored."""
    digest = hashlib.sha256()
    for sample in dataset.samples:
        truth = sample.ground_truth
        digest.update(f"{sample.image_id}\0{sha256_of_file(sample.path)}\0".encode(errors="surrogateescape"))
        for values in (truth.boxes, truth.labels, truth.is_difficult, truth.is_crowd):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def choose_samples(found: Sequence[Detections], threshold: float, most: int) -> list[int]:
    """Return the first images in which something is found at a threshold, at most so many, by their numbers."""
    telling = [number for number, each in enumerate(found) if (each.scores >= np.float32(threshold)).any()]
    return telling[:most]


def copy_images(samples: Sequence[Sample], folder: Path) -> list[Path]:
    """Copy image files under names that say nothing, and return the copies."""
    copies = []
    for number, sample in enumerate(samples):
        copies.append(folder / f"{number:03d}{sample.path.suffix.lower()}")
        with written_atomically(copies[-1]) as temporary:
            shutil.copyfile(sample.path, temporary)
    return copies


def plain(answers: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return detections for JSON."""
    return [dataclasses.asdict(Answer.of(each)) for each in answers]
