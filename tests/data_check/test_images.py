"""What cannot be used is told with its reason; the rest is hashed."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.data_check.images import difference_hash, read_images
from ssd_train.datasets.dataset import Sample, make_ground_truth


def sample(path: Path, image_size: tuple[int, int] = (60, 80)) -> Sample:
    return Sample(image_id=path.stem, path=path, image_size=image_size, ground_truth=make_ground_truth([]))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "cut off before its end"),
        (lambda path: path.write_text("no image"), "not an image"),
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: cv2.imwrite(str(path), np.zeros((60, 81, 3), np.uint8)), "the image is 81x60 pixels"),
    ],
)
def test_an_image_that_a_training_would_stop_at_is_told(
    data: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    paths = sorted((data / "JPEGImages").iterdir())
    spoil(paths[1])
    seen: list[tuple[int, int]] = []
    facts = read_images([sample(path) for path in paths], workers=2, on_progress=lambda *done: seen.append(done))
    assert [fact.error is None for fact in facts] == [True, False, True, True, True]
    assert facts[1].error is not None and str(paths[1]) in facts[1].error and reason in facts[1].error
    assert facts[1].thumbnail is None
    assert seen == [(number, 5) for number in range(1, 6)]


def test_the_difference_hash_is_by_hand() -> None:
    # 9 columns of one grey each, 8 rows: every cell is one pixel.
    rising = np.repeat(np.arange(0, 90, 10, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    assert difference_hash(rising) == 2**64 - 1
    assert difference_hash(np.ascontiguousarray(rising[:, ::-1])) == 0
    # In the first row alone the second cell is darker than the first, so its first bit, the highest, is 0.
    rising[0, 0] = 200
    assert difference_hash(rising) == 2**63 - 1
