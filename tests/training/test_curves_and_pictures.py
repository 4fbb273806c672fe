"""Pictures of a training: valid files of sensible sizes, with everything where it belongs."""

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample, make_ground_truth
from ssd_train.detections import Detections
from ssd_train.draw import write_picture
from ssd_train.errors import SSDDeployError
from ssd_train.spec import DetectorSpec
from ssd_train.training.curves import write_curves
from ssd_train.training.pictures import write_augmented, write_detections

pytestmark = pytest.mark.slow  # real trainings

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SPEC = DetectorSpec(network="any", class_names=("cat", "dog"), input_size=(60, 60))


def read(path: Path) -> NDArray[np.uint8]:
    """Check that the file is what its name says; returns it as RGB."""
    assert path.read_bytes().startswith(PNG if path.suffix == ".png" else JPEG)
    image = cv2.imread(str(path))
    assert image is not None
    return image[:, :, ::-1]


# --- curves ---


def epochs_of(count: int) -> list[dict[str, Any]]:
    return [{"epoch": n, "cls_loss": 3 / (n + 1), "box_loss": 1 / (n + 1), "lr": 1e-3} for n in range(count)]


@pytest.mark.parametrize(("count", "validated"), [(1, False), (1, True), (40, True)])
def test_curves_are_a_png_that_is_not_blank(tmp_path: Path, count: int, validated: bool) -> None:
    pytest.importorskip("matplotlib")
    scores = [{"epoch": n, "scores": {"mAP": 0.2 + n / 100, "cat": None}} for n in range(count)] if validated else []
    write_curves(tmp_path / "new" / "curves.png", "a run", epochs_of(count), scores)
    image = read(tmp_path / "new" / "curves.png")
    height, width = image.shape[:2]
    # 11 x 4.5 inches of 110 dots.
    assert (height, width) == (495, 1210)
    for half in (image[:, : width // 2], image[:, width // 2 :]):
        assert (half < 128).any() and (half > 250).any()
    # The loss and the first score in their colors, each in its own half; antialiasing leaves some pixels pure. The
    # legend below the axes has both.
    axes = image[: round(0.8 * height)]
    blue, green = ((axes == color).all(axis=2) for color in ((0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73)))
    assert blue[:, : width // 2].any() and not blue[:, width // 2 :].any()
    assert green[:, width // 2 :].any() == validated and not green[:, : width // 2].any()


def test_losses_of_validation_are_drawn_beside_those_of_training(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plain_scores = [{"epoch": n, "scores": {"mAP": 0.5}} for n in range(40)]
    with_losses = [{**line, "cls_loss": 2.5, "box_loss": 2.0} for line in plain_scores]
    blue = []
    for scores in (plain_scores, with_losses):
        write_curves(tmp_path / "curves.png", "a run", epochs_of(40), scores)
        axes = read(tmp_path / "curves.png")[:380]
        blue.append(int((axes == (0x00, 0x72, 0xB2)).all(axis=2).sum()))
    # A dashed line across half of the picture.
    assert blue[1] > blue[0] + 100


def test_numbers_that_are_missing_leave_a_gap(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    epochs = epochs_of(3)
    epochs[1]["cls_loss"] = None
    scores = [{"epoch": 0, "scores": {"mAP": None}}, {"epoch": 2, "scores": {"mAP": 0.5}}]
    write_curves(tmp_path / "curves.png", "a run", epochs, scores)
    assert read(tmp_path / "curves.png").shape == (495, 1210, 3)


# --- pictures ---


def plain(height: int, width: int, value: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def grey_input(count: int, value: int) -> torch.Tensor:
    """Network inputs of one grey."""
    pixel = (torch.tensor([value] * 3) / 255 - torch.tensor(SPEC.mean)) / torch.tensor(SPEC.std)
    return pixel.view(1, 3, 1, 1).expand(count, 3, 60, 60)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_augmented_images_are_shown_as_they_were_before_normalisation(tmp_path: Path, count: int) -> None:
    path = tmp_path / "new" / "images.png"
    boxes = torch.tensor([[20.0, 25, 50, 55], [0, 0, 60, 60]]).repeat(count, 1, 1)
    labels = torch.tensor([[1, -1]]).repeat(count, 1)
    write_augmented(path, grey_input(count, 100), boxes, labels, SPEC)
    image = read(path)
    columns, rows = min(count, 4), -(-count // 4)
    assert image.shape == (rows * 64, columns * 64, 3)
    for number in range(count):
        top, left = 64 * (number // 4), 64 * (number % 4)
        picture = image[top : top + 60, left : left + 60]
        # In the middle of the box and outside of it; the padding row's box, all of the picture, is not drawn.
        assert picture[40, 35].tolist() == picture[58, 2].tolist() == picture[59, 59].tolist() == [100] * 3
        assert (picture[40, 20] != 100).any() and (picture[40, 50] != 100).any() and (picture[55, 35] != 100).any()


def test_colours_beyond_the_range_of_pixels_end_at_its_ends(tmp_path: Path) -> None:
    images = torch.cat([grey_input(1, -80), grey_input(1, 300)])
    write_augmented(tmp_path / "a.png", images, torch.zeros(2, 1, 4), torch.full((2, 1), -1), SPEC)
    image = read(tmp_path / "a.png")
    assert image[30, 30].tolist() == [0] * 3 and image[30, 94].tolist() == [255] * 3


def test_an_image_that_is_all_mean_is_shown_in_the_mean_color(tmp_path: Path) -> None:
    boxes, labels = torch.zeros(1, 1, 4), torch.full((1, 1), -1)
    write_augmented(tmp_path / "a.png", torch.zeros(1, 3, 60, 60), boxes, labels, SPEC)
    # 0.485, 0.456 and 0.406 of 255, rounded.
    assert read(tmp_path / "a.png")[30, 30].tolist() == [124, 116, 104]


def sample_of(path: Path, image_size: tuple[int, int]) -> Sample:
    cv2.imwrite(str(path), plain(*image_size, 100))
    row = {"box": (10, 40, 60, 80), "label": 0, "is_difficult": False, "is_crowd": False, "area": 2000.0}
    return Sample(image_id=1, path=path, image_size=image_size, ground_truth=make_ground_truth([row]))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_annotations_stand_above_detections(tmp_path: Path, suffix: str) -> None:
    samples = [sample_of(tmp_path / f"{number}.png", (100, 200)) for number in range(2)]
    found = Detections(
        np.array([[120, 40, 180, 80], [10, 40, 60, 80]], np.float32),
        np.array([0.3, 0.29], np.float32),
        np.array([1, 0]),
    )
    path = tmp_path / f"found{suffix}"
    write_detections(path, samples, [found, Detections.empty()], ("cat", "dog"))
    image = read(path).astype(int)
    # Twice 100 rows and 4 between, from 200 to 400 pixels of width; gaps of 4.
    assert image.shape == (2 * 204 + 4, 2 * 404, 3)

    def is_drawn(y: int, x: int) -> bool:
        """Whether something is at a pixel of the first picture, or a neighbour, as a JPEG blurs."""
        return bool((abs(image[y - 1 : y + 2, x - 1 : x + 2] - 100) > 40).any())

    # Left sides: annotated at 10 of the upper half; detected at 120 of the lower, where 0.29 is not shown.
    assert is_drawn(120, 20) and not is_drawn(120, 240)
    assert is_drawn(208 + 120, 240) and not is_drawn(208 + 120, 20)
    # The second picture has the annotation alone.
    assert is_drawn(120, 404 + 20) and not is_drawn(208 + 120, 404 + 240)


@pytest.mark.parametrize(
    ("image_size", "shape"),
    [
        # Twice the height and 4 of separation, at 400 pixels of width.
        ((1, 1), (2400, 400)),
        ((1, 300), (8, 400)),
        ((100, 200), (408, 400)),
        ((300, 100), (2400, 397)),
        # A picture as narrow or as flat as this one still has a pixel.
        ((5000, 2), (2400, 1)),
        ((1, 10_000), (1, 400)),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_pictures_of_any_shape_come_out_in_a_moderate_size(
    tmp_path: Path, suffix: str, image_size: tuple[int, int], shape: tuple[int, int]
) -> None:
    sample = dataclasses.replace(sample_of(tmp_path / "a.png", image_size), ground_truth=make_ground_truth([]))
    write_detections(tmp_path / f"found{suffix}", [sample], [Detections.empty()], ("cat",))
    assert read(tmp_path / f"found{suffix}").shape == (shape[0] + 4, shape[1] + 4, 3)


def test_a_picture_too_large_for_its_format_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SSDDeployError, match=r"found\.jpg: a JPG cannot hold a picture of 1x70000 pixels"):
        write_picture(tmp_path / "found.jpg", plain(70_000, 1, 0))
    assert list(tmp_path.iterdir()) == []
