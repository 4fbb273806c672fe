"""What a user names -> sources: the table of kinds, and the order in which a word is tried."""

import dataclasses
import functools
import glob
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.address import STREAM_SCHEMES, scheme_of
from ssd_deploy.sources.base import Reconnect, Source
from ssd_deploy.sources.pictures import Pictures
from ssd_train.addresses import without_password
from ssd_train.errors import SourceError
from ssd_train.image_files import find_images
from ssd_train.paths import user_path
from ssd_train.picture_header import HEAD_BYTES, is_picture
from ssd_train.preprocess import IMAGE_SUFFIXES

Image = NDArray[np.uint8]
# A word of the command line, a path, the number of a camera, or one of several.
Named = str | Path | int | Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """How a source is opened.

    Attributes:
        reconnect: when a lost camera or stream is tried again; None: it ends, and is no longer whole.
        drop_late: whether frames that come while the reader is busy are left out, so that the newest is next. None:
            of cameras and streams that cannot wait, yes; of files and HTTP, no.
        timeout_s: seconds after which a stream that gives nothing is lost.
        leave_out: a folder of results inside a folder of pictures.
        max_pixels: most that a picture or frame may have; None for the process's limit, see `ssd_train.pixel_limit`.
    """

    reconnect: Reconnect | None = None
    drop_late: bool | None = None
    timeout_s: float = 10.0
    leave_out: Path | None = None
    max_pixels: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kind:
    """A row of the table of kinds.

    Attributes:
        fits: whether a word names such a source.
        open: opens it; None for pictures, neighbours of which are one source.
    """

    fits: Callable[[str], bool]
    open: Callable[[str, OpenOptions], Source] | None


def _open_camera(word: str, options: OpenOptions) -> Source:
    from ssd_deploy.sources.live import open_camera

    return open_camera(word, options.reconnect, options.drop_late, options.timeout_s, options.max_pixels)


def _open_stream(word: str, options: OpenOptions) -> Source:
    from ssd_deploy.sources.live import open_stream

    return open_stream(word, options.reconnect, options.drop_late, options.timeout_s, options.max_pixels)


def _open_video(word: str, options: OpenOptions) -> Source:
    from ssd_deploy.sources.video import VideoFile

    return VideoFile(user_path(word, SourceError), drop_late=bool(options.drop_late), max_pixels=options.max_pixels)


def _is_camera(word: str) -> bool:
    path = Path(word)
    return (word.isascii() and word.isdigit() and not path.exists()) or path.is_char_device()


def _is_video(word: str) -> bool:
    """A file that is no picture by its name, nor by its first bytes."""
    path = user_path(word, SourceError)
    if not path.is_file() or path.suffix.lower() in IMAGE_SUFFIXES:
        return False
    # Read here, since OpenCV's `haveImageReader` ends the process over a name that is not UTF-8.
    with path.open("rb") as file:
        return not is_picture(file.read(HEAD_BYTES))


# The first row that fits a word opens it.
_KINDS = {
    "camera": _Kind(fits=_is_camera, open=_open_camera),
    "stream": _Kind(fits=lambda word: scheme_of(word) is not None, open=_open_stream),
    "video": _Kind(fits=_is_video, open=_open_video),
    "pictures": _Kind(fits=lambda _: True, open=None),
}


def open_source(
    named: Named | Sequence[Named],
    *,
    reconnect: Reconnect | None = None,
    drop_late: bool | None = None,
    timeout_s: float = 10.0,
    max_pixels: int | None = None,
) -> Source:
    """Open one source.

    Args:
        named: a picture, a folder or pattern of pictures, a video file; the number of a camera, `0` or 0; an address
            of a stream; an RGB uint8 array (H, W, 3); or a list of pictures, folders, patterns and arrays.
        reconnect, drop_late, timeout_s, max_pixels: see `OpenOptions`.

    Raises:
        SourceError: it cannot be opened, or is more than one source.
        ImageError: a folder or pattern without pictures, or no such file.
        BackendError: PyAV, which videos need, is not installed.
    """
    options = OpenOptions(reconnect=reconnect, drop_late=drop_late, timeout_s=timeout_s, max_pixels=max_pixels)
    several = _grouped([named] if isinstance(named, str | Path | int | np.ndarray) else named, options)
    if len(several) != 1:
        what = "an empty list is no source" if not several else f"the list is {len(several)} sources, not one"
        raise SourceError(f"{what}; a list may name pictures, and a video or a stream is opened alone")
    return several[0]()


def open_sources(
    words: Sequence[Named],
    *,
    leave_out: Path | None = None,
    reconnect: Reconnect | None = None,
    drop_late: bool | None = None,
    timeout_s: float = 10.0,
    max_pixels: int | None = None,
) -> list[Source]:
    """Open all that a command line names, in its order.

    Pictures, folders and patterns that follow each other are one source; each video, camera and stream is one.

    Args:
        words: at least one; each as for `open_source`.
        leave_out: a folder of results, whose pictures are not meant where it lies inside a folder that is named.
        reconnect, drop_late, timeout_s, max_pixels: see `OpenOptions`.

    Raises:
        SourceError, ImageError, BackendError: as `open_source`; nothing stays open then.
    """
    options = OpenOptions(
        reconnect=reconnect, drop_late=drop_late, timeout_s=timeout_s, leave_out=leave_out, max_pixels=max_pixels
    )
    opened: list[Source] = []
    try:
        for opens in _grouped(words, options):
            opened.append(opens())
    except BaseException:
        for source in opened:
            source.close()
        raise
    if not opened:
        raise SourceError("no source is named; name pictures, folders, videos, a camera or a stream")
    return opened


def _grouped(words: Sequence[Named], options: OpenOptions) -> list[Callable[[], Source]]:
    """Return what opens each source; words are looked at, but nothing is opened yet."""
    opens: list[Callable[[], Source]] = []
    pictures: list[Named] = []

    def end_pictures() -> None:
        if pictures:
            opens.append(functools.partial(_open_pictures, tuple(pictures), options))
            pictures.clear()

    for named in words:
        if isinstance(named, np.ndarray):
            pictures.append(named)
            continue
        for word in _expanded(str(named)):
            opener = _kind_of(word).open
            if opener is None:
                pictures.append(word)
            else:
                end_pictures()
                opens.append(functools.partial(opener, word, options))
    end_pictures()
    return opens


def _expanded(word: str) -> list[str]:
    """Return the files that a pattern stands for, since they may be videos; any other word alone.

    Raises:
        SourceError: it can be no path, and is no address.
    """
    if scheme_of(word) is not None:
        return [word]
    path = user_path(word, SourceError)
    if not glob.has_magic(word) or path.exists():
        return [word]
    matches = [match for match in sorted(glob.glob(str(path), recursive=True)) if Path(match).is_file()]
    return matches or [word]


def _kind_of(word: str) -> _Kind:
    scheme = scheme_of(word)
    if scheme is not None and scheme not in STREAM_SCHEMES:
        raise SourceError(
            f"{without_password(word)}: no stream starts with {scheme}://; use {', '.join(STREAM_SCHEMES)}"
        )
    return next(row for row in _KINDS.values() if row.fits(word))


def _open_pictures(words: Sequence[Named], options: OpenOptions) -> Source:
    paths = [str(word) for word in words if not isinstance(word, np.ndarray)]
    items: list[Path | Image] = []
    if len(paths) == len(words):
        # All at once, so that a picture that two words stand for comes once.
        items += find_images(paths, leave_out=options.leave_out)
    else:
        for word in words:
            items += [word] if isinstance(word, np.ndarray) else find_images([str(word)], leave_out=options.leave_out)
    name = paths[0] if len(words) == len(paths) == 1 else f"{len(items)} pictures"
    return Pictures(items, name, max_pixels=options.max_pixels)
