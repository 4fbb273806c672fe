"""Several pictures as one, for people to look through."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_COLUMNS = 4
GAP = 4
PICTURE_WIDTH = 400
# A JPEG has at most 65500 rows, which a narrow image would exceed.
MAX_PICTURE_HEIGHT = 2400


def fit_width(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) picture to `PICTURE_WIDTH`, or to less where it would become too high."""
    height, width = picture.shape[:2]
    scale = min(PICTURE_WIDTH / width, MAX_PICTURE_HEIGHT / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def picture_grid(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put (H, W, 3) pictures side by side on white, row by row, each row as high as its highest."""
    columns = min(MAX_COLUMNS, len(pictures))
    width = max(picture.shape[1] for picture in pictures)
    rows = []
    for start in range(0, len(pictures), columns):
        own = pictures[start : start + columns]
        row = np.full((max(picture.shape[0] for picture in own) + GAP, columns * (width + GAP), 3), 255, np.uint8)
        for column, picture in enumerate(own):
            left = column * (width + GAP)
            row[: picture.shape[0], left : left + picture.shape[1]] = picture
        rows.append(row)
    return np.concatenate(rows)
