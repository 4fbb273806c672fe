"""How many pixels a picture may have: a file of a hundred kilobytes can ask for gigabytes of them."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

from ssd_train.cpus import Computing
from ssd_train.errors import ImageError, SSDDeployError
from ssd_train.options import option

# Three times the largest of today's cameras for the price of some hundred megabytes.
DEFAULT_MAX_PIXELS = 100_000_000
# OpenCV's own limit (`OPENCV_IO_MAX_IMAGE_PIXELS`), beyond which it decodes nothing.
MOST_PIXELS = 2**30
MAX_PIXELS_HELP = "Refuse a picture or a video of more pixels, before it is decoded."

# In the environment, so that the processes that load a training's images know it too.
_VARIABLE = "SSD_DEPLOY_MAX_PIXELS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingPictures(Computing):
    """What every command that reads pictures can be told."""

    max_pixels: int = option(DEFAULT_MAX_PIXELS, MAX_PIXELS_HELP, least=1, most=MOST_PIXELS)


def max_pixels(asked: int | None = None) -> int:
    """Return the pixels that a picture may have: what was asked for, or else what holds for this process.

    Raises:
        ImageError: that is no whole number from 1 to `MOST_PIXELS`.
    """
    value = asked if asked is not None else os.environ.get(_VARIABLE, DEFAULT_MAX_PIXELS)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PIXELS:
        raise ImageError(f"max_pixels {value!r}: expected 1 to {MOST_PIXELS}", arguments=("max_pixels",))
    return value


@contextlib.contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Let pictures have so many pixels within the block, in this process and in those that it starts.

    Raises:
        ImageError: as `max_pixels`.
    """
    before, os.environ[_VARIABLE] = os.environ.get(_VARIABLE), str(max_pixels(pixels))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


def check_pixels(
    name: object, size: tuple[int, int], limit: int | None = None, error: type[SSDDeployError] = ImageError
) -> None:
    """Raise `error` for a picture without pixels, or with more than are allowed.

    Args:
        name: what the sentence begins with: the file, for instance.
        size: (height, width), as the file or array has it, before anything is decoded or copied.
        limit: as for `max_pixels`.
    """
    height, width = size
    allowed = max_pixels(limit)
    if height < 1 or width < 1:
        raise error(f"{name}: says that it is {width}x{height} pixels large, which is no picture; replace it")
    if height * width > allowed:
        raise error(
            f"{name}: has {width}x{height} pixels, more than the limit of {allowed:,}; make it smaller, or raise "
            "max_pixels (--max-pixels) if you trust it",
            arguments=("max_pixels",),
        )
