"""Whatever a user calls an image becomes the pixels that a file of it has."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from ssd_train.errors import ImageError
from ssd_train.image_input import is_one_image, to_rgb
from ssd_train.preprocess import load_image

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
GREY = RGB[:, :, 0]
ALPHA = np.dstack([RGB, GREY])


@pytest.mark.parametrize(
    ("given", "color"),
    [
        (RGB, "rgb"),
        (np.asfortranarray(RGB), "rgb"),
        (RGB[:, :, ::-1], "bgr"),
        (ALPHA, "rgb"),
        (np.dstack([RGB[:, :, ::-1], GREY]), "bgr"),
        (RGB.astype(np.uint16) * 256 + 255, "rgb"),
        (torch.tensor(RGB).permute(2, 0, 1), "rgb"),
        (torch.tensor(ALPHA).permute(2, 0, 1), "rgb"),
        (torch.tensor(RGB).permute(2, 0, 1) / 255, "rgb"),
        (torch.tensor(RGB).permute(2, 0, 1).double() / 255, "rgb"),
        (torch.tensor(RGB).permute(2, 0, 1) / 255, "bgr"),
        (torch.tensor(RGB).permute(2, 0, 1).div(255).requires_grad_(), "rgb"),
        (PIL.Image.fromarray(RGB), "rgb"),
        (PIL.Image.fromarray(RGB), "bgr"),
        (PIL.Image.fromarray(ALPHA), "rgb"),
    ],
)
def test_colours_come_out_as_they_are(given: object, color: str) -> None:
    pixels = to_rgb(given, color)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels, RGB)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous


@pytest.mark.parametrize(
    "given",
    [
        GREY,
        GREY[:, :, None],
        GREY.astype(np.uint16) << 8,
        torch.tensor(GREY),
        torch.tensor(GREY)[None],
        torch.tensor(GREY) / 255,
        PIL.Image.fromarray(GREY),
        PIL.Image.fromarray(np.dstack([GREY, GREY]), "LA"),
        PIL.Image.fromarray(GREY.astype(np.uint16) << 8),
        PIL.Image.fromarray(GREY.astype(np.int32) << 8),
    ],
)
def test_grey_is_repeated(given: object) -> None:
    np.testing.assert_array_equal(to_rgb(given), np.repeat(GREY[:, :, None], 3, axis=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.filterwarnings("error")
def test_pillows_modes_are_what_opencv_reads_of_their_files(mode: str, tmp_path: Path) -> None:
    if mode == "I;16":
        image = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 65536, (7, 5), dtype=np.uint16))
    else:
        image = PIL.Image.fromarray(ALPHA if "A" in mode else RGB).convert(mode)
    assert image.mode == mode
    path = tmp_path / "a.png"
    image.save(path)
    np.testing.assert_array_equal(to_rgb(image), load_image(path))
    np.testing.assert_array_equal(to_rgb(PIL.Image.open(path)), load_image(path))


@pytest.mark.filterwarnings("error")
def test_a_palette_with_transparency_and_inks_are_read() -> None:
    palette = PIL.Image.fromarray(RGB).convert("P")
    opaque = to_rgb(palette)
    palette.info["transparency"] = bytes(range(256))
    np.testing.assert_array_equal(to_rgb(palette), opaque)
    # No ink is white, all ink of one colour takes its complement away.
    inks = PIL.Image.new("CMYK", (5, 7), (0, 255, 0, 0))
    assert to_rgb(inks)[0, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_images_are_turned_upright_as_files_are(orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(RGB).save(path, exif=exif)
    np.testing.assert_array_equal(to_rgb(PIL.Image.open(path)), load_image(path))


def test_a_path_may_be_text_or_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cv2.imwrite(str(tmp_path / "a.png"), RGB[:, :, ::-1])
    for given in (tmp_path / "a.png", str(tmp_path / "a.png"), "~/a.png", Path("~/a.png")):
        np.testing.assert_array_equal(to_rgb(given), RGB)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (RGB / 255, "dtype float64 and shape .*whether they end at 1 or at 255"),
        (RGB > 9, "dtype bool"),
        (RGB.astype(np.int64), "dtype int64"),
        (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
        (np.zeros((7, 5, 2), np.uint8), r"shape \(7, 5, 2\)"),
        (np.zeros(7, np.uint8), r"shape \(7,\)"),
        (np.zeros((1, 2, 3, 4, 3), np.uint8), "shape"),
        (RGB.transpose(2, 0, 1), r"channels come first: image.transpose\(1, 2, 0\)"),
        (torch.zeros(7, 5, 3), r"a tensor has shape \(7, 5, 3\); pass one image as \(3, H, W\)"),
        (torch.zeros(3, 7, 5) - 0.1, "values outside 0 to 1"),
        (torch.zeros(3, 7, 5) + 1.01, "values outside 0 to 1"),
        (torch.full((3, 7, 5), float("nan")), "values outside 0 to 1"),
        (torch.zeros(3, 0, 5), "values outside 0 to 1, or none"),
        (torch.zeros(3, 7, 5, dtype=torch.int64), "dtype int64"),
        (torch.zeros(3, 7, 5, dtype=torch.bool), "dtype bool"),
        (PIL.Image.new("F", (5, 7)), "floats"),
        (PIL.Image.fromarray(np.full((7, 5), -1, np.int32)), "no 16 bits"),
        (PIL.Image.new("RGB", (0, 7)), "at least one pixel"),
        (None, "an image is a NoneType; pass an RGB uint8"),
        (b"\xff\xd8", "an image is a bytes"),
        ([[0, 0, 0]], "an image is a list"),
        ("nosuch.jpg", "nosuch.jpg: cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(given: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        to_rgb(given)  # type: ignore[arg-type]


def test_a_pillow_image_that_is_cut_off_or_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ImageError, match="a Pillow image cannot be read whole"):
        to_rgb(PIL.Image.open(path))
    image = PIL.Image.new("RGB", (5, 7))
    image.close()
    with pytest.raises(ImageError, match="closed"):
        to_rgb(image)


def test_an_order_of_channels_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ImageError, match="color 'BGR': expected rgb or bgr"):
        to_rgb(RGB, "BGR")  # type: ignore[arg-type]


def test_floats_are_rounded_to_the_nearest_value() -> None:
    # 0.4 and 0.6 of the way from 10 to 11.
    tensor = torch.tensor([[[10.4 / 255, 10.6 / 255, 1.0]]])
    assert to_rgb(tensor)[0, :, 0].tolist() == [10, 11, 255]
    assert to_rgb(torch.tensor([[[1.0, 0.0]]], dtype=torch.bfloat16))[0, :, 0].tolist() == [255, 0]


def test_an_rgb_array_is_not_copied() -> None:
    assert to_rgb(RGB) is RGB


@pytest.mark.parametrize(
    ("given", "is_one"),
    [
        (RGB, True),
        (GREY, True),
        ("a.jpg", True),
        (Path("a.jpg"), True),
        (PIL.Image.new("L", (3, 3)), True),
        (torch.zeros(3, 9, 9), True),
        (RGB[None], False),
        (torch.zeros(2, 3, 9, 9), False),
        ([RGB], False),
        ((RGB,), False),
        (iter([RGB]), False),
    ],
)
def test_one_image_is_told_from_several(given: object, is_one: bool) -> None:
    assert is_one_image(given) == is_one


def test_nothing_is_imported_that_the_user_did_not_import() -> None:
    code = (
        "import sys, numpy as np; from ssd_train.image_input import to_rgb;"
        "to_rgb(np.zeros((3, 3, 3), np.uint8));"
        "sys.exit(any(name in sys.modules for name in ('torch', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
