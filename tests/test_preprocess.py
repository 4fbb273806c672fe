import dataclasses
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ssd_train.errors import ImageError, SpecError
from ssd_train.preprocess import interpolation_for, load_image, preprocess
from ssd_train.resize_rules import RESIZE_RULES
from ssd_train.spec import DetectorSpec


def spec_of(height: int, width: int) -> DetectorSpec:
    return DetectorSpec(network="any", class_names=("thing",), input_size=(height, width))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(suffix: str, image: np.ndarray) -> bytes:
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """Insert an Exif APP1 segment whose only entry is tag 0x0112 (Exif 2.3, section 4.6.2)."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    payload = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


@pytest.mark.parametrize(
    ("image_size", "input_size", "code"),
    [
        # Golden vector 11, from GluonCV; 1 linear, 2 cubic, 3 area.
        ((100, 100), (200, 200), 2),
        ((100, 100), (50, 50), 3),
        ((100, 100), (200, 50), 1),
        ((100, 100), (100, 200), 1),
        ((100, 100), (100, 100), 1),
        ((100, 100), (50, 100), 1),
    ],
)
def test_interpolation_is_chosen_by_how_both_sides_change(
    image_size: tuple[int, int], input_size: tuple[int, int], code: int
) -> None:
    assert interpolation_for(image_size, input_size) == code


@pytest.mark.parametrize(
    ("input_size", "code"), [((60, 80), cv2.INTER_CUBIC), ((12, 9), cv2.INTER_AREA), ((60, 9), cv2.INTER_LINEAR)]
)
def test_resize_happens_on_8_bit_pixels_with_the_chosen_interpolation(input_size: tuple[int, int], code: int) -> None:
    image = noise(30, 40)
    height, width = input_size
    resized = cv2.resize(image, (width, height), interpolation=code)
    assert resized.dtype == np.uint8
    expected = (resized / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    result = preprocess(image, spec_of(height, width))
    assert result.shape == (3, height, width)
    # float32 rounding of values up to 2.7.
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-6)


def test_a_grey_pixel_normalises_to_the_golden_values() -> None:
    result = preprocess(np.full((7, 5, 3), 128, np.uint8), spec_of(3, 4))
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    # Golden vector 12, from GluonCV; six decimals are given.
    np.testing.assert_allclose(result[:, 0, 0], (0.074065, 0.205182, 0.426493), atol=1e-6)


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 2] = 255  # OpenCV writes BGR
    (tmp_path / "a.png").write_bytes(encoded(".png", red))
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    data = encoded(suffix, noise(64, 64))
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    assert load_image(path).shape == (64, 64, 3)
    for part in (0.02, 0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(ImageError, match=path.name):
            load_image(path)


def test_a_cut_off_jpeg_with_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    thumbnail, data = encoded(".jpg", noise(8, 8)), encoded(".jpg", noise(64, 64))
    payload = b"Thumb\0" + thumbnail
    data = data[:2] + b"\xff\xe2" + struct.pack(">H", len(payload) + 2) + payload + data[2:]
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert load_image(path).shape == (64, 64, 3)
    path.write_bytes(data[: len(data) * 3 // 4])
    with pytest.raises(ImageError, match="cut off"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_files_that_are_no_image_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match="a.jpg"):
        load_image(tmp_path / "a.jpg")


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="b.jpg: cannot be read"):
        load_image(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)


def test_a_grey_image_is_repeated_over_three_channels(tmp_path: Path) -> None:
    grey = noise(5, 6)[:, :, 0]
    (tmp_path / "a.png").write_bytes(encoded(".png", grey))
    image = load_image(tmp_path / "a.png")
    assert image.shape == (5, 6, 3)
    assert all((image[:, :, channel] == grey).all() for channel in range(3))


def test_an_alpha_channel_is_dropped_without_blending(tmp_path: Path) -> None:
    image = np.dstack([noise(5, 6), np.zeros((5, 6), np.uint8)])
    (tmp_path / "a.png").write_bytes(encoded(".png", image))
    assert (load_image(tmp_path / "a.png") == image[:, :, 2::-1]).all()


def test_16_bit_values_keep_their_upper_byte(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint16)
    image[0, 0] = (0x12FF, 0x3400, 0xFFFF)  # BGR
    (tmp_path / "a.png").write_bytes(encoded(".png", image))
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [0xFF, 0x34, 0x12]


def test_exif_orientation_turns_the_picture_unless_told_not_to(tmp_path: Path) -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255  # the left half is white
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(encoded(".jpg", image), 6))
    turned = load_image(path)
    # Orientation 6: turn clockwise by 90 degrees, so left becomes top.
    assert turned.shape == (32, 16, 3)
    assert turned[:14].min() > 240
    assert turned[18:].max() < 15
    stored = load_image(path, apply_orientation=False)
    assert stored.shape == (16, 32, 3)
    assert stored[:, :14].min() > 240


@pytest.mark.parametrize("size", [(1, 1), (1, 10000), (3, 10000)])
def test_extreme_sizes_become_a_network_input(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(encoded(".png", np.full((*size, 3), 128, np.uint8)))
    result = preprocess(load_image(tmp_path / "a.png"), spec_of(300, 300))
    assert result.shape == (3, 300, 300)
    np.testing.assert_allclose(result[0], 0.074065, atol=1e-6)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        [[[0, 0, 0]]],
    ],
)
def test_other_arrays_are_refused_with_what_was_expected(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"RGB uint8.*\(H, W, 3\)"):
        preprocess(image, spec_of(8, 8))


def test_the_input_image_is_not_changed() -> None:
    image = noise(8, 8)
    before = image.copy()
    preprocess(image, spec_of(8, 8))
    assert (image == before).all()


def test_what_cameras_append_to_a_jpeg_does_not_make_it_cut_off(tmp_path: Path) -> None:
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))[1].tobytes()
    path = tmp_path / "motion.jpg"
    # A video behind the picture holds any bytes, markers that open a scan among them.
    path.write_bytes(whole + b"video \xff\xda \xff\xd8" * 100)
    assert load_image(path).shape == (60, 80, 3)


def test_a_jpeg_whose_preview_is_whole_but_whose_picture_is_not_is_cut_off(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    whole, preview = (
        cv2.imencode(".jpg", rng.integers(0, 256, (*size, 3), np.uint8))[1].tobytes() for size in ((60, 80), (6, 8))
    )
    segment = b"\xff\xe1" + (len(preview) + 2).to_bytes(2, "big") + preview
    path = tmp_path / "preview.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:])
    assert load_image(path).shape == (60, 80, 3)
    path.write_bytes((whole[:2] + segment + whole[2:])[:-200])
    with pytest.raises(ImageError, match="preview.jpg: the image is cut off"):
        load_image(path)


def test_a_bmp_is_cut_off_by_its_pixels_and_not_by_what_its_header_says_of_the_file(tmp_path: Path) -> None:
    data = cv2.imencode(".bmp", np.zeros((10, 7, 3), np.uint8))[1].tobytes()
    path = tmp_path / "picture.bmp"
    path.write_bytes(data[:2] + (10**6).to_bytes(4, "little") + data[6:])
    assert load_image(path).shape == (10, 7, 3)
    path.write_bytes(data[:-30])
    with pytest.raises(ImageError, match="cut off"):
        load_image(path)


def test_a_bmp_with_the_short_header_of_os2_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    # Where a longer header says "not compressed" and gives a number of bits, this one has its first pixels.
    pixels[-1, 0], pixels[-1, 1:3] = 24, 0
    rows = pixels[::-1, :, ::-1].tobytes()  # bottom row first, blue first; 24 bytes a row need no padding
    header = (12).to_bytes(4, "little") + b"".join(value.to_bytes(2, "little") for value in (8, 4, 1, 24))
    start = (26).to_bytes(4, "little")
    path = tmp_path / "os2.bmp"
    path.write_bytes(b"BM" + (26 + len(rows)).to_bytes(4, "little") + bytes(4) + start + header + rows)
    np.testing.assert_array_equal(load_image(path), pixels)


# --- decoding at a fraction of the size ---

REDUCTIONS = (1, 2, 4, 8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture of slow waves, whose block means any decoder finds."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / 23), 128 + 100 * np.cos(y / 31), 128 + 100 * np.sin((x + y) / 37)]
    return np.stack(waves, axis=2).round().astype(np.uint8)


def block_means(image: np.ndarray, reduction: int) -> np.ndarray:
    """Means of blocks, a block at the end over the pixels that it has."""
    rows, columns = (range(0, side, reduction) for side in image.shape[:2])
    blocks = [[image[y : y + reduction, x : x + reduction].mean(axis=(0, 1)) for x in columns] for y in rows]
    return np.array(blocks)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
@pytest.mark.parametrize("size", [(64, 96), (63, 97), (65, 41), (1, 1), (3, 200), (8, 7)])
def test_a_reduced_image_is_the_means_of_blocks_and_rounded_up_in_size(
    tmp_path: Path, suffix: str, size: tuple[int, int]
) -> None:
    image = smooth(*size)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, image[:, :, ::-1]))
    for reduction in REDUCTIONS:
        reduced = load_image(path, reduction=reduction)
        assert reduced.shape == (-(-size[0] // reduction), -(-size[1] // reduction), 3)
        assert reduced.dtype == np.uint8 and reduced.flags.c_contiguous
        rows, columns = (side // reduction for side in size)  # a JPEG fills the blocks of its edge as it likes
        difference = np.abs(reduced - block_means(image, reduction))[:rows, :columns]
        # Waves of 100 rise by up to 4.4 a pixel. Where sides are no multiple, the blocks of what is no JPEG are
        # narrower and in the end lie up to a block earlier; a JPEG's stay where they are, but for lost detail.
        allowed = 6 + (2 if suffix == ".jpg" else 4.4) * reduction
        assert difference.max(initial=0) <= allowed


def test_not_reducing_is_the_usual_decoding(tmp_path: Path) -> None:
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(encoded(suffix, noise(33, 47)))
        np.testing.assert_array_equal(load_image(path, reduction=1), load_image(path))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_reduced_jpeg_is_turned_as_the_whole_one(tmp_path: Path, reduction: int) -> None:
    image = np.zeros((30, 65, 3), np.uint8)
    image[:, :32] = 255  # the left half is white
    path = tmp_path / "a.jpg"
    path.write_bytes(with_orientation(encoded(".jpg", image), 6))
    rows, columns = -(-65 // reduction), -(-30 // reduction)
    # Orientation 6: turn clockwise by 90 degrees, so left becomes top.
    turned = load_image(path, reduction=reduction)
    assert turned.shape == (rows, columns, 3)
    assert turned[: rows // 2 - 1].min() > 240 and turned[rows // 2 + 2 :].max() < 15
    stored = load_image(path, apply_orientation=False, reduction=reduction)
    assert stored.shape == (columns, rows, 3)
    assert stored[:, : rows // 2 - 1].min() > 240 and stored[:, rows // 2 + 2 :].max() < 15


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_reduced_image_that_is_grey_or_cut_off_is_treated_as_a_whole_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(encoded(suffix, np.full((40, 40), 77, np.uint8)))
    reduced = load_image(path, reduction=4)
    assert reduced.shape == (10, 10, 3)
    assert np.abs(reduced.astype(int) - 77).max() <= 1
    data = encoded(suffix, noise(64, 64))
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cut off"):
        load_image(path, reduction=4)


def test_only_the_fractions_of_jpeg_decoders_are_known(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(".jpg", noise(16, 16)))
    with pytest.raises(KeyError):
        load_image(path, reduction=3)


@pytest.mark.parametrize("image_size", [(75, 101), (31, 40), (1200, 33), (64, 48), (1, 2000)])
def test_float_linear_is_what_pytorch_interpolates(image_size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*image_size, 3), np.uint8)
    mean, std = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3
    rule = RESIZE_RULES["float-linear"]
    spec = DetectorSpec(network="n", class_names=("a",), input_size=(64, 48), mean=mean, std=std, resize=rule.text)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    planes = (planes - torch.tensor(mean).reshape(3, 1, 1)) * 255
    expected = torch.nn.functional.interpolate(planes, size=(64, 48), mode="bilinear", align_corners=False)
    # Of values up to 150: a few units in the last place.
    np.testing.assert_allclose(preprocess(image, spec), expected[0].numpy(), rtol=0, atol=5e-5)


def test_linear_stays_linear_where_gluoncv_takes_the_mean_of_an_area() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0] = 200
    spec = DetectorSpec(
        network="n", class_names=("a",), input_size=(1, 1), mean=(0, 0, 0), std=(1, 1, 1),
        resize=RESIZE_RULES["linear"].text,
    )  # fmt: skip
    # The middle of the picture lies between four pixels that are all black; the mean of all is 12.5.
    assert preprocess(image, spec).tolist() == [[[0.0]], [[0.0]], [[0.0]]]
    area = dataclasses.replace(spec, resize=RESIZE_RULES["gluoncv"].text)
    assert preprocess(image, area)[0, 0, 0] * 255 == pytest.approx(12.5, abs=0.5)


def test_no_8_bit_input_fits_a_rule_on_floats() -> None:
    with pytest.raises(SpecError, match=r"^input_kind uint8 does not fit .* use float32$"):
        DetectorSpec(
            network="n", class_names=("a",), input_size=(8, 8), resize=RESIZE_RULES["float-linear"].text,
            input_kind="uint8",
        )  # fmt: skip
