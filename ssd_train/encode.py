"""RGB pixels -> the bytes of a picture file."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import ImageError


def imencode(image: NDArray[np.uint8], suffix: str, parameters: Sequence[int] = ()) -> bytes | None:
    """Encode an (H, W, 3) RGB picture; None where the format cannot hold it, or OpenCV's own error."""
    # Not `image[:, :, ::-1]`: OpenCV copies such a view a pixel at a time, and crashes where there is no memory.
    ok, data = cv2.imencode(suffix, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), parameters)
    return data.tobytes() if ok else None


def encoded(image: NDArray[np.uint8], suffix: str, parameters: Sequence[int] = ()) -> bytes:
    """Return an (H, W, 3) RGB picture in the format of a file's suffix, such as `.jpg`.

    Args:
        parameters: OpenCV's, such as `(cv2.IMWRITE_JPEG_QUALITY, 90)`.

    Raises:
        ImageError: the format cannot hold such a picture, or there is no memory for it.
    """
    try:
        data = imencode(image, suffix, parameters)
    except (cv2.error, MemoryError) as error:
        raise ImageError(f"a picture of {_size(image)} pixels cannot be written as {suffix} ({error})") from error
    if data is None:
        raise ImageError(f"a picture of {_size(image)} pixels cannot be written as {suffix}; choose another format")
    return data


def _size(image: NDArray[np.uint8]) -> str:
    return "x".join(map(str, image.shape[1::-1]))
