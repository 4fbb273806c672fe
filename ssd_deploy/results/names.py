"""Names for results: those of the pictures they are of, numbered where two would be the same, and no input's own."""

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
            name, number = f"{stem}{suffix}", 2
            # In one case, since file systems of Windows and macOS take `A.jpg` for `a.jpg`.
            while name.casefold() in self._taken:
                name, number = f"{stem}-{number}{suffix}", number + 1
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
        return self.folder / f"{self._of_source[frame.source]}-{frame.index:06d}{self._suffix_of(frame)}"

    def of_source(self, info: SourceInfo, suffix: str) -> Path:
        """Return the file of a video or a stream. Raises SSDDeployError where it would replace one that is read."""
        path = self.folder / f"{self._of_source[info]}{suffix}"
        self._check(path, "video would replace one that is read")
        return path

    def _check(self, path: Path, trouble: str) -> None:
        if path.resolve() in self._inputs:
            raise SSDDeployError(f"{path}: the annotated {trouble}; choose another folder", arguments=("out",))


def check_not_a_data_set(run: Run, folder: Path) -> None:
    """Raise SSDDeployError where a folder of labels exists beside the pictures: they may be a person's annotations."""
    out_dir = run.out_dir.resolve()
    if folder.exists() and any(out_dir in path.parents for path in run.inputs()):
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
    """Return a name that is one file or folder on every system, whatever a class or a picture is called."""
    name = re.sub(r'[/\\:*?"<>|\x00-\x1f]', "_", name).rstrip(". ")
    return name if name.strip("._ ") else f"_{name.strip('. ')}"
