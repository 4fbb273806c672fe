"""The part of a check that takes no time, for a training that is about to start: annotations only, no image."""

from collections.abc import Sequence

from ssd_train.data_check.anchors import advice, covers
from ssd_train.data_check.objects import count_objects, find_lacking_classes, objects_of
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.findings import Findings
from ssd_train.evaluation.evaluate import has_objects
from ssd_train.networks.config import NetworkConfig


def training_warnings(samples: Sequence[Sample], validation: Dataset, config: NetworkConfig) -> tuple[str, ...]:
    """Say what of the data spoils a training, a sentence each.

    Args:
        samples: training images with the boxes that are trained on, in image pixels.
        validation: what the training is scored on.
        config: the network's row with its classes.
    """
    findings = Findings()
    num_classes = len(config.class_names)
    counts = {"train": count_objects(samples, num_classes)}
    if has_objects(validation.samples):
        counts["val"] = count_objects(validation.samples, num_classes)
    find_lacking_classes(counts, config.class_names, findings)
    sentence = advice(covers(objects_of(samples), config), config.class_names)
    # Classes without any object are the readers' to tell.
    return (*findings.sentences(without=("class-without-objects",)), *([sentence] if sentence else []))
