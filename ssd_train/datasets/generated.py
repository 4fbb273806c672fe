"""Generated pictures of five shapes, a detection data set that needs no download. No torch.

A picture follows from (seed, index) alone: `lay_out` says what is where, and `draw_picture` paints it.
`generated_files` makes a Pascal VOC folder of many.
"""

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

# No rectangle and no ellipse: each of these is told by its silhouette, however it is turned.
SHAPE_CLASSES = ("circle", "triangle", "square", "star", "cross")

SIDES = (320, 480)
OBJECT_COUNTS = (1, 5)
# The longer side of an object's box as a part of the picture's shorter side. Areas are drawn evenly, as a detector
# with cells of 16 pixels is no judge of many tiny objects.
OBJECT_SIZES = (0.05, 0.6)
# How far an object may reach out of the picture, as a part of its size.
OVERHANG = 0.1
# The part of each object's pixels that later objects leave uncovered.
MIN_VISIBLE = 0.6
PLACEMENT_TRIES = 12
# Smaller objects would lose their silhouette to a hole or to stripes.
MIN_SIZE_WITH_PATTERN = 40
# Least distance in RGB of an object's colors to nine tenths of the pixels that they cover.
MIN_CONTRAST = 110.0
# Shapes are filled on a grid so many times finer, and then averaged.
FINE = 4


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Shape:
    """An object before it is painted.

    Attributes:
        label: index into `SHAPE_CLASSES`.
        outline: (P, 2) float64 corners x, y in continuous picture pixels.
        has_hole: its middle is left out, so that only a thick outline is painted.
        box: xyxy whole pixels of what lies inside the picture, hole or not.
        coverage: (y2 - y1, x2 - x1) float32 over `box`, how much of each pixel is painted, 0 to 1.
    """

    label: int
    outline: NDArray[np.float64]
    has_hole: bool
    box: tuple[int, int, int, int]
    coverage: Floats

    @property
    def region(self) -> tuple[slice, slice]:
        """Where `coverage` lies in an (H, W) array."""
        x1, y1, x2, y2 = self.box
        return slice(y1, y2), slice(x1, x2)


def draw_picture(seed: int, index: int) -> tuple[Image, NDArray[np.float64], NDArray[np.int64]]:
    """Draw one picture; the same arguments give the same pixels.

    Returns:
        (H, W, 3) RGB uint8, both sides 320 to 480; (M, 4) boxes, xyxy in continuous pixels (whole numbers,
        as Pascal VOC's are) of the whole objects, also where others lie on top, clipped to the picture; and
        (M,) labels, indices into `SHAPE_CLASSES`; M is 1 to 5. Of each object at least `MIN_VISIBLE` is seen.
    """
    image_size, shapes = lay_out(seed, index)
    rng = np.random.default_rng((seed, index, 1))
    image = _draw_background(rng, image_size)
    _add_clutter(rng, image)
    for shape in shapes:
        paint(rng, image, shape)
    boxes = np.array([shape.box for shape in shapes], np.float64)
    return _photographed(rng, image), boxes, np.array([shape.label for shape in shapes], np.int64)


def lay_out(seed: int, index: int) -> tuple[tuple[int, int], list[Shape]]:
    """Return a picture's (height, width) and its objects, the lowest first.

    An object that finds no place, as each would hide too much of another, is left out.
    """
    rng = np.random.default_rng((seed, index, 0))
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    # Which object is on top at each pixel, counted from 1; 0 where there is none.
    owner = np.zeros((height, width), np.uint8)
    shapes: list[Shape] = []
    areas, visible = [0], np.zeros(1)
    for _ in range(rng.integers(OBJECT_COUNTS[0], OBJECT_COUNTS[1] + 1)):
        label = int(rng.integers(len(SHAPE_CLASSES)))
        size = np.sqrt(rng.uniform(*np.square(OBJECT_SIZES))) * min(height, width)
        for _ in range(PLACEMENT_TRIES):
            shape = _placed(rng, label, size, (height, width))
            is_own = shape.coverage >= 0.5
            left = visible - np.bincount(owner[shape.region][is_own], minlength=len(visible))
            if np.all(left[1:] >= MIN_VISIBLE * np.array(areas[1:])):
                shapes.append(shape)
                owner[shape.region][is_own] = len(shapes)
                areas.append(int(np.count_nonzero(is_own)))
                visible = np.append(left, areas[-1])
                break
    return (height, width), shapes


def paint(rng: np.random.Generator, image: Image, shape: Shape) -> None:
    """Paint an object in place, in one or two random colors that stand out from what is below."""
    below = image[shape.region]
    # Some hundred pixels tell the colors as well as all do.
    sparse = (slice(None, None, max(1, max(below.shape) // 20)),) * 2
    covered = below[sparse][shape.coverage[sparse] >= 0.5]
    first, second = _color_unlike(rng, covered), _color_unlike(rng, covered)
    size = max(below.shape)
    fill = rng.choice(["solid", "two-tone", "striped"], p=[0.7, 0.15, 0.15])
    if fill == "solid" or (fill == "striped" and size < MIN_SIZE_WITH_PATTERN):
        colors = first
    else:
        along = _ramp(rng, below.shape[:2])
        period = size * rng.uniform(0.25, 0.5)
        weight = along > np.mean(along) if fill == "two-tone" else _wave(along, period)
        colors = first + (second - first) * weight[..., None]
    alpha = shape.coverage[..., None]
    below[:] = np.rint(below + (colors - below) * alpha).astype(np.uint8)


def _placed(rng: np.random.Generator, label: int, size: float, image_size: tuple[int, int]) -> Shape:
    """Turn a shape at random, make its box's longer side `size`, and put it somewhere in the picture."""
    corners = _corners(rng, SHAPE_CLASSES[label])
    angle = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(angle), np.sin(angle)
    corners = corners @ np.array([[cosine, sine], [-sine, cosine]])
    corners *= size / np.ptp(corners, axis=0).max()
    corners -= corners.min(axis=0)
    room = np.array(image_size[::-1]) - corners.max(axis=0)
    corners += rng.uniform(-OVERHANG * size, room + OVERHANG * size)
    has_hole = bool(size >= MIN_SIZE_WITH_PATTERN and rng.random() < 0.1)

    low = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)), image_size[::-1]).astype(int)
    fine = np.zeros((high - low)[::-1] * FINE, np.uint8)
    _fill(fine, corners - low, 255)
    x, y, width, height = cv2.boundingRect(fine)
    if has_hole:
        middle = corners.mean(axis=0)
        _fill(fine, middle + (corners - middle) * rng.uniform(0.45, 0.6) - low, 0)
    coverage = cv2.resize(fine, (high - low).tolist(), interpolation=cv2.INTER_AREA) / np.float32(255)
    # Rounded, since VOC writes whole pixels: a pixel that is only touched at its edge does not count.
    x1, y1, x2, y2 = (round(edge / FINE) for edge in (x, y, x + width, y + height))
    return Shape(
        label=label,
        outline=corners,
        has_hole=has_hole,
        box=(int(low[0]) + x1, int(low[1]) + y1, int(low[0]) + x2, int(low[1]) + y2),
        coverage=coverage[y1:y2, x1:x2],
    )


def _corners(rng: np.random.Generator, class_name: str) -> NDArray[np.float64]:
    """Return (P, 2) corners around the origin, in any unit; every point is seen from their mean."""
    if class_name == "circle":
        return _around(np.arange(72) / 72, np.ones(72))
    if class_name == "triangle":
        # Equal sides, more or less: each corner at its own distance.
        return _around(np.arange(3) / 3, rng.uniform(0.85, 1.15, 3))
    if class_name == "square":
        return _around(np.arange(4) / 4, np.ones(4))
    if class_name == "star":
        # Of five points; the inner corners of a pentagram lie at 0.38.
        return _around(np.arange(10) / 10, np.array([1, rng.uniform(0.36, 0.46)] * 5))
    arm = rng.uniform(0.26, 0.36)
    quarter = [(1, -arm), (1, arm), (arm, arm)]
    return np.array([*quarter, *((-y, x) for x, y in quarter), *((-x, -y) for x, y in quarter),
                     *((y, -x) for x, y in quarter)])  # fmt: skip


def _around(turns: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float64]:
    angles = 2 * np.pi * turns
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _fill(fine: Image, corners: NDArray[np.float64], value: int) -> None:
    """Fill a polygon in place; `corners` are in picture pixels from the array's top left."""
    # OpenCV counts from the middle of a pixel; with `shift` its numbers have 4 binary places.
    points = np.rint((corners * FINE - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(fine, [points], (value,), shift=4)


def _color_unlike(rng: np.random.Generator, pixels: Image) -> Floats:
    """Return a color that stands out from (P, 3) pixels, or the one that does best of some tries."""
    best, best_distance = np.zeros(3, np.float32), -1.0
    for _ in range(20):
        color = rng.uniform(0, 255, 3).astype(np.float32)
        distance = float(np.quantile(np.linalg.norm(pixels - color, axis=1), 0.1))
        if distance > best_distance:
            best, best_distance = color, distance
        if distance >= MIN_CONTRAST:
            break
    return best


def _draw_background(rng: np.random.Generator, image_size: tuple[int, int]) -> Image:
    """Mix two colors, each constant or changing slowly, by one of some patterns."""
    near = rng.uniform(20, 235, 3)
    spread = rng.choice([0, 40, 90])
    colors = _smooth(rng, image_size, 2, near - spread, near + spread, channels=3)
    difference = rng.uniform(-50, 50, 3).astype(np.float32)
    pattern = rng.choice(["flat", "noise", "stripes", "checks", "blotches"])
    if pattern == "flat":
        weight = np.zeros(image_size, np.float32)
    elif pattern == "noise":
        weight = _smooth(rng, image_size, int(rng.integers(3, 40)), 0, 1)
    elif pattern == "blotches":
        weight = np.clip(_smooth(rng, image_size, int(rng.integers(6, 30)), -3, 4), 0, 1)
    else:
        period = rng.uniform(6, 60)
        weight = _wave(_ramp(rng, image_size), period)
        if pattern == "checks":
            # Of another period, so that the fields are no squares.
            across = _wave(_ramp(rng, image_size), period * rng.uniform(2, 4))
            weight = np.abs(weight - across)
    if pattern != "flat":
        colors += difference * weight[..., None]
    return np.clip(colors, 0, 255, out=colors).astype(np.uint8)


def _smooth(
    rng: np.random.Generator,
    image_size: tuple[int, int],
    cells: int,
    low: float | NDArray[np.float64],
    high: float | NDArray[np.float64],
    *,
    channels: int = 1,
) -> Floats:
    """Interpolate a coarse grid of `cells` squared random values to (H, W) or (H, W, channels)."""
    grid = rng.uniform(low, high, (cells, cells, channels)).astype(np.float32)
    return cv2.resize(grid, image_size[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return (H, W) distances in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.arange(size[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    columns = np.arange(size[1], dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    return rows + columns


def _wave(along: Floats, period: float) -> Floats:
    """Return stripes between 0 and 1, with edges a pixel or two wide."""
    return np.clip(np.sin(along * np.float32(2 * np.pi / period)) * np.float32(period / 8) + 0.5, 0, 1)


def _add_clutter(rng: np.random.Generator, image: Image) -> None:
    """Draw things that are no class in place: lines, curves, dots, text, bars and long ellipses."""
    height, width = image.shape[:2]
    for kind in rng.choice(["line", "curve", "dots", "text", "bar", "ellipse"], rng.integers(0, 5)):
        color = rng.integers(0, 256, 3).tolist()
        points = rng.uniform(0, (width, height), (3, 2))
        start, thickness = points[0].astype(int).tolist(), int(rng.integers(1, 4))
        if kind == "line":
            cv2.line(image, start, points[1].astype(int).tolist(), color, thickness, cv2.LINE_AA)
        elif kind == "curve":
            t = np.linspace(0, 1, 24)[:, None]
            curve = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
            cv2.polylines(image, [curve.astype(np.int32)], False, color, thickness, cv2.LINE_AA)
        elif kind == "dots":
            # Too small for circles.
            for x, y in (points[0] + rng.normal(0, 30, (12, 2))).astype(int).tolist():
                cv2.circle(image, (x, y), int(rng.integers(1, 3)), color, cv2.FILLED, cv2.LINE_AA)
        elif kind == "text":
            # No letters that are circles or crosses.
            text = "".join(rng.choice(list("ABEFHKLMNRSWZ2345679"), rng.integers(3, 9)))
            cv2.putText(image, text, start, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.4, 1.2), color, thickness,
                        cv2.LINE_AA)  # fmt: skip
        else:
            length = rng.uniform(0.1, 0.4) * min(height, width)
            axes = (length, length * rng.uniform(0.12, 0.3))
            angle = float(rng.uniform(0, 180))
            if kind == "ellipse":
                half = [int(axis / 2) for axis in axes]
                cv2.ellipse(image, start, half, angle, 0, 360, color, cv2.FILLED, cv2.LINE_AA)
            else:
                bar = cv2.boxPoints((start, axes, angle)).astype(np.int32)
                cv2.fillPoly(image, [bar], color, cv2.LINE_AA)


def _photographed(rng: np.random.Generator, image: Image) -> Image:
    """Change the whole picture as a camera would: sharpness, brightness, contrast and noise."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1)).astype(np.uint8, copy=False)
    gain, noise = rng.uniform(0.75, 1.15), rng.choice([0, 5, 10])
    # From bytes, since normal numbers would take longer than all the rest.
    grain = rng.integers(0, 256, image.shape, np.uint8)
    scale = noise / 255
    offset = 128 * (1 - gain) + rng.uniform(-15, 15) - noise / 2
    return cv2.addWeighted(image, gain, grain, scale, offset).astype(np.uint8, copy=False)
