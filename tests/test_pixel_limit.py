import os
import subprocess
import sys
from pathlib import Path

import bad_pictures
import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ssd_train.datasets.image_paths import image_size
from ssd_train.errors import ImageError
from ssd_train.image_input import to_rgb
from ssd_train.picture_header import picture_size
from ssd_train.pixel_limit import DEFAULT_MAX_PIXELS, MOST_PIXELS, max_pixels, pixel_limit
from ssd_train.preprocess import IMAGE_SUFFIXES, load_image

TOO_LARGE = bad_pictures.too_large()
FLOATS = (".hdr", ".pic", ".pfm")


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".pfm"])
def test_size_in_the_header_is_that_of_the_decoded_picture(suffix: str) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (37, 53), dtype=np.uint8)
    image = grey if suffix in (".pbm", ".pgm") else cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    ok, data = cv2.imencode(suffix, image.astype(np.float32) / 255 if suffix in FLOATS else image)
    assert ok
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    assert picture_size(data.tobytes()) == decoded.shape[:2] == (37, 53)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WEBP", {"lossless": True}), ("WEBP", {"lossless": False}), ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        ("TIFF", {"big_tiff": True}), ("TIFF", {"compression": "tiff_lzw"}), ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}), ("JPEG2000", {"no_jp2": True}), ("AVIF", {}), ("GIF", {}),
    ],
)  # fmt: skip
def test_size_in_the_header_of_files_that_pillow_writes(kind: str, options: dict, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.fromarray(np.zeros((37, 53, 3), np.uint8)).save(path, kind, **options)
    assert picture_size(path.read_bytes()) == load_image(path).shape[:2] == (37, 53)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large_picture_is_told_with_its_size_the_limit_and_the_option(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(TOO_LARGE[name])
    with pytest.raises(ImageError, match=rf"{name}.* has \d+x\d+ pixels.*limit of 100,000,000.*--max-pixels"):
        load_image(path)


def test_pictures_that_unpack_to_much_cost_little_memory(tmp_path: Path) -> None:
    """In a process with 300 MB to spare, each is read or is one error; a crash would end it."""
    files = bad_pictures.too_large() | bad_pictures.odd()
    # Within the limit of pixels, and still too large for that process.
    files["honest.png"] = bad_pictures.png(9990, 9990, rows=9990)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from ssd_train.datasets.image_paths import image_size
from ssd_train.draw import write_picture
from ssd_train.encode import encoded
from ssd_train.errors import SSDDeployError
from ssd_train.image_input import to_rgb
from ssd_train.preprocess import load_image, preprocess

mirrored = np.zeros((6000, 6000, 3), np.uint8)[::-1, ::-1, ::-1]
encoded(mirrored[:9, :9], ".jpg")
to_rgb(mirrored[:9, :9], "bgr")
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (load_image, image_size):
        try:
            read(path)
        except SSDDeployError as error:
            print(path.name, str(error), sep="|")
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, used + 300_000_000))
for name, use in {
    "to_rgb": lambda: to_rgb(mirrored),
    "bgr": lambda: to_rgb(mirrored[:, ::-1], "bgr"),
    "encoded": lambda: encoded(mirrored, ".bmp"),
    "one column": lambda: to_rgb(np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (9000, 9000, 3))),
}.items():
    try:
        use()
    except SSDDeployError as error:
        print(name, str(error), sep="|")
print("whole")
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OPENCV_LOG_LEVEL": "OFF"}
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split("|") for line in run.stdout.splitlines()]
    assert lines.pop() == ["whole"]
    told = {line[0] for line in lines}
    assert {"honest.png", "to_rgb", "bgr", "encoded", "one column", "scans.jpg", "no pixels.png"} <= told
    assert set(TOO_LARGE) <= told


@pytest.mark.parametrize(
    "image",
    [
        np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 20_000, 3)),
        np.broadcast_to(np.uint16(0), (20_000, 20_000)),
        torch.zeros(1, dtype=torch.uint8).expand(3, 20_000, 20_000),
        torch.zeros(1).expand(20_000, 20_000),
    ],
    ids=["array", "16 bits", "tensor", "floats"],
)
def test_too_large_arrays_are_refused_before_they_are_copied(image: object) -> None:
    with pytest.raises(ImageError, match=r"20000x20000 pixels.*limit of 100,000,000"):
        to_rgb(image)  # type: ignore[arg-type]


def test_pillow_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bad_pictures.png(13_000, 13_000))
    with (
        pytest.warns(Image.DecompressionBombWarning),
        Image.open(path) as image,
        pytest.raises(ImageError, match="13000x13000 pixels, more than the limit"),
    ):
        to_rgb(image)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[::-1], lambda image: image[:, ::-1], lambda image: image[:, :, ::-1],
        lambda image: image[::2, 1::3], lambda image: np.asfortranarray(image), lambda image: image.transpose(1, 0, 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_every_view_comes_out_contiguous_with_its_pixels(view, color) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image.flags.writeable = False
    seen = view(image)
    found = to_rgb(seen, color)
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, seen if color == "rgb" else seen[:, :, ::-1])


def test_limit_of_a_call_goes_before_that_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bad_pictures.encoded(".png", 20, 30))
    with pixel_limit(599):
        assert load_image(path, max_pixels=600).shape == (20, 30, 3)
        for read in (load_image, image_size, to_rgb):
            with pytest.raises(ImageError, match=r"30x20 pixels, more than the limit of 599"):
                read(path)
        # Processes that load a training's images know it too.
        told = subprocess.run(
            [sys.executable, "-c", "from ssd_train.pixel_limit import *; print(max_pixels())"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == "599"
    assert max_pixels() == DEFAULT_MAX_PIXELS
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize("wrong", [0, -1, MOST_PIXELS + 1, 1.5, True, "many", float("nan")])
def test_limit_that_is_no_number_of_pixels(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="max_pixels .*: expected 1 to 1073741824"):
        max_pixels(wrong)  # type: ignore[arg-type]


def test_what_never_ends_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not an image"):
        load_image(Path("/dev/zero"))
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.write(b"\xff\xd8")
        file.truncate(2**31)
    with pytest.raises(ImageError, match="2,147,483,648 bytes"):
        load_image(large)
