from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.datasets.dataset import Dataset, GroundTruth, Sample, make_ground_truth
from ssd_train.errors import DatasetError


def sample_of(path: Path, image_size: tuple[int, int]) -> Sample:
    return Sample(image_id=1, path=path, image_size=image_size, ground_truth=make_ground_truth([]))


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    assert sample_of(path, (20, 30)).load_image().shape == (20, 30, 3)
    with pytest.raises(DatasetError, match="a.png: the image is 30x20 pixels, but its annotation says 20x30"):
        sample_of(path, (30, 20)).load_image()


@pytest.mark.parametrize(("annotated", "is_turned"), [((30, 20), True), ((20, 30), False)])
def test_a_rotated_picture_is_read_in_the_frame_it_was_annotated_in(
    tmp_path: Path, annotated: tuple[int, int], is_turned: bool
) -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    # APP1 with one Exif entry: orientation 6, turn clockwise.
    exif = bytes.fromhex("ffe1 0022 457869660000 49492a00 08000000 0100 1201 0300 01000000 06000000 00000000")
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + exif + jpeg[2:])
    loaded = sample_of(path, annotated).load_image()
    assert loaded.shape[:2] == annotated
    assert loaded[0, -1].min() > 240 if is_turned else loaded[-1, 0].min() > 240


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("image_size", [(1, 1), (20, 30), (21, 33), (7, 129)])
def test_a_reduced_image_has_its_sides_divided_and_rounded_up(
    tmp_path: Path, suffix: str, image_size: tuple[int, int]
) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.full((*image_size, 3), 90, np.uint8))
    for reduction in (1, 2, 4, 8):
        loaded = sample_of(path, image_size).load_image(reduction=reduction)
        assert loaded.shape[:2] == tuple(-(-side // reduction) for side in image_size)
        assert np.abs(loaded.astype(int) - 90).max() <= 1


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize(("annotated", "is_turned"), [((61, 40), True), ((40, 61), False)])
def test_a_rotated_picture_is_reduced_in_the_frame_it_was_annotated_in(
    tmp_path: Path, annotated: tuple[int, int], is_turned: bool, reduction: int
) -> None:
    image = np.zeros((40, 61, 3), np.uint8)
    image[:, :30] = 255
    jpeg = cv2.imencode(".jpg", image)[1].tobytes()
    # As above: orientation 6, turn clockwise.
    exif = bytes.fromhex("ffe1 0022 457869660000 49492a00 08000000 0100 1201 0300 01000000 06000000 00000000")
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg[:2] + exif + jpeg[2:])
    loaded = sample_of(path, annotated).load_image(reduction=reduction)
    assert loaded.shape[:2] == tuple(-(-side // reduction) for side in annotated)
    assert loaded[0, -1].min() > 240 if is_turned else loaded[-1, 0].min() > 240
    assert loaded[-1, -1].max() < 15


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_image_of_another_size_is_refused_with_its_real_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match="the image is 30x20 pixels, but its annotation says 50x40"):
        sample_of(path, (40, 50)).load_image(reduction=4)


def test_a_limit_keeps_the_first_samples_and_zero_is_refused() -> None:
    samples = tuple(sample_of(Path(f"{name}.png"), (1, 1)) for name in "abc")
    dataset = Dataset(name="any", class_names=("thing",), samples=samples, category_ids=(1,))
    assert dataset.limited(2).samples == samples[:2]
    assert dataset.limited(9).samples == samples
    assert dataset.limited(None) is dataset
    with pytest.raises(DatasetError, match="limit of 0"):
        dataset.limited(0)


def test_ground_truth_of_no_objects_has_the_right_shapes_and_rows_must_agree() -> None:
    empty = make_ground_truth([])
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="same number of rows"):
        GroundTruth(
            boxes=np.zeros((2, 4)),
            written_boxes=np.zeros((2, 4)),
            labels=np.zeros(2, np.int64),
            is_difficult=np.zeros(1, np.bool_),
            is_crowd=np.zeros(2, np.bool_),
            areas=np.zeros(2),
        )
