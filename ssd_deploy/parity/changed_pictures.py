"""Images whose detections changed: the reference's on the left, the candidate's on the right, what changed marked."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.parity.pairs import ImageChanges
from ssd_train.boxes import iou
from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
from ssd_train.report.beside import Side, beside


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ChangedPicture:
    """One image with changes.

    Attributes:
        sample: the image.
        picture: (H, W, 3) RGB uint8, reference left, candidate right.
        texts: what became of each, a few words each, the highest score first.
    """

    sample: Sample
    picture: NDArray[np.uint8]
    texts: tuple[str, ...]


def changed_pictures(
    samples: Sequence[Sample],
    reference: Sequence[Detections],
    candidate: Sequence[Detections],
    changes: Sequence[ImageChanges],
    class_names: tuple[str, ...],
    most: int,
) -> Iterator[ChangedPicture]:
    """Yield up to `most` images, those with the most changes first; of equal ones the earlier.

    Args:
        samples: the images.
        reference, candidate: detections in each.
        changes: what became of them, see `find_changes`.
        class_names: label order.
        most: how many images.

    Raises:
        ImageError, DatasetError: an image cannot be read any more.
    """
    counts = [each.counts().changed for each in changes]
    order = sorted((index for index, count in enumerate(counts) if count), key=lambda index: -counts[index])
    for index in order[:most]:
        ours, theirs, found = reference[index], candidate[index], changes[index]
        pairs = np.concatenate([found.moved, found.relabelled])
        yield ChangedPicture(
            sample=samples[index],
            picture=beside(
                samples[index].load_image(),
                _side(ours, found.kept[:, 0], np.concatenate([pairs[:, 0], found.vanished])),
                _side(theirs, found.kept[:, 1], np.concatenate([pairs[:, 1], found.appeared])),
                class_names,
            ),
            texts=change_texts(ours, theirs, found, class_names),
        )


def change_texts(
    reference: Detections, candidate: Detections, changes: ImageChanges, class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Say what became of each detection that changed, the highest score first."""

    def of(side: Detections, index: int) -> str:
        return f"{class_names[side.labels[index]]} {side.scores[index]:.2f}"

    rows = [(reference.scores[index], f"{of(reference, index)} vanished") for index in changes.vanished.tolist()]
    rows += [(candidate.scores[index], f"{of(candidate, index)} appeared") for index in changes.appeared.tolist()]
    for ours, theirs in changes.moved.tolist():
        overlap = float(iou(reference.boxes[[ours]], candidate.boxes[[theirs]])[0, 0])
        rows.append((reference.scores[ours], f"{of(reference, ours)} moved (IoU {overlap:.2f})"))
    for ours, theirs in changes.relabelled.tolist():
        rows.append((reference.scores[ours], f"{of(reference, ours)} became {of(candidate, theirs)}"))
    return tuple(text for _, text in sorted(rows, key=lambda row: -row[0]))


def _side(detections: Detections, kept: NDArray[np.int64], changed: NDArray[np.int64]) -> Side:
    """Show those that count, in the order of their scores."""
    shown = np.union1d(kept, changed)
    return Side(detections=detections.select(shown), marked=np.searchsorted(shown, changed))
