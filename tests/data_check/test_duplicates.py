"""Pictures that are one are found however they were saved; different ones are not, however alike their hashes."""

from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.data_check.duplicates import find_duplicates
from ssd_train.data_check.images import ImageFacts, difference_hash, read_image
from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.datasets.generated import draw_picture
from ssd_train.image_files import images_in
from ssd_train.preprocess import load_image

Image = NDArray[np.uint8]


def write(path: Path, image: Image, quality: int = 95) -> Path:
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return path


def facts_of(paths: list[Path]) -> list[ImageFacts]:
    return [
        read_image(
            Sample(image_id=0, path=path, image_size=load_image(path).shape[:2], ground_truth=make_ground_truth([]))
        )
        for path in paths
    ]


def shapes(count: int) -> list[Image]:
    return [draw_picture(1, index)[0] for index in range(count)]


def test_copies_are_found_however_they_were_saved(tmp_path: Path) -> None:
    first, second, third = shapes(3)
    half = cv2.resize(first, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.uint8)
    paths = [
        write(tmp_path / "a.jpg", first),
        write(tmp_path / "b.jpg", second),
        write(tmp_path / "again.jpg", first, quality=50),
        write(tmp_path / "c.jpg", third),
        write(tmp_path / "b.png", second),
        write(tmp_path / "half.jpg", half),
    ]
    paths.append(tmp_path / "c copy.jpg")
    paths[-1].write_bytes(paths[3].read_bytes())
    assert find_duplicates(facts_of(paths)) == ((0, 2, 5), (1, 4), (3, 6))


def test_generated_pictures_are_all_different(tmp_path: Path) -> None:
    pictures = shapes(200)
    hashes = [difference_hash(picture) for picture in pictures]
    # By their hashes alone some would be one: large flat parts say little.
    assert any((one ^ other).bit_count() <= 7 for one, other in combinations(hashes, 2))
    assert find_duplicates(facts_of([write(tmp_path / f"{n}.jpg", p) for n, p in enumerate(pictures)])) == ()


def test_pictures_without_contrast_are_one_by_their_bytes_alone(tmp_path: Path) -> None:
    grey = np.full((60, 80, 3), 128, np.uint8)
    spot = grey.copy()
    spot[20:23, 30:33] = 140
    paths = [write(tmp_path / f"{n}.png", image) for n, image in enumerate((grey, spot, grey))]
    assert find_duplicates(facts_of(paths)) == ((0, 2),)


def test_an_object_that_moved_makes_another_picture(tmp_path: Path) -> None:
    # One flat background, one square of a sixteenth of the side: all that differs is where it is.
    background = np.repeat(np.linspace(80, 160, 320, dtype=np.uint8)[None, :, None], 240, axis=0).repeat(3, axis=2)
    here, there = background.copy(), background.copy()
    here[50:65, 40:60] = there[150:165, 240:260] = (200, 30, 30)
    paths = [write(tmp_path / f"{n}.jpg", image) for n, image in enumerate((here, there, background))]
    assert find_duplicates(facts_of(paths)) == ()


@pytest.mark.parametrize(("bits", "expected"), [(7, ((0, 1),)), (8, ())])
def test_hashes_may_differ_in_seven_bits_wherever_they_are(bits: int, expected: tuple[tuple[int, ...], ...]) -> None:
    thumbnail = np.arange(768, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    # One bit of each byte, the least favourable place.
    other = sum(1 << (8 * byte) for byte in range(bits))
    facts = [
        ImageFacts(error=None, digest=bytes([n]), difference_hash=value, thumbnail=thumbnail)
        for n, value in enumerate((0, other))
    ]
    assert find_duplicates(facts) == expected


def test_images_that_could_not_be_read_are_no_copies() -> None:
    assert find_duplicates([ImageFacts(error="broken")] * 2) == ()
    assert find_duplicates([]) == ()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["bccd", "coco_tiny"])
def test_real_pictures_are_all_different_and_found_again(real_data: Path, tmp_path: Path, folder: str) -> None:
    paths = images_in(real_data / folder)
    assert len(paths) >= 48
    copies = [
        write(tmp_path / f"{number}.jpg", load_image(path), quality=30) for number, path in enumerate(paths[::12])
    ]
    found = find_duplicates(facts_of([*paths, *copies]))
    assert found == tuple((12 * number, len(paths) + number) for number in range(len(copies)))
