"""Names for results: those of the pictures they are of, numbered where two would be the same, and no input's own."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from ssd_deploy.results.base import Run
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.errors import SSDDeployError

# Formats that annotated pictures keep; a picture of another one becomes PNG, since WebP, for one, would lose pixels.
KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")

# Of a video's or a stream's pictures; the frames come with the losses of a video anyway.
FRAME_SUFFIX = ".jpg"

# The longest name of a file or folder, in bytes: NAME_MAX of the file systems of Linux, macOS and Windows.
LONGEST_NAME = 255

# Names that Windows keeps for devices, whatever suffix they have.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d) *(\.|$)", re.IGNORECASE)


def picture_suffix(frame: Frame) -> str:
    """Return the suffix of a frame's annotated picture."""
    if frame.source.kind != "pictures":
        return FRAME_SUFFIX
    suffix = Path(frame.name).suffix.lower()
    return suffix if suffix in KEPT_SUFFIXES else ".png"


class Names:
    """A file for each frame or each source, in one folder.

    Args:
        run: names every picture and every source that is to come.
        folder: where the files lie.
        suffix_of: frame -> suffix of its file.

    Raises:
        SSDDeployError: a file would replace a picture or a video that is read.
    """

    def __init__(self, run: Run, folder: Path, suffix_of: Callable[[Frame], str]) -> None:
        self.folder, self._suffix_of = folder, suffix_of
        self._inputs = run.inputs()
        self._taken: set[str] = set()
        self._of_picture: dict[Frame, str] = {}
        for frame in run.pictures:
            stem, suffix = safe_name(Path(frame.name).stem), suffix_of(frame)
            name, number = fitted(stem, suffix), 2
            # In one case, since file systems of Windows and macOS take `A.jpg` for `a.jpg`.
            while name.casefold() in self._taken:
                name, number = fitted(stem, f"-{number}{suffix}"), number + 1
            self._taken.add(name.casefold())
            self._of_picture[frame] = name
            self._check(folder / name, "picture would replace an image")
        self._of_source: dict[SourceInfo, str] = {}
        for info in run.sources:
            if info.kind != "pictures":
                stem, number = source_stem(info), 2
                # Numbered as a whole, so that the names of its frames are free, too.
                while stem.casefold() in self._taken or any(
                    name.startswith(f"{stem.casefold()}-") for name in self._taken
                ):
                    stem, number = f"{source_stem(info)}-{number}", number + 1
                self._taken.add(stem.casefold())
                self._of_source[info] = stem

    def of_frame(self, frame: Frame) -> Path:
        """Return a frame's file."""
        if frame.source.kind == "pictures":
            return self.folder / self._of_picture[frame]
        return self.folder / fitted(self._of_source[frame.source], f"-{frame.index:06d}{self._suffix_of(frame)}")

    def of_source(self, info: SourceInfo, suffix: str) -> Path:
        """Return the file of a video or a stream. Raises SSDDeployError where it would replace one that is read."""
        path = self.folder / fitted(self._of_source[info], suffix)
        self._check(path, "video would replace one that is read")
        return path

    def _check(self, path: Path, trouble: str) -> None:
        if os.path.realpath(path) in self._inputs:
            raise SSDDeployError(f"{path}: the annotated {trouble}; choose another folder", arguments=("out",))


def check_not_a_data_set(run: Run, folder: Path) -> None:
    """Raise SSDDeployError where a folder of labels exists beside the pictures: they may be a person's annotations."""
    out_dir = Path(os.path.realpath(run.out_dir))
    if folder.exists() and any(out_dir in Path(path).parents for path in run.inputs()):
        raise SSDDeployError(
            f"{folder}: exists beside the pictures, and its labels would be replaced; choose another folder",
            arguments=("out",),
        )


def source_stem(info: SourceInfo) -> str:
    """Return a file's stem for a video, a camera or a stream: `street`, `camera-0`, `host-stream`."""
    if info.kind == "video":
        return safe_name(Path(info.name).stem)
    # No login of an address in a file's name.
    name = re.sub(r"^\w+://([^/?#]*@)?", "", info.name)
    return safe_name(re.sub(r"[/?#&=:]+", "-", name).strip("-") or "stream")


def safe_name(name: str) -> str:
    """Return a name that is one file or folder on every system, whatever a class or a picture is called.

    It may be too long: see `fitted`.
    """
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f-\x9f]', "_", name).rstrip(". ")
    # Bytes of a name that is not UTF-8 stay; what no file can be called, such as a lone surrogate, does not.
    name = "".join(letter if _is_encodable(letter) else "_" for letter in name)
    if not name.strip("._ ") or _DEVICE.match(name):
        return f"_{name.strip('. ')}"
    return name


def fitted(stem: str, ending: str) -> str:
    """Return stem and ending as a name that is not too long.

    A stem that is cut ends in a hash of all of it, so that those that begin alike stay apart.
    """
    if _size(stem + ending) <= LONGEST_NAME:
        return stem + ending
    ending = f"~{hashlib.sha256(stem.encode(errors='surrogatepass')).hexdigest()[:8]}{ending}"
    while stem and _size(stem + ending) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + ending


def _is_encodable(letter: str) -> bool:
    try:
        os.fsencode(letter)
    except UnicodeEncodeError:
        return False
    return True


def _size(name: str) -> int:
    return len(os.fsencode(name))
