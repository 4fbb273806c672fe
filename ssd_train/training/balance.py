"""Images of rare classes more often: LVIS's repeat factors (Gupta et al. 2019, section 4.1), in epochs of one size."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample


def repeat_factors(samples: Sequence[Sample], num_classes: int) -> NDArray[np.float64]:
    """Return how often each image is to come, in relation to the others.

    A class that is in a share f of the images with objects has max(1, sqrt(t / f)), and an image the highest of its
    classes; one without objects has 1. The paper's t is 0.001 for LVIS's 1203 classes; here it is 1 / C, which is near
    that there, and the share that each class has of as many images where all are equally frequent.

    Returns:
        (samples,) float64, 1 or more.
    """
    present = [np.unique(sample.ground_truth.labels) for sample in samples]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *present]), minlength=num_classes)
    with_objects = sum(len(labels) > 0 for labels in present)
    # A class without images has no image to repeat.
    of_class = np.maximum(1, np.sqrt(with_objects / num_classes / np.maximum(counts, 1)))
    return np.array([of_class[labels].max(initial=1) for labels in present])


def balanced_order(
    rng: np.random.Generator, repeats: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw an epoch: as many images as there are, each in proportion to its repeat factor.

    An epoch keeps its size, so that epochs, steps and the learning rate's schedule mean what they mean without. By
    systematic sampling: an image that should come 1.3 times comes once or twice in every epoch, and 1.3 times on
    average.

    Args:
        repeats: (M,) positive.

    Returns:
        (M,) numbers of images in the order of the epoch, and (M,) which time each comes in it, from 0.
    """
    count = len(repeats)
    mixed = rng.permutation(count)
    ends = np.cumsum(repeats[mixed])
    ends *= count / ends[-1]
    # Not a rounding below it, beyond which the last position would find no image.
    ends[-1] = count
    order = rng.permutation(mixed[np.searchsorted(ends, rng.random() + np.arange(count), side="right")])
    by_image = np.argsort(order, kind="stable")
    copies = np.empty(count, np.int64)
    copies[by_image] = np.arange(count) - np.searchsorted(order[by_image], order[by_image])
    return order, copies


def describe_balance(repeats: NDArray[np.float64], samples: Sequence[Sample], class_names: Sequence[str]) -> str:
    """Return a sentence that counts what is repeated."""
    highest = int(repeats.argmax())
    if repeats[highest] == 1:
        return f"balance changes nothing: no class is in less than one of {len(class_names)} images"
    labels = samples[highest].ground_truth.labels
    counts = Counter(label for sample in samples for label in set(sample.ground_truth.labels.tolist()))
    images_of = {label: counts[label] for label in set(labels.tolist())}
    rarest = min(images_of, key=lambda label: (images_of[label], label))
    return (
        f"balance: {int((repeats > 1).sum())} of {len(samples)} images come more often than the others, those of "
        f"{class_names[rarest]}, which is in {images_of[rarest]}, {repeats[highest]:.1f} times as often"
    )
