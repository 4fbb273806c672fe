"""What a reader of annotations gives, before any rule: images and objects as the files have them.

Readers differ in where things stand in files. What is done with objects is the same for all, see `assemble`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

# As pixels: what tools write for shares, give or take a rounding.
_LEAST_SHARE, _MOST_SHARE = -0.1, 1.1


class AnnotatedObject(NamedTuple):
    """One object; a tuple, since a data set has a million of them.

    Attributes:
        class_name: as written, without spaces around it.
        box: xyxy in image pixels, continuous from 0 at the top-left edge; it may reach outside, or have no area.
        is_difficult: Pascal VOC's flag.
        is_crowd: COCO's flag.
        is_ignored: marked not to be trained on.
        area: in square pixels as the file has it; None where it is the box's.
        is_share: all four numbers as written could be shares of the image's sides.
    """

    class_name: str
    box: tuple[float, float, float, float]
    is_difficult: bool = False
    is_crowd: bool = False
    is_ignored: bool = False
    area: float | None = None
    is_share: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnnotatedImage:
    """One image.

    Attributes:
        image_id: the data set's own name for it.
        path: the image file.
        image_size: (height, width) in pixels.
        objects: in the order of the file.
        place: what notes call it, such as the name of its annotation file.
    """

    image_id: int | str
    path: Path
    image_size: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]
    place: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotations:
    """One split.

    Attributes:
        images: in the order they are evaluated; several may be the same one.
        categories: classes that the data set declares -> its own id of each; None where it declares none, and its
            classes are those of the objects.
        is_annotated: whether it says what is in the images; a test set may not.
    """

    images: tuple[AnnotatedImage, ...]
    categories: Mapping[str, int | str] | None = None
    is_annotated: bool = True


def could_be_shares(*numbers: float) -> bool:
    """Whether an object's four numbers could be shares of its image's sides instead of pixels."""
    return min(numbers) >= _LEAST_SHARE and max(numbers) <= _MOST_SHARE
