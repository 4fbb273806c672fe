"""The worst pictures of each kind of mistake: truth beside detections, the mistakes marked."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
from ssd_train.metrics.mistakes import Mistake
from ssd_train.report.beside import Side, beside
from ssd_train.report.evaluation import Evaluation


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class WorstPicture:
    """One image with mistakes of a kind.

    Attributes:
        kind: key of `KINDS`.
        sample: the image.
        picture: (H, W, 3) RGB uint8, truth on the left, detections on the right.
        mistakes: those of that kind in it.
    """

    kind: str
    sample: Sample
    picture: NDArray[np.uint8]
    mistakes: tuple[Mistake, ...]


def worst_pictures(evaluation: Evaluation, kind: str, most: int) -> Iterator[WorstPicture]:
    """Yield up to `most` images with mistakes of a kind, worst first: each mistake counts as much as its score.

    A missed object, which has none, counts 1. Of equal images the earlier comes first.

    Raises:
        ImageError, DatasetError: an image cannot be read any more.
    """
    of_images = [tuple(each for each in mistakes if each.kind == kind) for mistakes in evaluation.mistakes]
    weights = [sum(1.0 if each.score is None else each.score for each in mistakes) for mistakes in of_images]
    order = sorted((index for index, own in enumerate(of_images) if own), key=lambda index: -weights[index])
    for index in order[:most]:
        sample, own = evaluation.dataset.samples[index], of_images[index]
        picture = side_by_side(sample, evaluation.kept[index], own, evaluation.dataset.class_names)
        yield WorstPicture(kind=kind, sample=sample, picture=picture, mistakes=own)


def side_by_side(
    sample: Sample, found: Detections, mistakes: Sequence[Mistake], class_names: tuple[str, ...]
) -> NDArray[np.uint8]:
    """Draw an image's truth on the left and its detections on the right, with thick red frames around what is wrong.

    Args:
        sample: the image and its objects.
        found: the detections that count, in pixels of the image.
        mistakes: those to mark: the detections, and the objects that they are about.
        class_names: label order.
    """
    truth = sample.ground_truth
    objects = Detections(truth.boxes.astype(np.float32), np.ones(len(truth), np.float32), truth.labels)
    wrong = np.array(sorted({each.detection for each in mistakes if each.detection is not None}), np.int64)
    about = np.array(sorted({each.object for each in mistakes if each.object is not None}), np.int64)
    return beside(
        sample.load_image(),
        Side(detections=objects, marked=about, with_scores=False),
        Side(detections=found, marked=wrong),
        class_names,
    )
