"""What a network is trained on: a data set -> samples with GluonCV's training boxes."""

import dataclasses
from collections.abc import Sequence

from ssd_train.datasets.dataset import Sample
from ssd_train.datasets.layouts import DataSource
from ssd_train.errors import DatasetError


def load_training_samples(source: DataSource, class_names: Sequence[str]) -> tuple[list[Sample], tuple[str, ...]]:
    """Read the training split and give its images the boxes that GluonCV trains on.

    Difficult and crowd objects are objects like others. Images without any object are left out, as are
    objects that are marked to be ignored.

    Returns:
        The samples, whose boxes are in image pixels and as the layout's `training_boxes` has them, and sentences
        about what was left out.

    Raises:
        DatasetError: the folder cannot be used, or no image has an object.
    """
    dataset = source.layout.load(source.root, source.train_split, class_names, True)
    samples, left_out = [], 0
    for sample in dataset.samples:
        truth = source.layout.training_boxes(sample.ground_truth, sample.image_size)
        left_out += len(sample.ground_truth) - len(truth)
        if len(truth):
            samples.append(dataclasses.replace(sample, ground_truth=truth))
    if not samples:
        raise DatasetError(f"{dataset.name}: none of its {len(dataset.samples)} images has an object to learn")
    notes = list(dataset.notes)
    if left_out:
        notes.append(f"left out {left_out} objects in training, which break GluonCV's bounds rule")
    if len(samples) < len(dataset.samples):
        notes.append(f"left out {len(dataset.samples) - len(samples)} images without objects")
    return samples, tuple(notes)
