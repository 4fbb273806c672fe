"""Several pictures as one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.picture_grid import picture_grid


def plain(height: int, width: int, value: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize(
    ("sizes", "shape", "corners"),
    [
        # Gaps of 4 to the right and below; pictures in rows of at most four.
        ([(10, 20)], (14, 24), [(0, 0)]),
        ([(10, 20), (10, 20)], (14, 48), [(0, 0), (0, 24)]),
        ([(10, 20), (6, 8), (8, 5)], (14, 72), [(0, 0), (0, 24), (0, 48)]),
        ([(10, 20)] * 5, (28, 96), [(0, 0), (0, 24), (0, 48), (0, 72), (14, 0)]),
        # Each row is as high as its highest.
        ([(5, 20), (10, 20), (1, 1), (2, 2), (30, 9)], (48, 96), [(0, 0), (0, 24), (0, 48), (0, 72), (14, 0)]),
    ],
)
def test_pictures_stand_in_rows_of_four_on_white(
    sizes: list[tuple[int, int]], shape: tuple[int, int], corners: list[tuple[int, int]]
) -> None:
    grid = picture_grid([plain(*size, value) for value, size in enumerate(sizes)])
    assert grid.shape == (*shape, 3)
    expected = plain(*shape, 255)
    for value, ((height, width), (top, left)) in enumerate(zip(sizes, corners, strict=True)):
        expected[top : top + height, left : left + width] = value
    np.testing.assert_array_equal(grid, expected)
