"""Generate pictures to try a detector on: seeded shapes on gradients, in sizes that need every resize rule.

python examples/make_pictures.py FOLDER
"""

import sys
from pathlib import Path

import cv2
import numpy as np

# (height, width): smaller than, larger than and crossing the network inputs of 300 and 512 pixels.
SIZES = ((240, 280), (480, 640), (375, 500), (720, 1280))


def make_picture(size: tuple[int, int], seed: int) -> np.ndarray:
    """Return an (H, W, 3) uint8 picture of a few shapes."""
    rng = np.random.default_rng(seed)
    height, width = size
    corner, other = rng.uniform(40, 215, (2, 3))
    ramp = (np.linspace(0, 1, width)[None, :, None] + np.linspace(0, 1, height)[:, None, None]) / 2
    picture = (corner + (other - corner) * ramp).astype(np.uint8)
    for _ in range(8):
        center = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        radius = int(rng.uniform(0.05, 0.2) * min(size))
        color = tuple(int(value) for value in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.circle(picture, center, radius, color, cv2.FILLED, cv2.LINE_AA)
        else:
            end = (center[0] + 2 * radius, center[1] + radius)
            cv2.rectangle(picture, center, end, color, cv2.FILLED)
    return picture


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed, size in enumerate(SIZES):
        path = folder / f"shapes_{size[1]}x{size[0]}.png"
        if not cv2.imwrite(str(path), make_picture(size, seed)):
            sys.exit(f"{path}: could not be written")
        print(path)


if __name__ == "__main__":
    main()
