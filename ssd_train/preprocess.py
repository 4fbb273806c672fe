"""Image file -> RGB array -> network input. The only pre-processing in the project.

The arithmetic is GluonCV's `SSDDefaultValTransform`: OpenCV resize of the 8-bit image with the
interpolation chosen by how the size changes, then /255, mean and std in float32. Resizing with
another library moves most pixels by a few grey levels and costs up to a point of AP. Networks of other projects have
their own rule of `resize_rules`, and the same arithmetic behind it.
"""

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import ImageError, first_line
from ssd_train.input_files import NotRegularError, open_regular
from ssd_train.picture_header import (
    HEAD_BYTES,
    JPEG_END_OF_IMAGE,
    JPEG_START_OF_SCAN,
    is_picture,
    jpeg_segments,
    picture_size,
)
from ssd_train.pixel_limit import check_pixels
from ssd_train.resize_rules import RESIZE_RULES, Filter, ResizeRule
from ssd_train.spec import DetectorSpec

# What a detector takes: a batch, or one image of it, as `DetectorSpec.input` has them.
Images = NDArray[np.float32 | np.uint8]

REDUCED_DECODING = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

OPENCV_FILTERS: dict[Filter, int] = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}

_JPEG_START = b"\xff\xd8"
# Progressive JPEGs have about ten; each further one goes over all pixels again for a few bytes of file.
MOST_SCANS = 100
# OpenCV counts the bytes that it decodes in 31 bits.
MOST_FILE_BYTES = 2**31 - 1

# What OpenCV reads as pictures of 8 or 16 bits, the likeliest first; compared in lower case.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jpe", ".jp2", ".avif", ".gif", ".dib", ".pam", ".pbm",
    ".pgm", ".pnm", ".ppm", ".ras", ".sr", ".hdr", ".pic",
)  # fmt: skip


def load_image(
    path: Path, *, apply_orientation: bool = True, reduction: int = 1, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) RGB uint8.

    Grey images are repeated over the three channels, an alpha channel is dropped, 16-bit values
    keep their upper byte.

    Args:
        path: any format OpenCV reads.
        apply_orientation: turn the picture upright as its EXIF entry says; False gives the pixels
            in the order they are stored.
        reduction: 1, 2, 4 or 8; both sides come out divided by it, rounded up. A JPEG is then decoded at that
            size, which is much faster.
        max_pixels: what its header may say; None for the process's limit, see `pixel_limit`.

    Raises:
        ImageError: the file is missing, empty, cut off, not an image, or too large for the limit or the memory.
    """
    with errors_of(path):
        data = _read(path)
    return decode_image(data, path, apply_orientation=apply_orientation, reduction=reduction, max_pixels=max_pixels)


def decode_image(
    data: bytes,
    name: object,
    *,
    apply_orientation: bool = True,
    reduction: int = 1,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Return what is in an image file as `load_image` does; errors call it by `name`."""
    with errors_of(name):
        if _is_cut_off(data):
            raise ImageError(f"{name}: the image is cut off before its end; copy or download it again")
        size = picture_size(data)
        if size is None:
            raise ImageError(f"{name}: not an image that OpenCV can decode; convert it to PNG or JPEG")
        check_pixels(name, size, max_pixels)
        return _decoded(data, name, apply_orientation=apply_orientation, reduction=reduction)


@contextlib.contextmanager
def errors_of(name: object) -> Iterator[None]:
    """Within the block, make an ImageError of what OpenCV and a lack of memory raise about one picture."""
    try:
        yield
    except MemoryError as error:
        raise ImageError(
            f"{name}: there is too little memory for the picture; make it smaller, or free some"
        ) from error
    except cv2.error as error:
        raise ImageError(
            f"{name}: OpenCV cannot read it ({first_line(error.err)}); convert it to PNG or JPEG"
        ) from error


def _read(path: Path) -> bytes:
    """Return a picture's bytes, whole."""
    try:
        with open_regular(path) as file:
            # Looked at first, since it may be any large file.
            head = file.read(HEAD_BYTES)
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes <= MOST_FILE_BYTES and (not head or is_picture(head)):
                head += file.read()
    except NotRegularError as error:
        raise ImageError(f"{path}: not an image, but a pipe or a device; name a file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ImageError(f"{path}: cannot be read ({reason}); check the path") from error
    if not head:
        raise ImageError(f"{path}: the file is empty; replace it or leave it out")
    if size_bytes > MOST_FILE_BYTES:
        raise ImageError(f"{path}: has {size_bytes:,} bytes, more than OpenCV takes; convert it to JPEG")
    return head


def _decoded(data: bytes, path: object, *, apply_orientation: bool, reduction: int) -> NDArray[np.uint8]:
    is_jpeg = data.startswith(_JPEG_START)
    if is_jpeg and sum(marker == JPEG_START_OF_SCAN for marker, _ in jpeg_segments(data)) > MOST_SCANS:
        raise ImageError(f"{path}: a JPEG of more than {MOST_SCANS} scans, which takes for ever; save it again")
    flags = REDUCED_DECODING[reduction if is_jpeg else 1]
    if not apply_orientation:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        # Which it is OpenCV does not say.
        raise ImageError(
            f"{path}: not an image that OpenCV can decode, or there is too little memory; convert it to PNG or JPEG"
        )
    if reduction > 1 and not is_jpeg:
        # Whole blocks, as a JPEG has them, or the far pixels would lie a little nearer.
        rows, columns = (-side % reduction for side in image.shape[:2])
        image = cv2.copyMakeBorder(image, 0, rows, 0, columns, cv2.BORDER_REPLICATE)
        size = (image.shape[1] // reduction, image.shape[0] // reduction)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _is_cut_off(data: bytes) -> bool:
    """True where the container ends too early: OpenCV fills the rest with grey and says nothing."""
    if data.startswith(_JPEG_START):
        return all(marker != JPEG_END_OF_IMAGE for marker, _ in jpeg_segments(data))
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND\xaeB`\x82" not in data
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < 8 + struct.unpack("<I", data[4:8])[0]
    if data.startswith(b"BM") and len(data) >= 34:
        # Where the pixels start, size of the header, width, height, planes, bits a pixel, compression (0: none).
        start, header, width, height, _, bits, compression = struct.unpack("<IIiiHHI", data[10:34])
        row_bytes = (abs(width) * bits + 31) // 32 * 4
        # The shorter header of OS/2 has its numbers elsewhere; it is left to OpenCV.
        return header >= 40 and compression == 0 and len(data) < start + row_bytes * abs(height)
    return False


def checked_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an RGB image as OpenCV may be given it: C-contiguous, copied only where it is not.

    OpenCV copies what it cannot walk through, a mirrored view for one, without looking whether there is memory for it.

    Args:
        image: (H, W, 3) uint8, the order being RGB.

    Raises:
        ImageError: it is no such array, or empty.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"an image is a {type(image).__name__}; pass an RGB uint8 NumPy array of shape (H, W, 3)")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"an image has dtype {image.dtype} and shape {image.shape}; "
            "pass RGB uint8 of shape (H, W, 3) with at least one pixel"
        )
    return np.ascontiguousarray(image)


def interpolation_for(
    image_size: tuple[int, int], input_size: tuple[int, int], rule: ResizeRule = RESIZE_RULES["gluoncv"]
) -> int:
    """Return OpenCV's code of the filter that a rule has for (height, width) of a picture and of the input."""
    return OPENCV_FILTERS[rule.filter_for(image_size, input_size)]


def resize(image: NDArray[np.uint8], input_size: tuple[int, int], rule: ResizeRule) -> NDArray[np.uint8 | np.float32]:
    """Resize (H, W, 3) uint8 to (height, width) `input_size`; float32 from 0 to 255 where the rule is on floats."""
    if rule.on_floats:
        return _interpolated(_interpolated(image, input_size[0], axis=0), input_size[1], axis=1)
    height, width = input_size
    code = interpolation_for(image.shape[:2], input_size, rule)
    return np.asarray(cv2.resize(image, (width, height), interpolation=code), np.uint8)


def _interpolated(image: NDArray[np.uint8 | np.float32], side: int, *, axis: int) -> NDArray[np.float32]:
    """Resize one axis of (H, W, 3) as PyTorch's `interpolate` does: bilinear, align_corners False, no antialiasing.

    Coordinates are float32 there, which far from the corner moves values by more than a float's rounding; OpenCV's are
    more exact, and so are not the same.
    """
    count = image.shape[axis]
    scale = np.float32(count) / np.float32(side)
    places = np.maximum((np.arange(side, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    first = np.minimum(places.astype(np.int64), count - 1)
    weight = np.clip(places - first.astype(np.float32), 0, 1).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    result = np.take(image, first, axis=axis).astype(np.float32)
    step = np.take(image, np.minimum(first + 1, count - 1), axis=axis).astype(np.float32)
    step -= result
    step *= weight
    result += step
    return result


def preprocess(image: NDArray[np.uint8], spec: DetectorSpec) -> Images:
    """Resize one image, and normalise it where the detector does not do so itself; the aspect ratio is not kept.

    Args:
        image: (H, W, 3) RGB uint8, any size.
        spec: gives kind and size of the input, resize rule, mean and std.

    Returns:
        (3, input height, input width) float32, or the resized pixels (input height, input width, 3) uint8 in the
        order that `spec.input` names; contiguous.

    Raises:
        ImageError: `image` is not such an array.
    """
    image = checked_image(image)
    resized = resize(image, spec.input_size, spec.resize_rule)
    if not spec.input.is_8_bit:
        return normalised(resized, spec)
    return np.asarray(resized if spec.input.order == "RGB" else cv2.cvtColor(resized, cv2.COLOR_RGB2BGR), np.uint8)


def network_input(image: Images, spec: DetectorSpec) -> NDArray[np.float32]:
    """Return what the network in a detector gets of an image that the detector is given, (3, H, W) float32."""
    if not spec.input.is_8_bit:
        return np.asarray(image, np.float32)
    pixels = np.asarray(image, np.uint8)
    return normalised(pixels if spec.input.order == "RGB" else np.ascontiguousarray(pixels[:, :, ::-1]), spec)


def normalised(pixels: NDArray[np.uint8 | np.float32], spec: DetectorSpec) -> NDArray[np.float32]:
    """Normalise RGB pixels (H, W, 3) from 0 to 255 by mean and std of `spec`; returns (3, H, W) float32, contiguous."""
    planes = np.empty((3, *pixels.shape[:2]), np.float32)
    # A plane at a time: NumPy's loops over an innermost axis of 3 take eight times as long.
    for plane, values, mean, std in zip(cv2.split(pixels), planes, spec.mean, spec.std, strict=True):
        # The order of operations decides the last bits: divide, subtract, divide, all in float32.
        np.divide(plane, np.float32(255), out=values)
        values -= np.float32(mean)
        values /= np.float32(std)
    return planes
