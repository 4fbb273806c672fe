"""Videos of known content, and a backend that sees it."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_train.detections import PaddedDetections
from ssd_train.preprocess import preprocess
from ssd_train.spec import DetectorSpec

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]

# Label -> color; the input has the frames' size in these tests, so that pixels arrive as they are.
COLORS = ((250, 20, 20), (20, 250, 20), (30, 60, 250))
SIZE = (96, 160)
SPEC = DetectorSpec(network="seeing", class_names=("red", "green", "blue"), input_size=SIZE)


def grey() -> Image:
    return np.full((*SIZE, 3), 90, np.uint8)


def painted(boxes: Sequence[tuple[Box, int]]) -> Image:
    """Paint rectangles in the colors of their labels, the last one on top."""
    image = grey()
    for (left, top, right, bottom), label in boxes:
        image[top:bottom, left:right] = COLORS[label]
    return image


def write_video(
    path: Path, images: Sequence[Image], *, rate: Fraction = Fraction(25), pts: Callable[[int], int] = lambda n: n
) -> Path:
    """Write frames with FFmpeg's MPEG-4 codec, which keeps colors nearly; `pts` in units of 1 / rate."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.codec_context.qmin, stream.codec_context.qmax = "yuv420p", 1, 2
        stream.codec_context.time_base = 1 / rate
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = pts(number), 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class Seeing:
    """A backend that finds each color's bounds as a detection of its label, with the share of visible pixels as score.

    Args:
        side: pixels of a whole object; fewer are one that is partly hidden.
    """

    name, max_batch_size = "seeing", None

    def __init__(self, pixels: int = 400) -> None:
        self.spec, self._pixels = SPEC, pixels
        self.batch_sizes: list[int] = []
        colors = np.array(COLORS, np.uint8)[:, None, None]
        self._colors = [preprocess(np.broadcast_to(color, (*SIZE, 3)).copy(), SPEC)[:, 0, 0] for color in colors]

    def run(self, images: NDArray[np.float32]) -> PaddedDetections:
        self.batch_sizes.append(len(images))
        count = self.spec.postprocess.max_detections
        answer = PaddedDetections(
            np.full((len(images), count, 4), -1, np.float32),
            np.full((len(images), count), -1, np.float32),
            np.full((len(images), count), -1, np.int64),
        )
        for index, image in enumerate(images):
            found = []
            for label, color in enumerate(self._colors):
                rows, columns = np.nonzero((np.abs(image - color[:, None, None]) < 0.8).all(axis=0))
                if len(rows) > 20:
                    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    found.append((min(0.99, len(rows) / self._pixels), box, label))
            for row, (score, box, label) in enumerate(sorted(found, reverse=True)):
                answer.boxes[index, row], answer.scores[index, row], answer.labels[index, row] = box, score, label
        return answer

    def close(self) -> None:
        pass
