"""What `Detector.detect` is given, told apart: one image, several, or any number one after the other."""

import functools
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import ImageError
from ssd_train.image_files import find_images
from ssd_train.image_input import Color, OneImage, is_one_image, to_rgb


class Given(NamedTuple):
    """An image that is to be detected in.

    Attributes:
        name: what errors and the log call it, such as `images[3]`.
        load: returns it as (H, W, 3) RGB uint8, or raises ImageError.
    """

    name: str
    load: Callable[[], NDArray[np.uint8]]


def told_apart(images: Any, color: Color, max_pixels: int | None = None) -> Given | list[Given] | Iterator[Given]:
    """Return the one image, the list, or the images one by one that were given.

    A folder's path, a pattern and a stack, that is an array or tensor with a fourth dimension, are lists.

    Args:
        max_pixels: as for `image_input.to_rgb`.

    Raises:
        ImageError: it is nothing of the kind, or a folder or pattern without images.
    """
    if isinstance(images, str | os.PathLike):
        text = os.fspath(images)
        path = os.path.expanduser(text)
        if text and not os.path.isdir(path) and (os.path.exists(path) or not glob.has_magic(text)):
            return Given(text, functools.partial(to_rgb, images, color, max_pixels=max_pixels))
        images = find_images([text])
    if is_one_image(images):
        return Given("the image", functools.partial(to_rgb, images, color, max_pixels=max_pixels))
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise ImageError(
            f"images are a {type(images).__name__}; pass one image (an array, a path, a Pillow image, a PyTorch "
            "tensor), a list or a generator of them"
        )
    if isinstance(images, Sequence) or hasattr(images, "ndim"):
        return [_given(index, image, color, max_pixels) for index, image in enumerate(images)]
    return _one_by_one(images, color, max_pixels)


def _one_by_one(images: Iterable[OneImage], color: Color, max_pixels: int | None) -> Iterator[Given]:
    """Yield images as they come.

    Whoever gives them may use an array again for the next one, or close a file, so that pixels are taken at once. Files
    that are named are left to be read later.
    """
    for index, image in enumerate(images):
        if isinstance(image, str | os.PathLike):
            yield _given(index, image, color, max_pixels)
            continue
        # What is wrong with an image is raised when it is its turn.
        taken: Future[NDArray[np.uint8]] = Future()
        try:
            pixels = _load(index, image, color, max_pixels)
            taken.set_result(pixels if pixels.flags.owndata and pixels is not image else pixels.copy())
        except ImageError as error:
            taken.set_exception(error)
        yield Given(f"images[{index}]", taken.result)


def _given(index: int, image: OneImage, color: Color, max_pixels: int | None) -> Given:
    return Given(f"images[{index}]", functools.partial(_load, index, image, color, max_pixels))


def _load(index: int, image: OneImage, color: Color, max_pixels: int | None) -> NDArray[np.uint8]:
    try:
        return to_rgb(image, color, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"images[{index}]: {error}") from error
