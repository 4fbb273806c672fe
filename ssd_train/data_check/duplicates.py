"""Pictures that are in a data set more than once: the same bytes, or the same to look at.

A difference hash finds candidates. It says little of flat pictures, so thumbnails decide.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ssd_train.data_check.images import ImageFacts

# Bits that two hashes may differ in. Of pictures with flat parts a JPEG of quality 70 turns up to 9 bits and mostly 1.
MAX_HASH_DISTANCE = 7

# Two hashes of 64 bits that differ in 7 agree in at least one byte of 8.
BANDS = 8

# Grey levels between the thumbnails, at most. Saved again as JPEG of quality 30, or at half the size, pictures of COCO
# and blood cells keep within 7; different ones of one microscope slide are 11 apart and more.
MAX_THUMBNAIL_DIFFERENCE = 8

# Thumbnails that vary less (standard deviation, grey levels) look alike whatever is in the picture.
LEAST_CONTRAST = 4.0


def find_duplicates(facts: Sequence[ImageFacts]) -> tuple[tuple[int, ...], ...]:
    """Return groups of two or more pictures that are one, as indices in ascending order.

    Pictures of little contrast are compared by their bytes alone, those that could not be read not at all.
    """
    groups = np.arange(len(facts))
    by_digest: dict[bytes, int] = {}
    for index, fact in enumerate(facts):
        if fact.thumbnail is not None:
            groups[index] = by_digest.setdefault(fact.digest, index)
    _join_look_alikes(facts, groups)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, group in enumerate(groups.tolist()):
        members[group].append(index)
    return tuple(tuple(group) for group in members.values() if len(group) > 1)


def _join_look_alikes(facts: Sequence[ImageFacts], groups: NDArray[np.int64]) -> None:
    """Give pictures that look the same one number in `groups`."""
    # One picture stands for all of the same bytes.
    shown = {index: facts[index].thumbnail for index in np.unique(groups).tolist()}
    thumbnails = {
        index: thumbnail.astype(np.int16).ravel()
        for index, thumbnail in shown.items()
        if thumbnail is not None and thumbnail.std() >= LEAST_CONTRAST
    }
    if not thumbnails:
        return
    indices, pixels = np.array(list(thumbnails)), np.stack(list(thumbnails.values()))
    hashes = np.array([facts[index].difference_hash for index in thumbnails], np.uint64)
    for bucket in _buckets(hashes):
        for place, first in enumerate(bucket[:-1]):
            others = bucket[place + 1 :]
            # What is known to be the same is not compared again: a film of one scene would take forever.
            others = others[groups[indices[others]] != groups[indices[first]]]
            others = others[np.bitwise_count(hashes[others] ^ hashes[first]) <= MAX_HASH_DISTANCE]
            apart = abs(pixels[others] - pixels[first]).max(axis=1, initial=0)
            for other in others[apart <= MAX_THUMBNAIL_DIFFERENCE]:
                pair = groups[indices[first]], groups[indices[other]]
                groups[groups == max(pair)] = min(pair)


def _buckets(hashes: NDArray[np.uint64]) -> Iterable[NDArray[np.int64]]:
    """Yield the places of hashes that agree in one byte: every close pair is in at least one bucket."""
    for band in range(BANDS):
        keys = (hashes >> np.uint64(8 * band)) & np.uint64(0xFF)
        order = np.argsort(keys, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(keys[order])) + 1)
