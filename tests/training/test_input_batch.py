"""Network input from 8-bit images: the colour map, then the normalisation, and nothing around the image."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssd_train.training.batches import Batch
from ssd_train.training.input_batch import _with_opencv, _with_torch, input_batch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 12
SQUARE = (SIDE, SIDE)
TARGETS = [(0, 0, SIDE, SIDE), (3, 2, 9, 11), (0, 5, 1, 6), (11, 11, 12, 12)]
# Of a network input of 8 rows and 12 columns.
RECTANGLE = (8, SIDE)
RECTANGULAR_TARGETS = [(0, 0, SIDE, 8), (3, 2, 11, 7), (10, 7, 12, 8)]


def batch_of(places: list[tuple[int, int, int, int]], seed: int = 0, size: tuple[int, int] = SQUARE) -> Batch:
    """Noise everywhere, outside of the places too; colour maps of every sign."""
    rng = np.random.default_rng(seed)
    count = len(places)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)),
        places=torch.tensor(places, dtype=torch.int64).view(-1, 4),
        colours=torch.from_numpy(rng.uniform(-2, 2, (count, 3, 4)).astype(np.float32) * np.float32([1, 1, 1, 20])),
        boxes=torch.zeros(count, 1, 4),
        labels=torch.full((count, 1), -1),
        paths=("",) * count,
        bad=(),
    )


def plainly(batch: Batch) -> NDArray[np.float64]:
    """Pixel by pixel in float64: colour map, / 255, - mean, / std."""
    images, colours = batch.images.numpy(), batch.colours.numpy().astype(np.float64)
    result = np.zeros((len(images), 3, *images.shape[1:3]))
    for number, (left, top, right, bottom) in enumerate(batch.places.tolist()):
        for y in range(top, bottom):
            for x in range(left, right):
                rgb = images[number, y, x].astype(np.float64)
                coloured = colours[number, :, :3] @ rgb + colours[number, :, 3]
                result[number, :, y, x] = (coloured / 255 - MEAN) / STD
    return result


@pytest.mark.parametrize(("places", "size"), [(TARGETS, SQUARE), (RECTANGULAR_TARGETS, RECTANGLE)])
def test_it_is_the_colour_map_and_then_the_normalisation(
    places: list[tuple[int, int, int, int]], size: tuple[int, int]
) -> None:
    batch = batch_of(places, size=size)
    result = input_batch(batch, MEAN, STD)
    assert result.shape == (len(places), 3, *size) and result.dtype == torch.float32
    # Terms of up to 9 in float32.
    np.testing.assert_allclose(result.numpy(), plainly(batch), atol=1e-5)


def test_a_grey_pixel_without_distortion_has_the_golden_values() -> None:
    batch = batch_of([(0, 0, SIDE, SIDE)])
    batch.images.fill_(128)
    batch.colours.copy_(torch.eye(3, 4))
    # Golden vector 12; six decimals are given.
    expected = np.broadcast_to(np.array([0.074065, 0.205182, 0.426493])[:, None, None], (3, SIDE, SIDE))
    np.testing.assert_allclose(input_batch(batch, MEAN, STD)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_outside_of_the_image_is_exactly_the_mean_color(target: tuple[int, int, int, int]) -> None:
    result = input_batch(batch_of([target]), MEAN, STD)[0].numpy()
    left, top, right, bottom = target
    is_outside = np.ones((SIDE, SIDE), bool)
    is_outside[top:bottom, left:right] = False
    assert (result[:, is_outside] == 0).all()
    assert (result[:, ~is_outside] != 0).any()


@pytest.mark.parametrize(
    ("places", "size"), [(TARGETS[:1], SQUARE), (TARGETS, SQUARE), (RECTANGULAR_TARGETS, RECTANGLE)]
)
def test_both_ways_of_computing_agree(places: list[tuple[int, int, int, int]], size: tuple[int, int]) -> None:
    batch = batch_of(places, seed=3, size=size)
    scales = torch.tensor(STD)
    matrix = batch.colours[:, :, :3] / (255 * scales[:, None])
    offset = (batch.colours[:, :, 3] / 255 - torch.tensor(MEAN)) / scales
    ours, other = torch.full((len(places), *size, 3), torch.nan), _with_torch(batch, matrix, offset)
    _with_opencv(batch, matrix, offset, ours)
    assert ours.shape == other.shape == (len(places), *size, 3)
    assert ours.dtype == other.dtype == torch.float32
    # Sums of the same four float32 terms in another order.
    torch.testing.assert_close(ours, other, rtol=0, atol=1e-5)


def test_the_batch_is_not_changed() -> None:
    batch = batch_of(TARGETS)
    before = (batch.images.clone(), batch.colours.clone())
    input_batch(batch, MEAN, STD)
    assert torch.equal(batch.images, before[0]) and torch.equal(batch.colours, before[1])


def test_the_memory_of_an_earlier_batch_is_used_again_where_it_fits() -> None:
    earlier = input_batch(batch_of(TARGETS), MEAN, STD)
    batch = batch_of(TARGETS[::-1], seed=5)
    expected = input_batch(batch, MEAN, STD)
    again = input_batch(batch, MEAN, STD, over=earlier)
    assert again.data_ptr() == earlier.data_ptr() and torch.equal(again, expected)
    smaller = input_batch(batch_of(TARGETS[:2]), MEAN, STD, over=again)
    assert smaller.shape[0] == 2 and torch.equal(again, expected)
