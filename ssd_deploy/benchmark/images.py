"""Images to measure with: the user's, or generated ones of a photograph's size and detail."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_deploy.benchmark.measure import MOST_IMAGES
from ssd_train.encode import encoded
from ssd_train.temporary import temporary_folder

GENERATED_COUNT = 16
GENERATED_SIZE = (480, 640)
JPEG_QUALITY = 95


@contextlib.contextmanager
def benchmark_images(paths: Sequence[Path]) -> Iterator[tuple[list[Path], str]]:
    """Yield image files and what to call them in a report; without `paths` they are generated for the moment."""
    if paths:
        used = list(paths[:MOST_IMAGES])
        text = f"{len(used)} files" if len(used) == len(paths) else f"the first {len(used)} of {len(paths)} files"
        yield used, f"{text}, {_mean_kilobytes(used):.0f} kB on average"
        return
    with temporary_folder() as folder:
        files = [_write_jpeg(folder / f"generated{seed}.jpg", seed) for seed in range(GENERATED_COUNT)]
        height, width = GENERATED_SIZE
        yield files, f"{len(files)} generated JPEGs of {width} x {height}, {_mean_kilobytes(files):.0f} kB on average"


def generate_image(seed: int) -> NDArray[np.uint8]:
    """Return noise of all scales, coarse ones strongest, as in photographs; RGB (480, 640, 3).

    A JPEG's decoding time hangs on its detail: flat colors decode too fast, white noise too slowly.
    """
    rng = np.random.default_rng(seed)
    height, width = GENERATED_SIZE
    image = np.full((height, width, 3), 118.0, np.float32)
    for cell in (160, 80, 40, 20, 10, 5, 2, 1):
        coarse = rng.normal(0, 1, (-(-height // cell), -(-width // cell), 3)).astype(np.float32)
        # The color of a photograph changes less than its brightness.
        coarse = 0.8 * coarse.mean(axis=2, keepdims=True) * np.sqrt(3) + 0.2 * coarse
        image += 4.0 * cell**0.5 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def _write_jpeg(path: Path, seed: int) -> Path:
    path.write_bytes(encoded(generate_image(seed), ".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)))
    return path


def _mean_kilobytes(files: Sequence[Path]) -> float:
    # A file that cannot be read gets its own error when it is decoded.
    sizes = [file.stat().st_size for file in files if file.is_file()]
    return sum(sizes) / max(1, len(sizes)) / 1e3
