"""Pictures and videos."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from cases import Kind, Seed
from PIL import Image

from ssd_deploy.sources.open import open_source
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.image_paths import known_size
from ssd_train.errors import SSDDeployError
from ssd_train.image_input import to_rgb
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import DetectorSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 37, 3), np.uint8)
SPEC = DetectorSpec(network="fake", class_names=("a",), input_size=(32, 32))


def encoded(suffix: str, pixels: np.ndarray = PIXELS, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def by_pillow(kind: str, mode: str, **options: object) -> bytes:
    saved = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(saved, kind, **options)
    return saved.getvalue()


def turned_jpeg() -> bytes:
    """A JPEG whose Exif entry 0x0112 says that it lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return by_pillow("JPEG", "RGB", exif=exif)


def pictures() -> dict[str, bytes]:
    """A small picture of each format, of several depths and kinds of color."""
    deep = PIXELS.astype(np.uint16) * 257
    ppm = b"P6\n37 24\n255\n" + PIXELS.tobytes()
    return {
        "a.jpg": turned_jpeg(),
        "progressive.jpg": by_pillow("JPEG", "L", progressive=True),
        "cmyk.jpg": by_pillow("JPEG", "CMYK"),
        "a.png": encoded(".png"),
        "palette.png": by_pillow("PNG", "P", transparency=3),
        "deep.png": encoded(".png", deep[:, :, 0]),
        "a.bmp": encoded(".bmp"),
        "bits.bmp": by_pillow("BMP", "1"),
        "a.webp": encoded(".webp"),
        "lossless.webp": by_pillow("WEBP", "RGBA", lossless=True),
        "a.tiff": encoded(".tiff"),
        "deep.tif": encoded(".tiff", deep),
        "palette.tif": by_pillow("TIFF", "P"),
        "a.gif": by_pillow("GIF", "P"),
        "moving.gif": by_pillow("GIF", "P", save_all=True, append_images=[Image.new("P", (37, 24), 5)]),
        "a.ppm": ppm,
        "a.jp2": encoded(".jp2", np.resize(PIXELS, (64, 64, 3))),
        "a.hdr": encoded(".hdr", PIXELS.astype(np.float32)),
        "a.ras": encoded(".ras"),
    }


def read_picture(folder: Path, path: Path, out: Path) -> None:
    """Load it in every way that the product loads one."""
    refused: SSDDeployError | None = None
    try:
        image = load_image(path)
        preprocess(image, SPEC)
        load_image(path, apply_orientation=False, reduction=2)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    except SSDDeployError as error:
        refused = error
    known_size(path, Findings(is_complete=True))
    try:
        opened = Image.open(path)
    except Exception:  # the caller's own affair
        opened = None
    if opened is not None:
        to_rgb(opened)
    if refused is not None:
        raise refused


def videos(folder: Path) -> Sequence[Seed]:
    """A few frames in each container, in codecs that every FFmpeg has."""
    import av

    made = []
    for name, codec, pixels in (
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "ffv1", "bgr0"),
        ("b.mkv", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.webm", "libvpx", "yuv420p"),
        ("a.ts", "mpeg2video", "yuv420p"),
    ):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
            for number in range(4):
                shifted = np.roll(np.resize(PIXELS, (32, 48, 3)), number, axis=1)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shifted), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        made.append(Seed(files={name: (folder / name).read_bytes()}, target=name))
    return made


# A video may say that it has more frames than anyone waits for.
MOST_FRAMES = 50


def read_video(folder: Path, path: Path, out: Path) -> None:
    source = open_source(path)
    source.on_problem = lambda sentence: None
    with source:
        for number, frame in enumerate(source.frames()):
            image = source.load(frame)
            if image.size < 1 << 20:
                preprocess(image, SPEC)
            if number > MOST_FRAMES:
                break


KINDS = (
    Kind(
        name="pictures",
        seeds=lambda _: [Seed(files={name: data}, target=name) for name, data in pictures().items()],
        read=read_picture,
        weight=3,
    ),
    Kind(name="videos", seeds=videos, read=read_video, weight=1.5),
)
