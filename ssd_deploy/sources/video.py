"""Video files."""

import threading
from collections.abc import Iterator
from pathlib import Path

from ssd_deploy.sources.decoded import DecodedSource
from ssd_deploy.sources.decoding import Decoding, tell_nobody
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.requirements import require

# Formats whose files name other files or addresses: a video that somebody sent must not make this machine open those.
_PLAYLISTS = {"hls", "applehttp", "concat", "dash", "imf", "image2", "rtsp", "sdp"}


class VideoFile(DecodedSource):
    """A video file: every frame, in order.

    Args:
        path: anything that FFmpeg reads and that is no playlist.
        drop_late, max_pixels: see `OpenOptions`.

    Raises:
        SourceError: it is no video, or has no frame that can be decoded.
        BackendError: PyAV is not installed.
    """

    def __init__(self, path: Path, *, drop_late: bool = False, max_pixels: int | None = None) -> None:
        super().__init__(drop_late=drop_late)
        self._path, self._max_pixels = path, max_pixels
        # Opened to look and closed again, so that of many files that are named one is open.
        decoding = self._open(tell_broken=False)
        decoding.close()
        self.info = SourceInfo(
            name=str(path), kind="video", frames=decoding.stated_frames, rate=decoding.rate, size=decoding.size
        )

    def _open(self, *, tell_broken: bool = True) -> Decoding:
        require("av", "video", "Video")
        import av

        options = {
            "protocol_whitelist": "file",
            "format_whitelist": ",".join(sorted(av.formats_available - _PLAYLISTS)),
        }
        on_broken = self._note_broken if tell_broken else tell_nobody
        # With `file:`, since a file's name may look like an address.
        return Decoding(
            f"file:{self._path}",
            name=str(self._path),
            options=options,
            on_broken=on_broken,
            max_pixels=self._max_pixels,
        )

    def _produce(self, stop: threading.Event) -> Iterator[Frame]:
        import av

        decoding = self._open()
        try:
            try:
                for number, time_s, decoded in decoding.frames():
                    yield self._decoded_frame(decoded, index=number, label=self._path.name, time_s=time_s)
                lacking = decoding.missing(decoding.count)
            except av.FFmpegError as error:
                lacking = f"{decoding.count:,} frames ({decoding.reason(error)})"
            self._say_broken()
            if lacking is not None:
                self.is_whole = False
                self.report(f"{self.info.name}: ends after {lacking}; the file is cut off or damaged")
        finally:
            decoding.close()
