"""Random augmentation of one training image: first numbers, then pixels (Liu et al., SSD, section 2.2, and GluonCV).

The steps, probabilities and ranges are those of GluonCV's `SSDDefaultTrainTransform`, but not their
order of work. Where the image ends up is decided from sizes and boxes alone; then only what stays
visible is decoded, cropped and resized, once and in 8 bits. The colour distortion is affine in RGB
and commutes with resizing, so it is one 3x4 matrix that `input_batch` applies to the small image.
"""

import dataclasses
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.boxes import clip_boxes, iou
from ssd_train.training.augmentation import DEFAULT_AUGMENTATION, Augmentation

# Every colour step and the expansion happen with this probability.
PROBABILITY = 0.5

LUMA = np.array([0.299, 0.587, 0.114])
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
YIQ_TO_RGB = np.array([[1.0, 0.956, 0.621], [1.0, -0.272, -0.647], [1.0, -1.107, 1.705]])

# A crop is tried for each of these lowest overlaps with every box; the last one accepts any.
CROP_IOUS = np.array([0.1, 0.3, 0.5, 0.7, 0.9, -math.inf])
CROP_TRIALS = 50
MAX_CROP_ASPECT = 2.0

INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LANCZOS4)

# Scales that a JPEG can be decoded at, by dropping high frequencies (ITU-T T.81 decoders offer them).
REDUCTIONS = (8, 4, 2)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Geometry:
    """Where one image goes in the network input, and its boxes there. All but `boxes` are whole pixels.

    Attributes:
        canvas_size: (height, width) of the canvas that the image was placed on; its own size if not expanded.
        image_offset: (top, left) of the image on the canvas.
        crop: (left, top, width, height) that was cut out of the canvas.
        is_flipped: mirrored left for right, after the resize.
        is_upside_down: mirrored top for bottom, after the resize.
        interpolation: OpenCV's code.
        source: (left, top, right, bottom) of what stays visible, in image pixels.
        place: (left, top, right, bottom) that it fills in the network input before the flips; the mean
            color is around it.
        reduction: 2, 4 or 8 where the image may be decoded at that fraction of its size, else 1.
        kept: (K,) int64, indices of the boxes that stay.
        boxes: (K, 4) float64 xyxy in network-input pixels, flips included.
    """

    canvas_size: tuple[int, int]
    image_offset: tuple[int, int]
    crop: tuple[int, int, int, int]
    is_flipped: bool
    is_upside_down: bool
    interpolation: int
    source: tuple[int, int, int, int]
    place: tuple[int, int, int, int]
    reduction: int
    kept: NDArray[np.int64]
    boxes: NDArray[np.float64]

    def flipped_place(self, input_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return `place` after the flips, in an input of (height, width)."""
        left, top, right, bottom = self.place
        if self.is_flipped:
            left, right = input_size[1] - right, input_size[1] - left
        if self.is_upside_down:
            top, bottom = input_size[0] - bottom, input_size[0] - top
        return left, top, right, bottom


def sample_geometry(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    boxes: NDArray[np.float64],
    input_size: tuple[int, int],
    augmentation: Augmentation = DEFAULT_AUGMENTATION,
) -> Geometry:
    """Draw expansion, crop, interpolation and flips.

    Args:
        rng: the only source of randomness.
        image_size: (height, width) in pixels.
        boxes: (M, 4) xyxy in image pixels.
        input_size: (height, width) of the network input.
        augmentation: how far and how often.

    Returns:
        Positions such that box edges lie where the same pixels' edges lie: where whole pixels force a
        rounding, it is the boxes that follow the pixels.
    """
    canvas_size, (top, left) = _expanded(rng, image_size, augmentation.max_expansion)
    shifted = boxes + np.array([left, top, left, top])
    if augmentation.crop:
        crop, kept, clipped = _cropped(rng, canvas_size, shifted, (augmentation.min_crop, augmentation.max_crop))
    else:
        crop, kept, clipped = (0, 0, canvas_size[1], canvas_size[0]), np.arange(len(boxes)), shifted
    interpolation = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    is_flipped = bool(rng.random() < augmentation.flip)
    # Drawn only where it can happen: trainings without it keep the colours that they had before it existed.
    is_upside_down = bool(augmentation.vertical_flip and rng.random() < augmentation.vertical_flip)

    height, width = image_size
    x_span = _visible(left, width, crop[0], crop[2], input_size[1])
    y_span = _visible(top, height, crop[1], crop[3], input_size[0])
    reduction = 1
    for candidate in REDUCTIONS:
        if all(high - low >= candidate * (end - start) for low, high, start, end in (x_span, y_span)):
            reduction = candidate
            break
    x0, x1, u0, u1 = _on_grid(x_span, width, reduction)
    y0, y1, v0, v1 = _on_grid(y_span, height, reduction)
    scale = np.array([(u1 - u0) / (x1 - x0), (v1 - v0) / (y1 - y0)])
    offset = np.array([u0, v0]) - np.array([x0 + left, y0 + top]) * scale
    mapped = clipped * np.tile(scale, 2) + np.tile(offset, 2)
    if is_flipped:
        mapped[:, [0, 2]] = input_size[1] - mapped[:, [2, 0]]
    if is_upside_down:
        mapped[:, [1, 3]] = input_size[0] - mapped[:, [3, 1]]
    mapped = clip_boxes(mapped, input_size)
    # In the precision of the targets: a box without area there would have an infinite one.
    has_area = (mapped[:, 2:].astype(np.float32) > mapped[:, :2].astype(np.float32)).all(axis=1)
    return Geometry(
        canvas_size=canvas_size,
        image_offset=(top, left),
        crop=crop,
        is_flipped=is_flipped,
        is_upside_down=is_upside_down,
        interpolation=interpolation,
        source=(x0, y0, x1, y1),
        place=(u0, v0, u1, v1),
        reduction=reduction,
        kept=kept[has_area],
        boxes=mapped[has_area],
    )


def _expanded(
    rng: np.random.Generator, image_size: tuple[int, int], max_expansion: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (height, width) of the canvas and (top, left) of the image on it."""
    if rng.random() >= PROBABILITY:
        return image_size, (0, 0)
    ratio = rng.uniform(1, max_expansion)
    height, width = int(image_size[0] * ratio), int(image_size[1] * ratio)
    top, left = rng.integers(height - image_size[0] + 1), rng.integers(width - image_size[1] + 1)
    return (height, width), (int(top), int(left))


def _cropped(
    rng: np.random.Generator, size: tuple[int, int], boxes: NDArray[np.float64], scales: tuple[float, float]
) -> tuple[tuple[int, int, int, int], NDArray[np.int64], NDArray[np.float64]]:
    """Return a crop (left, top, width, height), the boxes that it keeps, and those clipped to it.

    For every lowest overlap the first of 50 random crops that reaches it with all boxes is a candidate,
    and so is the whole canvas. Candidates are drawn until one keeps a box by its centre.
    """
    height, width = size
    shape = (len(CROP_IOUS), CROP_TRIALS)
    scale = rng.uniform(*scales, shape)
    low, high = np.maximum(1 / MAX_CROP_ASPECT, scale**2), np.minimum(MAX_CROP_ASPECT, scale**-2)
    aspect = np.sqrt(rng.uniform(low, high))
    heights = np.maximum((height * scale / aspect).astype(np.int64), 1)
    widths = np.maximum((width * scale * aspect).astype(np.int64), 1)
    # The last position is left out, as GluonCV's half-open range does.
    tops = (rng.random(shape) * np.maximum(height - heights, 1)).astype(np.int64)
    lefts = (rng.random(shape) * np.maximum(width - widths, 1)).astype(np.int64)
    whole = (0, 0, width, height)
    if not len(boxes):
        return (int(lefts[0, 0]), int(tops[0, 0]), int(widths[0, 0]), int(heights[0, 0])), _NONE, boxes

    corners = np.stack([lefts, tops, lefts + widths, tops + heights], axis=-1)
    lowest = iou(corners.reshape(-1, 4), boxes).min(axis=1).reshape(shape)
    accepted = lowest >= CROP_IOUS[:, None]
    first = accepted.argmax(axis=1)
    candidates = [whole]
    for row in np.flatnonzero(accepted.any(axis=1)):
        x0, y0, x1, y1 = corners[row, first[row]].tolist()
        candidates.append((x0, y0, x1 - x0, y1 - y0))
    for number in rng.permutation(len(candidates)):
        crop = candidates[number]
        kept, clipped = _kept(boxes, crop)
        if len(kept):
            return crop, kept, clipped
    return whole, np.arange(len(boxes)), boxes


_NONE = np.zeros(0, np.int64)


def _kept(boxes: NDArray[np.float64], crop: tuple[int, int, int, int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the boxes whose centre lies in the crop and whose part there has an area, and that part."""
    left, top, width, height = crop
    low, high = np.array([left, top]), np.array([left + width, top + height])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    clipped = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)
    inside = (low <= centres) & (centres < high) & (clipped[:, :2] < clipped[:, 2:])
    kept = np.flatnonzero(inside.all(axis=1))
    return kept, clipped[kept]


# (first, last) pixel edge in the image, then in the network input, along one axis.
Span = tuple[int, int, int, int]


def _visible(offset: int, length: int, crop_start: int, crop_length: int, input_length: int) -> Span:
    """Return which part of the image a crop shows along one axis, and where; never less than a pixel."""
    first = min(max(crop_start - offset, 0), length - 1)
    last = max(min(crop_start + crop_length - offset, length), first + 1)
    scale = input_length / crop_length
    start = min(max(round((first + offset - crop_start) * scale), 0), input_length - 1)
    end = min(max(round((last + offset - crop_start) * scale), start + 1), input_length)
    return first, last, start, end


def _on_grid(span: Span, length: int, reduction: int) -> Span:
    """Move a span's edges in the image to edges of its reduced pixels; the image's own end is one too."""
    first, last, start, end = span
    first = round(first / reduction) * reduction
    if last < length:
        last = min(max(round(last / reduction) * reduction, first + reduction), length)
    return first, last, start, end


def render(image: NDArray[np.uint8], geometry: Geometry, input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut, resize and mirror an image; what it does not fill stays 0.

    Args:
        image: (H, W, 3) uint8, decoded at `1 / geometry.reduction` of its size.
        geometry: for that image.
        input_size: (H', W') of the network input.

    Returns:
        (H', W', 3) uint8.
    """
    x0, y0, x1, y1 = (-(-edge // geometry.reduction) for edge in geometry.source)
    u0, v0, u1, v1 = geometry.flipped_place(input_size)
    canvas = np.zeros((*input_size, 3), np.uint8)
    part = cv2.resize(image[y0:y1, x0:x1], (u1 - u0, v1 - v0), interpolation=geometry.interpolation)
    if geometry.is_flipped:
        part = cv2.flip(part, 1)
    if geometry.is_upside_down:
        part = cv2.flip(part, 0)
    canvas[v0:v1, u0:u1] = part
    return canvas


def sample_colour(rng: np.random.Generator, augmentation: Augmentation = DEFAULT_AUGMENTATION) -> NDArray[np.float32]:
    """Draw brightness, contrast, saturation and hue as one affine map; the identity with `colour` off.

    Returns:
        (3, 4) float32 M, for RGB in 0 to 255: `M[:, :3] @ rgb + M[:, 3]`. The result is not clipped.
    """
    matrix = np.eye(3, 4)
    if not augmentation.colour:
        return matrix.astype(np.float32)
    ranges = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
    applies = (rng.random(4) < PROBABILITY) & (np.array(ranges) > 0)
    if applies[0]:
        matrix[:, 3] += rng.uniform(-augmentation.brightness, augmentation.brightness)
    contrast, saturation, hue = np.eye(3), np.eye(3), np.eye(3)
    if applies[1]:
        contrast = np.eye(3) * rng.uniform(1 - augmentation.contrast, 1 + augmentation.contrast)
    if applies[2]:
        amount = rng.uniform(1 - augmentation.saturation, 1 + augmentation.saturation)
        saturation = amount * np.eye(3) + (1 - amount) * np.ones((3, 1)) * LUMA
    if applies[3]:
        angle = rng.uniform(-augmentation.hue, augmentation.hue) * math.pi
        cosine, sine = math.cos(angle), math.sin(angle)
        hue = YIQ_TO_RGB @ np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ RGB_TO_YIQ
    steps = (contrast, saturation, hue) if rng.random() < 0.5 else (saturation, hue, contrast)
    for step in steps:
        matrix = step @ matrix
    return matrix.astype(np.float32)
