"""A validation part for a data set that has none: images are drawn by a hash of their names."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ssd_train.datasets.annotations import AnnotatedImage

# Roboflow writes several pictures made of one, which differ in this part of the name. They stay together: a validation
# on another form of a training picture would say too much.
_VARIANT = re.compile(r"\.rf\.[0-9A-Za-z]{20,}")


def split_off(
    images: Sequence[AnnotatedImage], share: float, root: Path
) -> tuple[tuple[AnnotatedImage, ...], tuple[AnnotatedImage, ...]]:
    """Return the images to train on and those that are held out.

    An image's part follows from its name alone, so it is the same on every machine and stays when images are added.
    Of several images at least one is on either side: where the hash leaves a side empty, the one nearest to it goes
    there. An image that is named twice is trained on twice, and held out once.

    Args:
        images: of one split.
        share: about which part to hold out, above 0 and below 1.
        root: names count from this folder on.
    """
    names = [Path(os.path.relpath(image.path, root)).with_suffix("").as_posix() for image in images]
    keys = {name: _fraction(name) for name in names}
    held_out = {name for name, fraction in keys.items() if fraction < share}
    ordered = sorted(keys, key=lambda name: (keys[name], name))
    if len(ordered) > 1 and not held_out:
        held_out = {name for name in ordered if keys[name] == keys[ordered[0]]}
    elif len(ordered) > 1 and len(held_out) == len(keys):
        held_out = {name for name in ordered if keys[name] != keys[ordered[-1]]}
    pairs = list(zip(images, names, strict=True))
    return (
        tuple(image for image, name in pairs if name not in held_out),
        tuple({name: image for image, name in pairs if name in held_out}.values()),
    )


def _fraction(name: str) -> float:
    """Return a number from 0 to 1 that follows from a name."""
    plain = _VARIANT.sub("", unicodedata.normalize("NFC", name))
    return int.from_bytes(hashlib.sha256(plain.encode()).digest()[:8], "big") / 2**64
