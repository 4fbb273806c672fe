"""One opened container: its video stream, decoded frame by frame."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Generator
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.frame import Frame
from ssd_train.addresses import without_password
from ssd_train.errors import ImageError, SourceError, first_line
from ssd_train.pixel_limit import check_pixels
from ssd_train.pixel_limit import max_pixels as pixel_limit
from ssd_train.requirements import require

if TYPE_CHECKING:
    import av

# A decoder runs beside a network that wants the processor, so that it takes no more than it needs.
DECODER_THREADS = 2
# Called for a frame that cannot be decoded: its number among the frames, its time in seconds or None, and what it is.
OnBroken = Callable[[int, float | None, str], None]
BROKEN = "broken and left out"


def tell_nobody(number: int, time_s: float | None, what: str) -> None:
    """Let a frame be broken and say nothing."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DecodedFrame(Frame):
    """A frame whose pixels are still in the video's own format.

    Attributes:
        decoded: PyAV's frame; `to_rgb` makes the picture of it.
    """

    decoded: "av.VideoFrame"


def to_rgb(frame: DecodedFrame) -> NDArray[np.uint8]:
    """Return a decoded frame as (H, W, 3) RGB uint8, turned upright as players turn it.

    Videos of YUV are converted with the matrix and range that they name; where they name none, with BT.601's of
    limited range, as FFmpeg does. RGB comes out bit for bit.

    Raises:
        ImageError: its pixel format cannot be converted.
    """
    import av

    try:
        image = frame.decoded.to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError) as error:
        raise ImageError(f"{frame.name}: its pixels cannot be converted to RGB ({first_line(error)})") from error
    quarters = round(frame.decoded.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, quarters))


class Decoding:
    """An open container and its first video stream, whose first frame is decoded already.

    Args:
        address: a file, a device or an address, as FFmpeg takes it.
        name: what errors call it.
        options: FFmpeg's options of its format and protocol.
        container_format: FFmpeg's name of it; None to find out.
        timeout_s: seconds after which a read that gives nothing is an error; None to wait for ever.
        on_broken: told each frame that cannot be decoded.
        max_pixels: most that a frame may have, whatever the container says and whenever it changes; None for the
            process's limit, see `ssd_train.pixel_limit`.

    Attributes:
        format_name: FFmpeg's name of the container, such as `mov,mp4,m4a,3gp,3g2,mj2`.
        rate: frames a second, None where the container does not say.
        size: (height, width) of the first frame, upright.
        stated_frames: how many the container says it has; None where it does not.
        is_finite: whether it has a duration or a size in bytes, as a file has.
        count: frames so far, broken ones included.

    Raises:
        SourceError: it cannot be opened, has no video, frames of it are too large, or none can be decoded.
        ImageError: `max_pixels` is no number of pixels.
        BackendError: PyAV is not installed.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str,
        options: dict[str, str],
        container_format: str | None = None,
        timeout_s: float | None = None,
        on_broken: OnBroken = tell_nobody,
        max_pixels: int | None = None,
    ) -> None:
        require("av", "video", "Video")
        import av

        self._timeout_s, self._on_broken = timeout_s, on_broken
        self._limit = pixel_limit(max_pixels)
        # FFmpeg decodes some frames to find out what a stream is, so that it has to know too.
        options = {**options, "max_pixels": str(self._limit)}
        self._has_large = False
        self.count = 0
        self._start_pts: int | None = None
        self._last_pts: int | None = None
        started = time.monotonic()
        try:
            self._container = av.open(address, format=container_format, options=options, timeout=timeout_s)
        except (av.FFmpegError, OSError, ValueError) as error:
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                # Some protocols make another error of a wait that was ended.
                raise SourceError(f"{name}: cannot be opened (nothing came for {timeout_s:g} seconds)") from error
            raise SourceError(f"{name}: cannot be opened ({self.reason(error)}){_advice(error)}") from error
        try:
            if not self._container.streams.video:
                raise SourceError(f"{name}: has no video stream; name a video")
            self.format_name = self._container.format.name
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise SourceError(f"{name}: is in a codec that FFmpeg has no decoder of, or damaged; convert the video")
            self._stream.thread_type = "AUTO"
            self._stream.codec_context.thread_count = DECODER_THREADS
            # A frame that is damaged is an error, rather than a guess that looks like a frame.
            self._stream.codec_context.options = {"err_detect": "explode", "max_pixels": str(self._limit)}
            stated = (self._stream.codec_context.height, self._stream.codec_context.width)
            if all(stated):
                check_pixels(name, stated, self._limit, SourceError)
            self._decoded = self._decode()
            try:
                self._first: av.VideoFrame | None = next(self._decoded)
            except StopIteration:
                if self._has_large:
                    raise SourceError(
                        f"{name}: its frames have more pixels than the limit of {self._limit:,}; make them smaller, or "
                        "raise max_pixels (--max-pixels) if you trust it",
                        arguments=("max_pixels",),
                    ) from None
                raise SourceError(f"{name}: no frame of it can be decoded; the file may be damaged") from None
            except (av.FFmpegError, OSError) as error:
                raise SourceError(f"{name}: no frame of it can be read ({self.reason(error)})") from error
        except BaseException:
            self.close()
            raise
        self._start_pts, self._first_number = self._first.pts, self.count - 1
        height, width = self._first.height, self._first.width
        self.size = (width, height) if round(self._first.rotation / 90) % 2 else (height, width)
        rate = self._stream.average_rate
        self.rate = Fraction(rate) if rate else None
        self.stated_frames = self._stream.frames or None
        # The size of a playlist is not that of what it lists.
        has_size = self._container.size > 0 and self.format_name != "hls"
        self.is_finite = self._container.duration is not None or has_size

    def frames(self) -> Generator[tuple[int, float | None, "av.VideoFrame"], None, None]:
        """Yield each frame with its number and its seconds since the first; a broken one leaves a gap.

        Raises:
            av.FFmpegError: the container cannot be read any further.
        """
        if self._first is not None:
            # Not kept while the others come: it may be large.
            first, self._first = [self._first], None
            yield self._first_number, self._time_s(first[0].pts), first.pop()
        for frame in self._decoded:
            yield self.count - 1, self._time_s(frame.pts), frame

    def missing(self, count: int) -> str | None:
        """Say how far it came, once all was read, where the container promised more; None where it did not.

        Args:
            count: frames of it so far, those of an earlier connection included.
        """
        duration, last_s = self._duration_s(), self._time_s(self._last_pts)
        if duration is None or last_s is None:
            return None
        spacing = float(1 / self.rate) if self.rate else 0.0
        short_s = duration - last_s - spacing
        if self.stated_frames is not None:
            # Both, since an edit list leaves frames out on purpose, and says so in the duration alone.
            is_short = count < self.stated_frames and short_s > 1.5 * spacing
            return f"{count:,} of {self.stated_frames:,} frames" if is_short else None
        # A last frame may be shown for longer than the others.
        return f"{duration - short_s:.1f} of {duration:.1f} seconds" if short_s > max(2 * spacing, 0.5) else None

    def is_at_end(self, count: int) -> bool:
        """Whether the container promised an end, and that is reached."""
        return self._duration_s() is not None and self.missing(count) is None

    def seek(self, time_s: float) -> None:
        """Go to the key frame before a time, in seconds since the first frame, or stay at the start.

        MP4's table of samples finds that key frame; other formats look for it, and may lose frames over it.
        """
        import av

        if self._start_pts is None or not self._stream.time_base or "mp4" not in self.format_name:
            return
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(self._start_pts + int(time_s / self._stream.time_base), stream=self._stream)
            self._first = None

    def reason(self, error: BaseException) -> str:
        """Say what FFmpeg met, without the address that it adds to every error."""
        import av

        if isinstance(error, av.error.ExitError):
            return f"nothing came for {self._timeout_s:g} seconds"
        return without_password(getattr(error, "strerror", None) or first_line(error))

    def close(self) -> None:
        """Close the container; may be called twice, by one thread at a time."""
        self._container.close()

    def _decode(self) -> Generator["av.VideoFrame", None, None]:
        import av

        try:
            for packet in self._container.demux(self._stream):
                yield from self._decode_packet(packet)
        except av.FFmpegError:
            # What was read before the loss is still in the decoder.
            with contextlib.suppress(av.FFmpegError):
                for frame in self._stream.codec_context.decode(None):
                    yield self._counted(frame)
            raise

    def _decode_packet(self, packet: "av.Packet[av.VideoStream]") -> Generator["av.VideoFrame", None, None]:
        import av

        try:
            frames = self._stream.codec_context.decode(packet)
        except av.error.EOFError:
            return
        except av.FFmpegError as error:
            what = BROKEN
            if isinstance(error, av.error.ArgumentError):
                # What FFmpeg calls a size beyond its limit, and hardly any damage.
                self._has_large = True
                what = f"beyond the limit of {self._limit:,} pixels (max_pixels, --max-pixels) and left out"
            self._on_broken(self.count, self._time_s(packet.pts), what)
            self.count += 1
            return
        for frame in frames:
            yield self._counted(frame)

    def _counted(self, frame: "av.VideoFrame") -> "av.VideoFrame":
        self.count += 1
        self._last_pts = frame.pts
        return frame

    def _time_s(self, pts: int | None) -> float | None:
        """Seconds since the first frame. By the stream's clock: a frame that is flushed has none of its own."""
        if pts is None or self._start_pts is None or self._stream.time_base is None:
            return None
        return float((pts - self._start_pts) * self._stream.time_base)

    def _duration_s(self) -> float | None:
        """Seconds of video that the container's header promises."""
        text = self._stream.metadata.get("DURATION", "")
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = (float(part) for part in text.split(":"))
            return hours * 3600 + minutes * 60 + seconds
        if self._stream.duration is None or self._stream.time_base is None:
            return None
        return float(self._stream.duration * self._stream.time_base)


def _advice(error: BaseException) -> str:
    import av

    is_none = isinstance(error, av.error.InvalidDataError | av.error.ArgumentError)
    return "; a video was expected, and no list of other files" if is_none else ""
