"""What Python users call an image -> RGB uint8 pixels.

PyTorch and Pillow are looked at only where the user imported them: nobody has an image of theirs otherwise.
"""

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.errors import ImageError, first_line
from ssd_train.paths import user_path
from ssd_train.pixel_limit import check_pixels
from ssd_train.preprocess import errors_of, load_image

if TYPE_CHECKING:
    import PIL.Image


class TensorLike(Protocol):
    """A PyTorch tensor, as type checkers see it where PyTorch is not installed."""

    @property
    def ndim(self) -> int: ...

    def detach(self) -> Any: ...

    def is_floating_point(self) -> bool: ...


OneImage: TypeAlias = "NDArray[Any] | str | os.PathLike[str] | PIL.Image.Image | TensorLike"
Color = Literal["rgb", "bgr"]

# Which conversion of OpenCV makes RGB of how many channels; three in RGB's order need none.
_TO_RGB = {
    (1, "rgb"): cv2.COLOR_GRAY2RGB,
    (1, "bgr"): cv2.COLOR_GRAY2RGB,
    (3, "bgr"): cv2.COLOR_BGR2RGB,
    (4, "rgb"): cv2.COLOR_RGBA2RGB,
    (4, "bgr"): cv2.COLOR_BGRA2RGB,
}
_CHANNELS = (1, 3, 4)
_EXPECTED = "pass RGB uint8 of shape (H, W, 3) with at least one pixel, grey (H, W), or RGBA (H, W, 4)"
# Exif 2.3, section 4.6.4: which way up a camera was held.
_ORIENTATION = 0x0112


def is_one_image(given: object) -> bool:
    """Whether something is one image, though perhaps a wrong one, rather than several."""
    if isinstance(given, np.ndarray) or _is_tensor(given):
        return given.ndim != 4  # type: ignore[attr-defined]
    return isinstance(given, str | bytes | os.PathLike) or _is_pillow(given)


def to_rgb(image: OneImage, color: Color = "rgb", *, max_pixels: int | None = None) -> NDArray[np.uint8]:
    """Return one image as (H, W, 3) RGB uint8, C-contiguous; an array that is one already is returned itself.

    Grey is repeated over the three channels, alpha is dropped, 16 bits keep their upper byte, all as `load_image` does.

    Args:
        image: one of
            an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), uint8 or uint16;
            a PyTorch tensor (H, W), (1, H, W), (3, H, W) or (4, H, W) on any device, uint8, uint16, or floats from 0
            to 1 (torchvision's convention), which are multiplied by 255 and rounded;
            a Pillow image of any mode but F, turned upright as its Exif entry says;
            the path of an image file.
        color: the order of an array's channels; the others have their own.
        max_pixels: what it may have, before anything is decoded or copied; None for the process's limit, see
            `pixel_limit`.

    Raises:
        ImageError: it is none of these, cannot be read whole, or is too large for the limit or the memory.
    """
    check_color(color)
    if isinstance(image, str | os.PathLike):
        return load_image(user_path(image, ImageError), max_pixels=max_pixels)
    with errors_of("an image"):
        if isinstance(image, np.ndarray):
            return _of_array(image, color, max_pixels)
        if _is_tensor(image):
            return _of_tensor(image, max_pixels)
        if _is_pillow(image):
            return _of_pillow(image, max_pixels)
    raise ImageError(
        f"an image is a {type(image).__name__}; pass an RGB uint8 NumPy array of shape (H, W, 3), a path, a Pillow "
        "image or a PyTorch tensor"
    )


def check_color(color: str) -> None:
    """Raise ImageError unless it is an order of channels."""
    if color not in ("rgb", "bgr"):
        raise ImageError(f"color {color!r}: expected rgb or bgr", arguments=("color",))


def _of_array(image: NDArray[Any], color: Color, max_pixels: int | None) -> NDArray[np.uint8]:
    pixels = image[:, :, None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in _CHANNELS or image.size == 0 or image.dtype not in ("u1", "u2"):
        raise ImageError(f"an image has dtype {image.dtype} and shape {image.shape}; {_EXPECTED}{_hint(image)}")
    check_pixels("an image", pixels.shape[:2], max_pixels)
    if pixels.dtype != np.uint8:
        pixels = (pixels >> 8).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels)
    conversion = _TO_RGB.get((pixels.shape[2], color))
    return pixels if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _hint(image: NDArray[Any]) -> str:
    """Say what is the matter with the commonest of wrong arrays."""
    if image.dtype.kind == "f":
        return "; of floats nobody can tell whether they end at 1 or at 255: multiply and convert them"
    if image.ndim == 3 and image.shape[0] in _CHANNELS and image.shape[2] not in _CHANNELS:
        return "; its channels come first: image.transpose(1, 2, 0) puts them last"
    return ""


def _of_tensor(tensor: Any, max_pixels: int | None) -> NDArray[np.uint8]:
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in _CHANNELS):
        raise ImageError(f"a tensor has shape {tuple(tensor.shape)}; pass one image as (3, H, W), (1, H, W) or (H, W)")
    if tensor.numel():
        check_pixels("a tensor", tuple(tensor.shape[-2:]), max_pixels)
    if tensor.is_floating_point():
        shares = tensor.float().numpy(force=True)
        # Written so that NaN is refused too.
        if not (shares.size and shares.min() >= 0 and shares.max() <= 1):
            raise ImageError(
                f"a tensor of {tensor.dtype} has values outside 0 to 1, or none; scale it as torchvision does, or "
                "pass uint8 from 0 to 255"
            )
        pixels = np.rint(shares * 255).astype(np.uint8)
    else:
        pixels = tensor.numpy(force=True)
    return _of_array(pixels if pixels.ndim == 2 else np.moveaxis(pixels, 0, 2), "rgb", max_pixels)


def _of_pillow(image: Any, max_pixels: int | None) -> NDArray[np.uint8]:
    from PIL import ImageOps

    if all(image.size):
        # It may not be decoded yet.
        check_pixels("a Pillow image", image.size[::-1], max_pixels)

    try:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "I" or image.mode.startswith("I;16"):
            levels = np.asarray(image)
            if levels.size and (levels.min() < 0 or levels.max() > 65535):
                raise ImageError("a Pillow image of 32 bits has values that are no 16 bits; convert it to mode L")
            return _of_array(levels.astype(np.uint16), "rgb", max_pixels)
        if image.mode == "F":
            raise ImageError("a Pillow image has floats (mode F); scale it to 0 to 255 and convert it to mode L")
        if image.mode != "RGB":
            # Pillow warns where a palette with transparency loses it at once.
            image = image.convert("RGBA" if image.mode == "P" else "RGB")
        return _of_array(np.asarray(image), "rgb", max_pixels)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of broken, foreign and closed files
        raise ImageError(f"a Pillow image cannot be read whole ({first_line(error)}); replace it") from error


def _is_tensor(given: object) -> bool:
    return isinstance(given, _imported("torch", "Tensor"))


def _is_pillow(given: object) -> bool:
    return isinstance(given, _imported("PIL.Image", "Image"))


def _imported(module: str, name: str) -> Any:
    """Return a class of a module that somebody imported; what `isinstance` answers no to, otherwise."""
    return getattr(sys.modules.get(module), name, ())
