"""Annotated videos: as many frames as came in, at their times, of their size."""

import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_deploy.results.base import Ending, Outcome, Run, Writer
from ssd_deploy.results.names import Names
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.errors import ResultError
from ssd_train.files import written_atomically
from ssd_train.requirements import require

SUFFIX = ".mp4"

# Of x264: hardly to be told from the original. Encoding has to hide behind a network on two cores, and the fastest
# preset takes a third of the time of the usual ones; CABAC, which it leaves out, costs nothing and saves a sixth.
X264 = {"crf": "20", "preset": "ultrafast", "x264-params": "cabac=1"}

# Parts of a frame's time that a frame may start at, where the rate changes. Players expect powers of two here, as
# FFmpeg writes them.
TICKS = 512

# A frame so little off its place at a constant rate, in frames, is put there: containers round times, Matroska's to a
# millisecond.
ROUNDING = 0.1

# Of a camera that does not tell its rate; the frames keep their own times all the same.
USUAL_RATE = Fraction(30)

# FFmpeg's numbers of the colors: sRGB's primaries, and the matrix that OpenCV converts with.
BT709, SMPTE170M = 1, 6


class VideoWriter(Writer):
    """`NAME.mp4` for each video and stream.

    A frame that was lost in a file shows the last good one, or the first, so that the video keeps its length. A
    stream's frames keep their times.

    Raises:
        BackendError: PyAV is not installed.
        SSDDeployError: a video would replace one that is read.
    """

    def __init__(self, run: Run) -> None:
        require("av", "video", "A video")
        names = Names(run, run.out_dir, lambda _: SUFFIX)
        self._paths = {info: names.of_source(info, SUFFIX) for info in run.sources if info.kind != "pictures"}
        self._open: tuple[SourceInfo, VideoFile] | None = None
        self._last: Path | None = None
        # The source whose pictures no video can hold: said once, and not for each of them.
        self._given_up: SourceInfo | None = None

    def prepare(self, outcome: Outcome) -> NDArray[np.uint8]:
        return outcome.drawn()

    def write(self, outcome: Outcome, prepared: NDArray[np.uint8]) -> None:
        info = outcome.frame.source
        if info is self._given_up:
            return
        size = (prepared.shape[0], prepared.shape[1])
        try:
            if self._open is None:
                self._open = info, VideoFile(self._paths[info], size, info.rate, fills_gaps=info.kind == "video")
            self._open[1].add(outcome.frame, prepared)
        except Exception:
            self._given_up, self._open = info, None
            raise

    def end_source(self, info: SourceInfo, length: int | None) -> None:
        if self._open is not None and self._open[0] is info:
            self._open[1].close(length)
            self._open, self._last = None, self._paths[info]

    def close(self, ending: Ending) -> Path | None:
        if self._open is not None:
            self.end_source(self._open[0], None)
        return self._last

    def path_of_video(self, info: SourceInfo) -> Path:
        return self._paths[info]


class VideoFile:
    """One H.264 video that frames are added to; it appears under its name when it is closed.

    Args:
        path: an `.mp4` file.
        size: (height, width) in pixels. Odd sides are kept, with colors for each pixel instead of for two by two.
        rate: frames a second; None where it is not known.
        fills_gaps: whether an index that was left out is filled with the picture before it.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction | None, *, fills_gaps: bool) -> None:
        import av

        self._size, self._fills_gaps = size, fills_gaps
        # FFmpeg counts in 32 bits; the rates of television, such as 30000/1001, stay exact.
        self._rate = (rate or USUAL_RATE).limit_denominator(1001)
        self._next_index, self._last_pts = 0, -1
        self._last_image: av.VideoFrame | None = None
        self._stack = contextlib.ExitStack()
        self._path, temporary = path, self._stack.enter_context(written_atomically(path))
        with self._given_up_on_error():
            container = av.open(str(temporary), "w", format="mp4")
            self._container: av.container.OutputContainer = self._stack.enter_context(container)
            self._stream = self._new_stream()

    def _new_stream(self) -> Any:
        size = self._size
        stream = self._container.add_stream("libx264", rate=self._rate, options=dict(X264))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p" if size[0] % 2 == size[1] % 2 == 0 else "yuv444p"
        context = stream.codec_context
        context.time_base = stream.time_base = 1 / (self._rate * TICKS)
        context.color_primaries = context.color_trc = BT709
        context.colorspace = SMPTE170M
        return stream

    def add(self, frame: Frame, image: NDArray[np.uint8]) -> None:
        """Append a frame and what was lost before it; `image` is RGB, and scaled where it is of another size."""
        pts = self._pts_of(frame)
        with self._given_up_on_error():
            picture = self._converted(image)
            if self._fills_gaps:
                # The first good picture stands for what was lost before it.
                self._fill(frame.index, pts, self._last_image or picture)
            self._encode(picture, pts)
        self._last_image, self._next_index = picture, frame.index + 1

    def close(self, length: int | None = None) -> None:
        """Fill up to `length` frames, finish the file and put it in its place."""
        with self._stack:
            if length is not None and self._fills_gaps and self._last_image is not None:
                missing = length - self._next_index
                self._fill(length, self._last_pts + (missing + 1) * TICKS, self._last_image)
            for packet in self._stream.encode():
                self._container.mux(packet)

    @contextlib.contextmanager
    def _given_up_on_error(self) -> Iterator[None]:
        """Within the block, remove the unfinished file where something fails, and tell a full disk as everywhere."""
        import av

        try:
            yield
        except Exception as error:
            with self._stack:
                if isinstance(error, av.error.ExternalError):
                    height, width = self._size
                    raise ResultError(
                        f"{self._path}: H.264 cannot hold pictures of {width}x{height} pixels; save pictures instead"
                    ) from error
                raise

    def _pts_of(self, frame: Frame) -> int:
        """Return a frame's time in ticks, always later than that of the frame before."""
        place = float(frame.index) if frame.time_s is None else frame.time_s * float(self._rate)
        if self._fills_gaps and abs(place - frame.index) < ROUNDING:
            place = frame.index
        return max(round(place * TICKS), self._last_pts + 1 + (frame.index - self._next_index) * self._fills_gaps)

    def _fill(self, index: int, pts: int, picture: Any) -> None:
        """Repeat a picture for the indices up to `index`, evenly over the time up to `pts`."""
        missing, start = index - self._next_index, self._last_pts
        for number in range(missing):
            share = (number + 1) / (missing + 1)
            at = round(start + (pts - start) * share) if start >= 0 else math.floor(pts * number / missing)
            self._encode(picture, max(at, self._last_pts + 1))

    def _encode(self, picture: Any, pts: int) -> None:
        picture.pts, picture.time_base = pts, self._stream.codec_context.time_base
        self._last_pts = pts
        for packet in self._stream.encode(picture):
            self._container.mux(packet)

    def _converted(self, image: NDArray[np.uint8]) -> Any:
        import av

        if image.shape[:2] != self._size:
            image = np.asarray(cv2.resize(image, self._size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        if self._stream.pix_fmt == "yuv420p":
            # OpenCV does it in a seventh of FFmpeg's time, and for even sides only.
            yuv = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420), np.uint8)
            return av.VideoFrame.from_ndarray(yuv, format="yuv420p")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        return frame.reformat(format=self._stream.pix_fmt, dst_colorspace="ITU601")
