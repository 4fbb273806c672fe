"""Every image of a data set read once: what cannot be used, and what tells pictures apart."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample
from ssd_train.errors import DatasetError, ImageError

THUMBNAIL_SIDE = 16


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ImageFacts:
    """What one image file is.

    Attributes:
        error: the sentence of why it cannot be used: missing, empty, cut off, no image, another size than annotated.
        digest: SHA-256 of the file's bytes; empty where they cannot be read.
        difference_hash: 64 bits, see `difference_hash`.
        thumbnail: (16, 16, 3) uint8 RGB means; None where there is an error.
    """

    error: str | None
    digest: bytes = b""
    difference_hash: int = 0
    thumbnail: NDArray[np.uint8] | None = None


def read_images(
    samples: Sequence[Sample], *, workers: int, on_progress: Callable[[int, int], None] | None = None
) -> tuple[ImageFacts, ...]:
    """Read and decode every image in threads, as a training does, with the size that is annotated.

    Args:
        workers: threads.
        on_progress: called with the images read so far and those there are, in this thread.
    """
    facts = []
    with ThreadPoolExecutor(workers) as pool:
        for done, fact in enumerate(pool.map(read_image, samples), start=1):
            facts.append(fact)
            if on_progress is not None:
                on_progress(done, len(samples))
    return tuple(facts)


def read_image(sample: Sample) -> ImageFacts:
    """Read one image."""
    try:
        image = sample.load_image()
    except (ImageError, DatasetError) as error:
        return ImageFacts(error=str(error))
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return ImageFacts(
        error=None,
        digest=hashlib.sha256(sample.path.read_bytes()).digest(),
        difference_hash=difference_hash(image),
        thumbnail=np.asarray(cv2.resize(image, side, interpolation=cv2.INTER_AREA), np.uint8),
    )


def difference_hash(image: NDArray[np.uint8]) -> int:
    """Return dHash (Krawetz, "Kind of Like That", 2013): of 9 x 8 grey means, which are darker than their right one.

    Args:
        image: (H, W, 3) RGB.

    Returns:
        64 bits, row by row, the first in the highest place.
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes(), "big")
