"""Names in annotations -> image files. A name is data: it never leads out of the data set's folder."""

import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

from PIL import Image, UnidentifiedImageError

from ssd_train.preprocess import IMAGE_SUFFIXES, load_image

# EXIF's tag, and its values that exchange width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)


class FileIndex:
    """The files of some kinds in a folder and its sub-folders, by their names without suffix.

    Hidden files and folders are nobody's business; macOS, for one, leaves `._name.xml` beside `name.xml`.

    Args:
        folder: need not exist.
        suffixes: in lower case; of files that differ in nothing else the earlier suffix wins.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> None:
        self.folder = folder
        self.suffixes = suffixes
        found = []
        for parent, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if not name.startswith(".") and path.suffix.lower() in suffixes:
                    found.append((suffixes.index(path.suffix.lower()), path))
        self.paths: dict[str, Path] = {}
        for _, path in sorted(found, key=lambda pair: pair[0]):
            self.paths.setdefault(_composed(path.relative_to(folder).with_suffix("").as_posix()), path)

    def find(self, name: str) -> Path | None:
        """Return the file of a name: its path in the folder, with its suffix or without."""
        name = _composed(name)
        path = self.paths.get(name)
        stem, suffix = os.path.splitext(name)
        return self.paths.get(stem) if path is None and suffix.lower() in self.suffixes else path

    def id_of(self, path: Path) -> str:
        """Return the path in the folder without suffix, with forward slashes."""
        return path.relative_to(self.folder).with_suffix("").as_posix()


def _composed(name: str) -> str:
    """Write accents in one way: file systems and tools differ in it."""
    return unicodedata.normalize("NFC", name)


def find_file(name: str, bases: Iterable[Path], root: Path) -> tuple[Path | None, str]:
    """Look for a named file in some folders.

    Args:
        name: with folders perhaps, and slashes of either kind.
        bases: what the name may be relative to, the likeliest first.
        root: no file outside of it is returned, as the names say; links in it may lead where they do.

    Returns:
        The path, or None, and then why: a clause.
    """
    forward = name.replace("\\", "/")
    if "\0" in name or not name.strip():
        return None, "the name is empty or has a zero byte"
    # A drive alone is no folder: a file may well be called `a:b.jpg`.
    if forward.startswith("/") or (PureWindowsPath(name).drive and "/" in forward):
        return None, f"the name is absolute, but names are relative to {root}"
    is_outside = False
    for base in bases:
        for variant in dict.fromkeys((name, forward)):
            path = Path(os.path.normpath(base / variant))
            if not path.is_relative_to(os.path.normpath(root)):
                is_outside = True
            elif path.is_file():
                return path, ""
    return None, f"the name leads out of {root}" if is_outside else "there is no such file"


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as it is shown, from its header where that tells.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION) in _TURNED
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError):
        # Formats of OpenCV's alone; and errors are told in the same words as everywhere.
        height, width = load_image(path).shape[:2]
        return height, width
    return (width, height) if is_turned else (height, width)
