"""Cameras and streams: what comes when it comes, may be lost, and may come back."""

import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ssd_deploy.sources.address import scheme_of
from ssd_deploy.sources.base import Reconnect
from ssd_deploy.sources.decoded import DecodedSource
from ssd_deploy.sources.decoding import Decoding, OnBroken
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.addresses import without_password
from ssd_train.errors import SourceError
from ssd_train.requirements import require

# These wait for their reader, and so lose nothing.
_PATIENT_SCHEMES = ("http", "https")
# What a stream may be made of. Without `file`: a playlist from elsewhere must not open files of this machine.
_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,rtsp,rtsps,srtp,rtmp,rtmps,ffrtmphttp,rtmpt,rtmpts,srt,crypto,data"

Connect = Callable[[OnBroken], Decoding]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CameraDriver:
    """How FFmpeg reaches the cameras of an operating system.

    Attributes:
        container_format: FFmpeg's name of the driver.
        device: number or path -> what FFmpeg calls that camera.
        options: of the driver.
    """

    container_format: str
    device: Callable[[str], str]
    options: dict[str, str] = dataclasses.field(default_factory=dict)


def _windows_device(number: str) -> str:
    """DirectShow knows cameras by their names alone."""
    import av

    if not hasattr(av, "enumerate_input_devices"):
        raise SourceError(f"camera {number}: this PyAV cannot list cameras; install a newer one")
    cameras = [found for found in av.enumerate_input_devices("dshow") if "video" in found.media_types]
    if int(number) >= len(cameras):
        raise SourceError(
            f"camera {number}: there are {len(cameras)} cameras, counted from 0; check that it is plugged in"
        )
    return f"video={cameras[int(number)].name}"


# By `sys.platform`.
CAMERA_DRIVERS = {
    "linux": CameraDriver(
        container_format="v4l2", device=lambda camera: f"/dev/video{camera}" if camera.isdigit() else camera
    ),
    "darwin": CameraDriver(
        # Its default of 29.97 frames a second is refused by most cameras.
        container_format="avfoundation", device=lambda camera: f"{camera}:none", options={"framerate": "30"}
    ),
    "win32": CameraDriver(container_format="dshow", device=_windows_device),
}  # fmt: skip


def open_camera(
    camera: str, reconnect: Reconnect | None, drop_late: bool | None, timeout_s: float, max_pixels: int | None = None
) -> "LiveSource":
    """Open a camera by its number, or by its device file on Linux.

    Raises:
        SourceError: it cannot be opened, or this operating system's cameras are not known.
        BackendError: PyAV is not installed.
    """
    require("av", "video", "A camera")
    driver = CAMERA_DRIVERS.get(sys.platform)
    if driver is None:
        raise SourceError(f"camera {camera}: cameras are not known on {sys.platform}; name a stream instead")
    device = driver.device(camera)
    name = f"camera {camera}" if camera.isdigit() else camera

    def connect(on_broken: OnBroken) -> Decoding:
        try:
            return Decoding(
                device,
                name=name if device == camera else f"{name} ({device})",
                options=dict(driver.options),
                container_format=driver.container_format,
                timeout_s=timeout_s,
                on_broken=on_broken,
                max_pixels=max_pixels,
            )
        except SourceError as error:
            raise SourceError(f"{error}; check that it is plugged in, free, and yours to read") from error

    return LiveSource(connect, name=name, reconnect=reconnect, drop_late=drop_late is not False, can_end=False)


def open_stream(
    address: str, reconnect: Reconnect | None, drop_late: bool | None, timeout_s: float, max_pixels: int | None = None
) -> "LiveSource":
    """Open a stream by its address; RTSP comes over TCP, since lost packets of UDP are broken frames.

    Raises:
        SourceError: it cannot be opened.
        BackendError: PyAV is not installed.
    """
    scheme, name = scheme_of(address), without_password(address)
    options = {"protocol_whitelist": _PROTOCOLS}
    if scheme in _PATIENT_SCHEMES:
        # Without it FFmpeg 8 asks servers to close, waits for more on what they closed, and loses the first frames of
        # an MP4 whose index is at its end.
        options["multiple_requests"] = "1"
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"

    def connect(on_broken: OnBroken) -> Decoding:
        how: Any = {"name": name, "timeout_s": timeout_s, "on_broken": on_broken, "max_pixels": max_pixels}
        decoding = Decoding(address, options=options, **how)
        if scheme in _PATIENT_SCHEMES and decoding.format_name.startswith("matroska"):
            # Of a file that it can seek in, FFmpeg jumps over a hole by itself and says nothing.
            decoding.close()
            decoding = Decoding(address, options=options | {"seekable": "0"}, **how)
        return decoding

    drops = scheme not in _PATIENT_SCHEMES if drop_late is None else drop_late
    return LiveSource(connect, name=name, reconnect=reconnect, drop_late=drops, can_end=True)


class LiveSource(DecodedSource):
    """A camera or a stream; it is connected when it is made.

    One with a duration or a size, such as a video file on a web server, is a `video`: it ends at its end, and goes on
    where it was after a new connection. Any other is `live`: an end is a loss, and after it the count of frames goes
    on while its time leaps by what was missed.

    Args:
        connect: opens a connection.
        name: without a password.
        reconnect: when it is tried again; None: never.
        drop_late: see `OpenOptions`.
        can_end: whether it may be such a file.

    Raises:
        SourceError: it cannot be opened. A first connection is not tried again.
    """

    def __init__(
        self, connect: Connect, *, name: str, reconnect: Reconnect | None, drop_late: bool, can_end: bool
    ) -> None:
        super().__init__(drop_late=drop_late)
        self._connect, self._reconnect = connect, reconnect
        # The next frame's number; what the numbers and seconds of the present connection are counted from.
        self._next, self._base, self._base_s = 0, 0, 0.0
        self._began: float | None = None
        # Of a finite one: the time of the newest frame, and whether frames up to it are being passed over.
        self._reached_s: float | None = None
        self._is_passing = False
        self._decoding: Decoding | None = connect(self._on_broken)
        self._is_finite = can_end and self._decoding.is_finite
        self.info = SourceInfo(
            name=name,
            kind="video" if self._is_finite else "live",
            frames=self._decoding.stated_frames if self._is_finite else None,
            rate=self._decoding.rate,
            size=self._decoding.size,
        )

    def close(self) -> None:
        super().close()
        # One that nobody read has no thread that closes it.
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None

    def _on_broken(self, number: int, time_s: float | None, what: str) -> None:
        if not self._is_passing:
            self._note_broken(self._base + number, time_s, what)

    def _produce(self, stop: threading.Event) -> Iterator[Frame]:
        import av

        self._began = time.monotonic()
        tries = 0
        while (decoding := self._decoding) is not None:
            before = self._next
            try:
                yield from self._read(decoding)
                loss = self._loss_at_end(decoding)
            except av.FFmpegError as error:
                is_over = self._is_finite and decoding.is_at_end(self._next)
                loss = None if is_over else decoding.reason(error)
            finally:
                decoding.close()
                self._decoding = None
            if loss is not None and self._is_finite and self._reconnect is not None:
                # The last packet was cut, and will come again.
                self._forget_broken()
            self._say_broken()
            if loss is not None:
                # A connection that brought nothing new is no success.
                tries = self._try_again(stop, loss, 0 if self._next > before else tries)

    def _read(self, decoding: Decoding) -> Iterator[Frame]:
        """Yield what one connection gives, and what of it is new."""
        self._base = self._next
        for number, time_s, decoded in decoding.frames():
            if self._is_passing:
                if time_s is not None and self._reached_s is not None and time_s <= self._reached_s:
                    continue
                self._is_passing, self._base = False, self._next - number
            index = self._base + number
            self._next = index + 1
            if self._is_finite:
                self._reached_s = time_s
            time_s = None if time_s is None else self._base_s + time_s
            yield self._decoded_frame(decoded, index=index, label=_label(self.info.name), time_s=time_s)

    def _loss_at_end(self, decoding: Decoding) -> str | None:
        """Say why a connection that ended without an error is a loss; None where it had an end, and this is it."""
        if not self._is_finite:
            return "the other side ended it"
        lacking = decoding.missing(self._next)
        return None if lacking is None else f"it ended after {lacking}"

    def _try_again(self, stop: threading.Event, loss: str, tries: int) -> int:
        """Connect again, or say that the source is lost; return the tries so far."""
        again, lost_at = self._reconnect, time.monotonic()
        what = f"{self.info.name}: lost after {self._next:,} frames ({loss})"
        while again is not None and tries < again.attempts:
            tries += 1
            wait_s = again.wait_before(tries)
            self.report(f"{what}; trying again in {wait_s:g} s ({tries} of {again.attempts})", is_loss=False)
            if stop.wait(wait_s):
                return tries
            try:
                decoding = self._connect(self._on_broken)
            except SourceError as error:
                what = str(error)
                continue
            self.report(f"{self.info.name}: back after {time.monotonic() - lost_at:.0f} s", is_loss=False)
            if self._is_finite and self._reached_s is not None:
                self._is_passing = True
                decoding.seek(self._reached_s)
            elif self._began is not None:
                self._base_s = time.monotonic() - self._began
            self._decoding = decoding
            return tries
        self.is_whole = False
        given_up = "" if again is None else f"; given up after {again.attempts} tries"
        self.report(f"{what}{given_up}; what came before is kept")
        return tries


def _label(name: str) -> str:
    """What frames of a stream are called: the last part of its address."""
    return name.split("?")[0].rstrip("/").rsplit("/", 1)[-1] or name
