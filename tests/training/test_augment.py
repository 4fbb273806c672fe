"""Augmentation: what is drawn is in range, and wherever the pixels of a box go, its corners go too."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.preprocess import load_image
from ssd_train.training.augment import Geometry, _cropped, _kept, render, sample_colour, sample_geometry
from ssd_train.training.augmentation import Augmentation

# Small, so that even eightfold reduction needs no large pictures.
SIDE = 32
SQUARE = (SIDE, SIDE)

# GluonCV's range of crops.
SCALES = (0.3, 1.0)
# Neither expansion nor crop.
WHOLE = Augmentation(max_expansion=1.0, crop=False)


def random_boxes(rng: np.random.Generator, image_size: tuple[int, int], count: int) -> NDArray[np.float64]:
    """Whole-pixel boxes inside an image, each with an area."""
    height, width = image_size
    x = np.sort(rng.integers(0, width, (count, 2)), axis=1) + [0, 1]
    y = np.sort(rng.integers(0, height, (count, 2)), axis=1) + [0, 1]
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)


def painted(image_size: tuple[int, int], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture whose red, green and blue each show one box: 255 in it, 0 around it."""
    image = np.zeros((*image_size, 3), np.uint8)
    for channel, (x0, y0, x1, y1) in enumerate(boxes.astype(int).tolist()):
        image[y0:y1, x0:x1, channel] = 255
    return image


def decoded_at(image: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """Block means, where the last blocks continue the last pixels, as a JPEG's do."""
    padding = [(0, -side % reduction) for side in image.shape[:2]]
    whole = np.pad(image, [*padding, (0, 0)], mode="edge")
    rows, columns = (side // reduction for side in whole.shape[:2])
    blocks = whole.reshape(rows, reduction, columns, reduction, 3)
    return blocks.mean(axis=(1, 3)).round().astype(np.uint8)


def bright_extent(channel: NDArray[np.uint8]) -> list[int]:
    """Corners around the pixels that are more bright than dark."""
    columns, rows = (np.flatnonzero((channel >= 128).any(axis=axis)) for axis in (0, 1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


# A kernel that skips pixels finds an edge to a pixel, and a reduced pixel across it is on one side or the other.
PIXELS_TOLERANCE = 1.5

SIZES = [(32, 32), (10, 15), (49, 67), (151, 103), (130, 501), (351, 449)]


@pytest.mark.parametrize("image_size", SIZES)
def test_boxes_go_where_their_pixels_go(image_size: tuple[int, int]) -> None:
    boxes_seen, flips, reductions = 0, set(), set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, image_size, 3)
        geometry = sample_geometry(rng, image_size, boxes, SQUARE)
        picture = decoded_at(painted(image_size, boxes), geometry.reduction)
        result = render(picture, geometry, SQUARE)
        flips.add(geometry.is_flipped)
        reductions.add(geometry.reduction)
        for number, box in zip(geometry.kept.tolist(), geometry.boxes, strict=True):
            # Thinner boxes may fall between the pixels that a kernel looks at.
            if (box[2:] - box[:2]).min() < 3:
                continue
            found = bright_extent(result[:, :, number])
            np.testing.assert_allclose(found, box, atol=PIXELS_TOLERANCE, err_msg=f"seed {seed}, {geometry}")
            boxes_seen += 1
    assert boxes_seen > 40
    assert flips == {True, False}
    assert max(reductions) == 8 or max(image_size) < 8 * SIDE


@pytest.mark.parametrize("input_size", [(20, 56), (56, 20)])
def test_boxes_go_where_their_pixels_go_in_a_rectangular_input(input_size: tuple[int, int]) -> None:
    boxes_seen, flips = 0, set()
    for seed in range(120):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, (151, 203), 3)
        geometry = sample_geometry(rng, (151, 203), boxes, input_size)
        result = render(decoded_at(painted((151, 203), boxes), geometry.reduction), geometry, input_size)
        assert result.shape == (*input_size, 3)
        flips.add(geometry.is_flipped)
        for number, box in zip(geometry.kept.tolist(), geometry.boxes, strict=True):
            assert 0 <= box[0] < box[2] <= input_size[1] and 0 <= box[1] < box[3] <= input_size[0]
            if (box[2:] - box[:2]).min() >= 3:
                found = bright_extent(result[:, :, number])
                np.testing.assert_allclose(found, box, atol=PIXELS_TOLERANCE, err_msg=f"seed {seed}, {geometry}")
                boxes_seen += 1
    assert boxes_seen > 60 and flips == {True, False}


def test_a_whole_image_fills_a_rectangular_input_each_side_by_its_own_scale() -> None:
    """40 x 80 pixels into 20 x 160: heights halve and widths double."""
    boxes = np.array([[10, 4, 30, 20]], np.float64)
    seen = set()
    for seed in range(8):
        found = sample_geometry(np.random.default_rng(seed), (40, 80), boxes, (20, 160), WHOLE)
        assert found.place == (0, 0, 160, 20)
        assert found.boxes.tolist() == ([[100, 2, 140, 10]] if found.is_flipped else [[20, 2, 60, 10]])
        seen.add(found.is_flipped)
    assert seen == {True, False}


def test_a_reduced_jpeg_from_disk_puts_pixels_where_the_boxes_say(tmp_path: Path) -> None:
    image_size = (259, 261)
    boxes = np.array([[20, 15, 130, 155], [60, 100, 261, 259], [0, 0, 255, 65]], np.float64)
    path = tmp_path / "picture.jpg"
    image = painted(image_size, boxes)
    options = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    assert cv2.imwrite(str(path), image[:, :, ::-1], options)
    decoded = {reduction: load_image(path, reduction=reduction) for reduction in (1, 2, 4, 8)}
    compared = set()
    for seed in range(120):
        geometry = sample_geometry(np.random.default_rng(seed), image_size, boxes, SQUARE)
        result = render(decoded[geometry.reduction], geometry, SQUARE)
        for number, box in zip(geometry.kept.tolist(), geometry.boxes, strict=True):
            if (box[2:] - box[:2]).min() >= 3:
                found = bright_extent(result[:, :, number])
                np.testing.assert_allclose(found, box, atol=PIXELS_TOLERANCE, err_msg=f"seed {seed}, {geometry}")
                compared.add(geometry.reduction)
    # A crop of this picture always has more than twice the pixels of the input.
    assert compared == {2, 4, 8}


def straight(geometry: Geometry, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spec 7.5, steps 2 to 5, without any rounding: shift, clip to the crop, scale, flip."""
    top, left = geometry.image_offset
    crop_left, crop_top, width, height = geometry.crop
    shifted = boxes + [left, top, left, top] - np.array([crop_left, crop_top] * 2)
    clipped = np.clip(shifted, 0, [width, height, width, height])
    scaled = clipped * (np.array([SIDE / width, SIDE / height] * 2))
    if geometry.is_flipped:
        scaled = np.stack([SIDE - scaled[:, 2], scaled[:, 1], SIDE - scaled[:, 0], scaled[:, 3]], axis=1)
    return scaled


@pytest.mark.parametrize("image_size", [(49, 67), (259, 261)])
def test_boxes_are_those_of_the_plain_formulas_to_a_pixel(image_size: tuple[int, int]) -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, image_size, 5)
        geometry = sample_geometry(rng, image_size, boxes, SQUARE)
        # Half a pixel where the image's edge moves to a whole one, half where the source's moves to a reduced one.
        np.testing.assert_allclose(geometry.boxes, straight(geometry, boxes)[geometry.kept], atol=1.01)


def test_an_image_that_is_not_moved_keeps_its_boxes_exactly() -> None:
    boxes = np.array([[3, 5, 20, 30], [0, 0, 32, 32]], np.float64)
    seen = 0
    for seed in range(300):
        geometry = sample_geometry(np.random.default_rng(seed), (32, 32), boxes, SQUARE)
        if geometry.canvas_size == (32, 32) and geometry.crop == (0, 0, 32, 32):
            expected = [[12, 5, 29, 30], [0, 0, 32, 32]] if geometry.is_flipped else boxes
            np.testing.assert_array_equal(geometry.boxes, expected)
            assert geometry.source == geometry.place == (0, 0, 32, 32)
            seen += 1
    assert seen > 10


@pytest.mark.parametrize("count", [1, 4, 60])
@pytest.mark.parametrize("image_size", [(1, 1), (3, 200), (200, 3), (97, 131), (350, 450)])
def test_kept_boxes_have_their_centre_in_the_crop_and_an_area_in_the_input(
    image_size: tuple[int, int], count: int
) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, image_size, count)
        geometry = sample_geometry(rng, image_size, boxes, SQUARE)
        left, top, width, height = geometry.crop
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2 + geometry.image_offset[::-1]
        inside = ((centres >= [left, top]) & (centres < [left + width, top + height])).all(axis=1)
        assert set(geometry.kept.tolist()) <= set(np.flatnonzero(inside).tolist())
        # On these scales nothing is too small to keep an area.
        assert len(geometry.kept) == inside.sum() >= 1
        assert geometry.boxes.shape == (len(geometry.kept), 4)
        assert (geometry.boxes[:, :2] < geometry.boxes[:, 2:]).all()
        assert (geometry.boxes >= 0).all() and (geometry.boxes <= SIDE).all()


def test_a_box_too_thin_for_float32_is_left_out() -> None:
    boxes = np.array([[10, 10, 10 + 1e-12, 30], [10, 10, 30, 30]], np.float64)
    for seed in range(60):
        geometry = sample_geometry(np.random.default_rng(seed), (32, 32), boxes, SQUARE)
        single = geometry.boxes.astype(np.float32)
        assert (single[:, :2] < single[:, 2:]).all()
        # Nothing is left where a crop keeps the thin one alone.
        assert geometry.kept.tolist() in ([1], [])


@pytest.mark.parametrize("image_size", [(1, 1), (3, 200), (200, 3), (97, 131)])
def test_an_image_without_boxes_gets_a_random_crop(image_size: tuple[int, int]) -> None:
    crops = set()
    for seed in range(60):
        geometry = sample_geometry(np.random.default_rng(seed), image_size, np.zeros((0, 4)), SQUARE)
        assert geometry.boxes.shape == (0, 4) and geometry.kept.shape == (0,)
        crops.add(geometry.crop)
        image = np.full((*image_size, 3), 200, np.uint8)
        assert render(image, geometry, SQUARE).shape == (SIDE, SIDE, 3)
    assert len(crops) > 5


@pytest.mark.parametrize("image_size", [(1, 1), (1, 500), (3, 200), (200, 3), (97, 131), (350, 450)])
def test_the_target_is_what_the_image_fills_and_the_rest_stays_zero(image_size: tuple[int, int]) -> None:
    image = np.full((*image_size, 3), 200, np.uint8)
    smallest = SIDE * SIDE
    for seed in range(40):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry(rng, image_size, random_boxes(rng, image_size, 2), SQUARE)
        result = render(decoded_at(image, geometry.reduction), geometry, SQUARE)
        left, top, right, bottom = geometry.place
        if geometry.is_flipped:
            left, right = SIDE - right, SIDE - left
        assert 0 <= left < right <= SIDE and 0 <= top < bottom <= SIDE
        expected = np.zeros((SIDE, SIDE, 3), np.uint8)
        expected[top:bottom, left:right] = 200
        np.testing.assert_array_equal(result, expected)
        smallest = min(smallest, (right - left) * (bottom - top))
    assert smallest < SIDE * SIDE / 2, "no picture was expanded"


def test_the_picture_is_mirrored_only_where_the_geometry_says_so() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    seen = set()
    for seed in range(300):
        geometry = sample_geometry(np.random.default_rng(seed), SQUARE, np.array([[0.0, 0, SIDE, SIDE]]), SQUARE)
        if geometry.source == geometry.place == (0, 0, SIDE, SIDE):
            expected = image[:, ::-1] if geometry.is_flipped else image
            np.testing.assert_array_equal(render(image, geometry, SQUARE), expected)
            seen.add(geometry.is_flipped)
    assert seen == {True, False}


def test_a_reduction_leaves_at_least_as_many_pixels_as_are_filled() -> None:
    used = set()
    for seed in range(300):
        rng = np.random.default_rng(seed)
        image_size = (int(rng.integers(1, 450)), int(rng.integers(1, 450)))
        geometry = sample_geometry(rng, image_size, random_boxes(rng, image_size, 1), SQUARE)
        x0, y0, x1, y1 = geometry.source
        u0, v0, u1, v1 = geometry.place
        assert 0 <= x0 < x1 <= image_size[1] and 0 <= y0 < y1 <= image_size[0]
        used.add(geometry.reduction)
        if geometry.reduction > 1:
            # Up to a reduced pixel is lost where both edges move to whole ones.
            assert (x1 - x0) / geometry.reduction >= u1 - u0 - 1 and (y1 - y0) / geometry.reduction >= v1 - v0 - 1
        if min((x1 - x0) / (u1 - u0), (y1 - y0) / (v1 - v0)) < 1.9:
            assert geometry.reduction == 1
        for low, high, length in ((x0, x1, image_size[1]), (y0, y1, image_size[0])):
            assert low % geometry.reduction == 0 and (high % geometry.reduction == 0 or high == length)
    assert used == {1, 2, 4, 8}


def test_the_same_seed_gives_the_same_geometry_and_another_seed_another() -> None:
    boxes = np.array([[10, 20, 90, 80]], np.float64)

    def drawn(seed: int) -> str:
        rng = np.random.default_rng(seed)
        return repr((sample_geometry(rng, (97, 131), boxes, SQUARE), sample_colour(rng)))

    assert [drawn(seed) for seed in range(20)] == [drawn(seed) for seed in range(20)]
    assert len({drawn(seed) for seed in range(20)}) == 20


def test_the_boxes_that_are_given_are_not_changed() -> None:
    boxes = np.array([[10, 20, 90, 80]], np.float64)
    for seed in range(20):
        sample_geometry(np.random.default_rng(seed), (97, 131), boxes, SQUARE)
    assert boxes.tolist() == [[10, 20, 90, 80]]


# --- how often, and how far ---

RUNS = 1000


@pytest.fixture(scope="module")
def many() -> list[Geometry]:
    boxes = np.array([[100, 50, 300, 350]], np.float64)
    return [sample_geometry(np.random.default_rng(seed), (400, 600), boxes, SQUARE) for seed in range(RUNS)]


def assert_rate(happened: Sequence[bool], probability: float) -> None:
    """Within four standard deviations, which one in 16000 choices of seeds exceeds."""
    deviation = math.sqrt(probability * (1 - probability) / len(happened))
    assert np.mean(happened) == pytest.approx(probability, abs=4 * deviation)


def test_half_of_the_images_are_flipped_and_half_expanded(many: list[Geometry]) -> None:
    assert_rate([geometry.is_flipped for geometry in many], 0.5)
    assert_rate([geometry.canvas_size != (400, 600) for geometry in many], 0.5)
    both = [geometry.is_flipped and geometry.canvas_size != (400, 600) for geometry in many]
    assert_rate(both, 0.25)


def test_the_five_interpolations_take_equal_parts(many: list[Geometry]) -> None:
    for code in range(5):
        assert_rate([geometry.interpolation == code for geometry in many], 0.2)


def test_a_canvas_is_one_to_four_times_the_image_in_both_directions_alike(many: list[Geometry]) -> None:
    ratios = []
    for geometry in many:
        height, width = geometry.canvas_size
        top, left = geometry.image_offset
        assert 0 <= top <= height - 400 and 0 <= left <= width - 600
        if geometry.canvas_size != (400, 600):
            ratios.append(height / 400)
            # Both sides are rounded down to whole pixels.
            assert width / 600 == pytest.approx(height / 400, abs=1 / 400)
    assert 1 <= min(ratios) < 1.05 and 3.95 < max(ratios) < 4
    # The mean of U(1, 4), whose standard deviation is 3 / sqrt(12).
    assert np.mean(ratios) == pytest.approx(2.5, abs=4 * 3 / math.sqrt(12 * len(ratios)))


@pytest.mark.parametrize(("max_expansion", "largest"), [(1.0, 1.0), (2.0, 2.0)])
def test_the_largest_canvas_is_a_choice(max_expansion: float, largest: float) -> None:
    ratios = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        geometry = sample_geometry(
            rng, (400, 600), np.array([[100.0, 50, 300, 350]]), SQUARE, Augmentation(max_expansion=max_expansion)
        )
        ratios.append(geometry.canvas_size[0] / 400)
    assert largest - 0.05 < max(ratios) <= largest


def test_the_image_may_lie_at_either_end_of_the_canvas() -> None:
    ends = {"first": 0, "last": 0}
    for seed in range(400):
        geometry = sample_geometry(np.random.default_rng(seed), (1, 2), np.array([[0.0, 0, 2, 1]]), SQUARE)
        room = geometry.canvas_size[0] - 1
        ends["first"] += room > 0 and geometry.image_offset[0] == 0
        ends["last"] += room > 0 and geometry.image_offset[0] == room
    assert min(ends.values()) > 20


def test_crops_keep_to_their_ranges_of_scale_and_aspect() -> None:
    shares, aspects = [], []
    # A box over nearly nothing, so that every crop is as likely; large, so that whole pixels hardly matter.
    for seed in range(600):
        (left, top, width, height), _, _ = _cropped(np.random.default_rng(seed), (4000, 6000), np.zeros((0, 4)), SCALES)
        assert 0 <= left <= 6000 - width and 0 <= top <= 4000 - height
        shares.append(math.sqrt(width / 6000 * height / 4000))
        aspects.append((width / 6000) / (height / 4000))
    assert 0.299 < min(shares) < 0.32 and 0.95 < max(shares) <= 1
    assert 0.499 < min(aspects) < 0.55 and 1.8 < max(aspects) < 2.001
    # The mean of U(0.3, 1), whose standard deviation is 0.7 / sqrt(12).
    assert np.mean(shares) == pytest.approx(0.65, abs=4 * 0.7 / math.sqrt(12 * len(shares)))


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def plain_crop(
    rng: np.random.Generator, size: tuple[int, int], boxes: list[list[float]]
) -> tuple[list[int], list[int], list[list[float]]]:
    """Spec 7.5, step 3, a trial at a time; numbers are drawn in the order of the function under test."""
    height, width = size
    scales = rng.uniform(0.3, 1, (6, 50))
    aspects = rng.uniform(np.maximum(0.5, scales**2), np.minimum(2, 1 / scales**2))
    tops, lefts = rng.random((6, 50)), rng.random((6, 50))
    candidates = [[0, 0, width, height]]
    for row, lowest in enumerate((0.1, 0.3, 0.5, 0.7, 0.9, None)):
        for trial in range(50):
            crop_height = max(int(height * scales[row, trial] / math.sqrt(aspects[row, trial])), 1)
            crop_width = max(int(width * scales[row, trial] * math.sqrt(aspects[row, trial])), 1)
            top = int(tops[row, trial] * max(height - crop_height, 1))
            left = int(lefts[row, trial] * max(width - crop_width, 1))
            corners = [left, top, left + crop_width, top + crop_height]
            if lowest is None or min(iou(box, corners) for box in boxes) >= lowest:
                candidates.append([left, top, crop_width, crop_height])
                break
    for number in rng.permutation(len(candidates)).tolist():
        left, top, crop_width, crop_height = candidates[number]
        kept, clipped = [], []
        for index, (x0, y0, x1, y1) in enumerate(boxes):
            if left <= (x0 + x1) / 2 < left + crop_width and top <= (y0 + y1) / 2 < top + crop_height:
                part = [max(x0, left), max(y0, top), min(x1, left + crop_width), min(y1, top + crop_height)]
                if part[0] < part[2] and part[1] < part[3]:
                    kept.append(index)
                    clipped.append(part)
        if kept:
            return candidates[number], kept, clipped
    return candidates[0], list(range(len(boxes))), boxes


@pytest.mark.parametrize(("image_size", "count"), [((97, 131), 1), ((97, 131), 7), ((5, 4), 1), ((1, 1), 1)])
def test_a_crop_is_the_one_that_a_trial_by_trial_search_finds(image_size: tuple[int, int], count: int) -> None:
    crops = set()
    for seed in range(25):
        boxes = random_boxes(np.random.default_rng(seed), image_size, count)
        crop, kept, clipped = _cropped(np.random.default_rng(1000 + seed), image_size, boxes, SCALES)
        expected = plain_crop(np.random.default_rng(1000 + seed), image_size, boxes.tolist())
        assert list(crop) == expected[0]
        assert kept.tolist() == expected[1]
        assert clipped.tolist() == expected[2]
        crops.add(crop)
    assert len(crops) > 5 or image_size == (1, 1)


def test_clipping_to_a_crop_is_that_of_the_golden_vector() -> None:
    """Golden vector 13: of three boxes only the first survives a crop of 10 x 10 at (5, 5), as its corner."""
    boxes = np.array([[0, 0, 10, 10], [4, 4, 30, 30], [0, 0, 4, 4]], np.float64)
    kept, clipped = _kept(boxes, (5, 5, 10, 10))
    assert kept.tolist() == [0]
    assert (clipped - 5).tolist() == [[0, 0, 5, 5]]


def test_boxes_that_no_crop_keeps_stay_with_the_whole_image() -> None:
    # Wholly outside: the rule of last resort.
    boxes = np.array([[200, 200, 220, 220]], np.float64)
    crop, kept, clipped = _cropped(np.random.default_rng(0), (50, 60), boxes, SCALES)
    assert (crop, kept.tolist(), clipped.tolist()) == ((0, 0, 60, 50), [0], boxes.tolist())


# --- colour ---


class Chosen:
    """A generator that gives what a test chose: which steps apply, by how much, and which order."""

    def __init__(
        self, brightness: float | None, contrast: float | None, saturation: float | None, hue: float | None, coin: float
    ) -> None:
        self.amounts = {(-32, 32): brightness, (0.5, 1.5): contrast, (-18, 18): hue}
        self.applies = [0.49 if amount is not None else 0.5 for amount in (brightness, contrast, saturation, hue)]
        self.same_range = [amount for amount in (contrast, saturation) if amount is not None]
        self.coin = coin

    def random(self, count: int | None = None) -> Any:
        return self.coin if count is None else np.array(self.applies[:count])

    def uniform(self, low: float, high: float) -> float:
        # Contrast and saturation have one range, contrast comes first.
        amount = self.same_range.pop(0) if (low, high) == (0.5, 1.5) else self.amounts[low, high]
        assert amount is not None and low <= amount <= high
        return amount


def distorted(rgb: Sequence[float], chosen: dict[str, float | None], contrast_first: bool) -> list[float]:
    """Spec 7.5, step 1, one pixel and one step at a time."""
    red, green, blue = rgb
    if chosen["brightness"] is not None:
        red, green, blue = (value + chosen["brightness"] for value in (red, green, blue))
    order = ["contrast", "saturation", "hue"] if contrast_first else ["saturation", "hue", "contrast"]
    for step in order:
        amount = chosen[step]
        if amount is None:
            continue
        if step == "contrast":
            red, green, blue = red * amount, green * amount, blue * amount
        elif step == "saturation":
            gray = 0.299 * red + 0.587 * green + 0.114 * blue
            red, green, blue = (value * amount + gray * (1 - amount) for value in (red, green, blue))
        else:
            luma = 0.299 * red + 0.587 * green + 0.114 * blue
            i = 0.596 * red - 0.274 * green - 0.321 * blue
            q = 0.211 * red - 0.523 * green + 0.311 * blue
            cosine, sine = math.cos(amount * math.pi), math.sin(amount * math.pi)
            i, q = cosine * i - sine * q, sine * i + cosine * q
            red = luma + 0.956 * i + 0.621 * q
            green = luma - 0.272 * i - 0.647 * q
            blue = luma - 1.107 * i + 1.705 * q
    return [red, green, blue]


PIXELS = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 200, 30), (12, 34, 250)]


@pytest.mark.parametrize("coin", [0.49, 0.5])
@pytest.mark.parametrize(
    "amounts",
    [
        (None, None, None, None),
        (-20.0, None, None, None),
        (None, 1.3, None, None),
        (None, None, 0.6, None),
        (None, None, None, 0.25),
        (None, None, None, 17.3),
        (31.0, 0.7, None, None),
        (12.5, 1.4, 0.55, -7.1),
        (-32.0, 0.5, 1.5, 0.5),
    ],
)
def test_a_colour_map_is_the_steps_one_after_another(amounts: tuple[float | None, ...], coin: float) -> None:
    matrix = sample_colour(Chosen(*amounts, coin))  # type: ignore[arg-type]
    assert matrix.shape == (3, 4) and matrix.dtype == np.float32
    chosen = dict(zip(("brightness", "contrast", "saturation", "hue"), amounts, strict=True))
    for rgb in PIXELS:
        expected = distorted(rgb, chosen, contrast_first=coin < 0.5)
        # float32 of coefficients up to 4, times 255, in four terms.
        np.testing.assert_allclose(matrix[:, :3] @ np.float64(rgb) + matrix[:, 3], expected, atol=2e-4)


def test_a_colour_map_worked_by_hand() -> None:
    """(100, 0, 0), brightness +10, contrast 1.25: (137.5, 12.5, 12.5), gray 49.875; saturation 0.5 is half of each."""
    matrix = sample_colour(Chosen(10.0, 1.25, 0.5, None, 0.0))  # type: ignore[arg-type]
    result = matrix[:, :3] @ np.float64([100, 0, 0]) + matrix[:, 3]
    np.testing.assert_allclose(result, [93.6875, 31.1875, 31.1875], atol=1e-4)


def test_each_colour_step_happens_half_of_the_time() -> None:
    matrices = np.stack([sample_colour(np.random.default_rng(seed)) for seed in range(RUNS)]).astype(np.float64)
    is_identity = (matrices == np.eye(3, 4)).all(axis=(1, 2))
    assert_rate(is_identity.tolist(), 1 / 16)
    assert_rate((matrices[:, :, 3] == 0).all(axis=1).tolist(), 1 / 2)
    # Saturation and hue keep the map from being a multiple of one.
    multiples = matrices[:, :, :3] / matrices[:, :1, :1]
    assert_rate((multiples == np.eye(3)).all(axis=(1, 2)).tolist(), 1 / 4)
    # Alone, brightness and contrast show their ranges.
    alone = matrices[(multiples == np.eye(3)).all(axis=(1, 2))]
    contrasts, shifts = alone[:, 0, 0], alone[:, 0, 3] / alone[:, 0, 0]
    assert 0.5 <= contrasts.min() < 0.6 and 1.4 < contrasts.max() <= 1.5
    assert -32 <= shifts.min() < -28 and 28 < shifts.max() <= 32


def test_without_crop_and_expansion_the_whole_image_is_resized_and_every_box_stays() -> None:
    boxes = np.array([[0, 0, 40, 30], [100, 50, 200, 100], [150, 80, 199, 99]], np.float64)
    flips = set()
    for seed in range(20):
        found = sample_geometry(np.random.default_rng(seed), (100, 200), boxes, (300, 300), WHOLE)
        assert found.canvas_size == (100, 200) and found.crop == (0, 0, 200, 100)
        assert found.source == (0, 0, 200, 100) and found.place == (0, 0, 300, 300)
        assert found.kept.tolist() == [0, 1, 2]
        scaled = boxes * [1.5, 3, 1.5, 3]
        if found.is_flipped:
            scaled[:, [0, 2]] = 300 - scaled[:, [2, 0]]
        np.testing.assert_allclose(found.boxes, scaled, atol=1e-9)
        flips.add(found.is_flipped)
    assert flips == {True, False}


# --- ranges and switches ---


def test_the_defaults_draw_what_they_drew_before_there_was_a_choice() -> None:
    """Numbers noted down from the code that had no ranges and switches."""
    rng = np.random.default_rng(12)
    geometry = sample_geometry(rng, (97, 131), np.array([[10.0, 20, 90, 80]]), SQUARE)
    drawn = (geometry.canvas_size, geometry.image_offset, geometry.crop, geometry.is_flipped, geometry.interpolation)
    assert drawn == ((372, 503), (17, 70), (35, 31, 463, 338), False, 0)
    assert geometry.boxes.tolist() == [[2.687022900763359, 0.3950617283950617, 8.18320610687023, 6.320987654320987]]
    expected = [
        [0.8475020527839661, 0.12769798934459686, 0.024799950420856476, 19.19349479675293],
        [0.06504548341035843, 0.9101545810699463, 0.024799950420856476, 19.19349479675293],
        [0.06504548341035843, 0.12769798934459686, 0.8072565197944641, 19.19349479675293],
    ]
    # Products of three matrices, which another BLAS may add up in another order.
    np.testing.assert_allclose(sample_colour(rng), expected, rtol=1e-6)


@pytest.mark.parametrize("input_size", [SQUARE, (20, 56)])
def test_boxes_go_with_their_pixels_upside_down_too(input_size: tuple[int, int]) -> None:
    boxes_seen, turns = 0, set()
    for seed in range(80):
        rng = np.random.default_rng(seed)
        boxes = random_boxes(rng, (151, 103), 3)
        geometry = sample_geometry(rng, (151, 103), boxes, input_size, Augmentation(vertical_flip=0.5))
        result = render(decoded_at(painted((151, 103), boxes), geometry.reduction), geometry, input_size)
        turns.add((geometry.is_flipped, geometry.is_upside_down))
        for number, box in zip(geometry.kept.tolist(), geometry.boxes, strict=True):
            if (box[2:] - box[:2]).min() >= 3:
                found = bright_extent(result[:, :, number])
                np.testing.assert_allclose(found, box, atol=PIXELS_TOLERANCE, err_msg=f"seed {seed}, {geometry}")
                boxes_seen += 1
    assert boxes_seen > 40 and len(turns) == 4


def test_the_place_of_an_image_is_mirrored_with_it() -> None:
    image = np.full((97, 131, 3), 200, np.uint8)
    for seed in range(30):
        geometry = sample_geometry(
            np.random.default_rng(seed), (97, 131), np.zeros((0, 4)), (20, 56), Augmentation(flip=1, vertical_flip=1)
        )
        expected = np.zeros((20, 56, 3), np.uint8)
        left, top, right, bottom = geometry.flipped_place((20, 56))
        expected[top:bottom, left:right] = 200
        np.testing.assert_array_equal(render(decoded_at(image, geometry.reduction), geometry, (20, 56)), expected)


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_the_shares_of_mirrored_images_are_choices(share: float) -> None:
    boxes = np.array([[100.0, 50, 300, 350]])
    for name, shown in (("flip", "is_flipped"), ("vertical_flip", "is_upside_down")):
        augmentation = Augmentation(**{name: share})
        drawn = [
            sample_geometry(np.random.default_rng(s), (400, 600), boxes, SQUARE, augmentation) for s in range(RUNS)
        ]
        assert_rate([getattr(geometry, shown) for geometry in drawn], share)


def test_crops_keep_to_the_range_that_is_chosen() -> None:
    augmentation = Augmentation(max_expansion=1, min_crop=0.6, max_crop=0.7)
    shares = []
    for seed in range(200):
        geometry = sample_geometry(np.random.default_rng(seed), (4000, 6000), np.zeros((0, 4)), SQUARE, augmentation)
        shares.append(math.sqrt(geometry.crop[2] / 6000 * geometry.crop[3] / 4000))
    assert 0.599 < min(shares) < 0.61 and 0.69 < max(shares) <= 0.7


def test_without_colours_the_map_is_the_identity() -> None:
    for augmentation in (Augmentation(colour=False), Augmentation(brightness=0, contrast=0, saturation=0, hue=0)):
        for seed in range(20):
            np.testing.assert_array_equal(sample_colour(np.random.default_rng(seed), augmentation), np.eye(3, 4))


def test_each_colour_step_has_a_range_of_its_own() -> None:
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}

    def maps(**ranges: float) -> NDArray[np.float64]:
        augmentation = Augmentation(**off | ranges)
        return np.stack([sample_colour(np.random.default_rng(seed), augmentation) for seed in range(300)]).astype(float)

    shifts = maps(brightness=5.0)
    assert 4.8 < np.abs(shifts[:, :, 3]).max() <= 5 and (shifts[:, :, :3] == np.eye(3)).all()
    factors = maps(contrast=0.25)[:, [0, 1, 2], [0, 1, 2]]
    assert 0.75 <= factors.min() < 0.76 and 1.24 < factors.max() <= 1.25
    # A saturation of s keeps grey, and (1 - s) of the luma goes to the other channels.
    saturated = maps(saturation=0.5)
    np.testing.assert_allclose(saturated[:, :, :3].sum(axis=2), 1, atol=1e-6)
    amounts = 1 - saturated[:, 0, 1] / 0.587
    assert 0.5 <= amounts.min() < 0.52 and 1.48 < amounts.max() <= 1.501
    # A hue turn of at most 0.1 half turns: the chroma of any colour turns by up to 18 degrees.
    turned = maps(hue=0.1)[:, :, :3] @ np.array([1.0, 0, 0])
    i, q = turned @ [0.596, -0.274, -0.321], turned @ [0.211, -0.523, 0.311]
    angles = np.degrees(np.arctan2(q, i)) - math.degrees(math.atan2(0.211, 0.596))
    assert 17 < np.abs(angles).max() < 18.5
