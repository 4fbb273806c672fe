"""What lies behind the shapes of a generated picture, and how a camera would see the whole."""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


def draw_background(rng: np.random.Generator, image_size: tuple[int, int]) -> Image:
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
        weight = wave(ramp(rng, image_size), period)
        if pattern == "checks":
            # Of another period, so that the fields are no squares.
            across = wave(ramp(rng, image_size), period * rng.uniform(2, 4))
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


def ramp(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Return (H, W) distances in pixels along a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    rows = np.arange(size[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    columns = np.arange(size[1], dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    return rows + columns


def wave(along: Floats, period: float) -> Floats:
    """Return stripes between 0 and 1, with edges a pixel or two wide."""
    return np.clip(np.sin(along * np.float32(2 * np.pi / period)) * np.float32(period / 8) + 0.5, 0, 1)


def add_clutter(rng: np.random.Generator, image: Image) -> None:
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


def photographed(rng: np.random.Generator, image: Image) -> Image:
    """Change the whole picture as a camera would: sharpness, brightness, contrast and noise."""
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.1)).astype(np.uint8, copy=False)
    gain, noise = rng.uniform(0.75, 1.15), rng.choice([0, 5, 10])
    # From bytes, since normal numbers would take longer than all the rest.
    grain = rng.integers(0, 256, image.shape, np.uint8)
    scale = noise / 255
    offset = 128 * (1 - gain) + rng.uniform(-15, 15) - noise / 2
    return cv2.addWeighted(image, gain, grain, scale, offset).astype(np.uint8, copy=False)
