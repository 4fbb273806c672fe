"""Pictures inside a page, as data URIs, so that the one file can be mailed."""

import base64
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssd_train.draw import write_picture
from ssd_train.encode import encoded
from ssd_train.files import written_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Folder of the pictures that thumbnails lead to.
PICTURES_NAME = "pictures"

JPEG_QUALITY = 80
THUMBNAIL_WIDTH = 400
# A thumbnail of a very narrow picture would fill the page.
THUMBNAIL_HEIGHT = 360


def png_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def thumbnail_uri(picture: NDArray[np.uint8]) -> str:
    """Return a small copy of an (H, W, 3) RGB picture as a data URI; a small one keeps its size."""
    return jpeg_uri(picture, THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT)


def jpeg_uri(picture: NDArray[np.uint8], width: int, height: int) -> str:
    """Return an (H, W, 3) RGB picture, shrunk to fit a width and a height in pixels, as a data URI."""
    data = encoded(shrunk(picture, width, height), ".jpg", (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def write_linked(folder: Path, file: str, picture: NDArray[np.uint8]) -> str:
    """Write a page's picture in full size, and return its thumbnail as a data URI.

    Args:
        folder: the page's.
        file: where it lies in there, which is what the thumbnail leads to.
        picture: (H, W, 3) RGB uint8.

    Raises:
        SSDDeployError: it cannot be written.
    """
    write_picture(folder / file, picture)
    return thumbnail_uri(picture)


def shrunk(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Return an (H, W, 3) picture that fits a width and a height, with its proportions; never enlarged."""
    scale = min(1.0, width / picture.shape[1], height / picture.shape[0])
    if scale == 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """Return an empty figure of so many inches; needs matplotlib."""
    # The object interface: no windows, no state shared with a program that draws too.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG of 256 colors, atomically; more would not be seen, and make it twice as large."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)  # see `new_figure`
    with warnings.catch_warnings():
        # A class name in letters that the font lacks is a row of boxes, and no reason to say so on every chart.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3]).quantize(256)
    with written_atomically(path) as temporary:
        picture.save(temporary, format="png")
