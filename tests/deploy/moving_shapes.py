"""Videos of moving shapes, and small servers that send them and cut the connection."""

import contextlib
import http.server
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.generated import lay_out

Image = NDArray[np.uint8]


def moving_shapes(count: int, size: tuple[int, int] = (120, 160), seed: int = 0, shapes: int = 3) -> Iterator[Image]:
    """Yield RGB frames in which shapes of the generated pictures move in straight lines and bounce off the edges."""
    height, width = size
    rng = np.random.default_rng(seed)
    corners = rng.integers(60, 200, (2, 2, 3)).astype(np.float32)
    background = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    moving = []
    for index in range(shapes):
        drawn = lay_out(seed, index)[1][0].coverage
        side = int(min(size) * rng.uniform(0.25, 0.5))
        coverage = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA)[..., None]
        room = np.array([height - side, width - side])
        moving.append((coverage, rng.uniform(0, 255, 3), rng.uniform(0, room), rng.uniform(0.5, 3, 2), room, side))
    for number in range(count):
        picture = background.copy()
        for coverage, color, start, step, room, side in moving:
            # There and back again, like a triangle wave.
            y, x = (room - np.abs((start + step * number) % (2 * room) - room)).astype(int)
            region = picture[y : y + side, x : x + side]
            region += (color - region) * coverage
        yield np.rint(picture).astype(np.uint8)


def write_video(
    path: Path,
    pictures: Iterable[Image],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 25,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times: Iterable[int] | None = None,
    rotation: int = 0,
) -> Path:
    """Encode RGB pictures with PyAV.

    Args:
        times: when each is shown, in milliseconds; None for a constant rate.
        rotation: degrees counter-clockwise that players turn it by.
    """
    import av

    stamps = None if times is None else iter(times)
    stream = None
    with av.open(str(path), "w", options=container_options or {}) as container:
        for picture in pictures:
            if stream is None:
                stream = container.add_stream(codec, rate=rate, options=options or {})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pixels
                if rotation:
                    stream.set_display_rotation(rotation)
                if stamps is not None:
                    stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = next(stamps), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return path


class _Cutting(http.server.BaseHTTPRequestHandler):
    """Sends a file; the first connections that ask for most of it, as many as `cuts`, end after `share` of it."""

    protocol_version = "HTTP/1.1"
    path_on_disk: Path
    cuts: int
    share: float
    has_ranges: bool
    pause_s: float
    down_s: float
    down_until: float

    def do_GET(self) -> None:
        data = self.path_on_disk.read_bytes()
        if time.monotonic() < type(self).down_until:
            self.send_error(503)
            return
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.has_ranges else None
        start, end = int(asked[1]) if asked else 0, len(data)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        if not self.has_ranges:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        # The first request of a player that looks for the index is broken off by it.
        is_cut = type(self).cuts > 0 and (not self.has_ranges or 0 < start < end // 2)
        if is_cut:
            type(self).cuts -= 1
            end = int(end * self.share)
            self.close_connection = True
        data = data[start:end]
        with contextlib.suppress(OSError):
            self.wfile.write(data)
        time.sleep(self.pause_s)
        if is_cut:
            type(self).down_until = time.monotonic() + self.down_s

    def log_message(self, *arguments: object) -> None:
        pass


@contextlib.contextmanager
def http_server(
    path: Path,
    *,
    cuts: int = 0,
    share: float = 0.5,
    has_ranges: bool = False,
    pause_s: float = 0.0,
    down_s: float = 0.0,
) -> Iterator[str]:
    """Serve a file, at any path, and yield the address without its path.

    Args:
        cuts: connections that end early, though the length of the whole was promised.
        share: of the file that those get.
        has_ranges: send parts of the file, and keep connections open as HTTP/1.1 does.
        pause_s: seconds for which a connection stays open after that.
        down_s: seconds for which every request is refused after a cut.
    """
    settings = {"path_on_disk": path, "cuts": cuts, "share": share, "has_ranges": has_ranges, "pause_s": pause_s}
    handler = type("Cutting", (_Cutting,), settings | {"down_s": down_s, "down_until": 0.0})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_tcp_stream(video: Path, port: int, *, seconds: float | None = None) -> "subprocess.Popen[bytes]":
    """Have FFmpeg wait for one reader at a port, and send it the video as MPEG-TS at the speed of playing."""
    limit = [] if seconds is None else ["-t", str(seconds)]
    command = ["ffmpeg", "-loglevel", "error", "-nostdin", "-re", "-i", str(video), *limit, "-c", "copy"]
    return subprocess.Popen([*command, "-f", "mpegts", f"tcp://127.0.0.1:{port}?listen=1"])
