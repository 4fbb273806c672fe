"""Names in annotations -> image files. A name is data: it never leads out of the data set's folder."""

import os
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PureWindowsPath

from PIL import Image, UnidentifiedImageError

from ssd_train.datasets.findings import Findings
from ssd_train.errors import ImageError
from ssd_train.input_files import open_regular
from ssd_train.pixel_limit import check_pixels
from ssd_train.preprocess import IMAGE_SUFFIXES, load_image

# EXIF's tag, and its values that exchange width and height.
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)

# Pixels of a side, above which an annotated size is none: as much as the formats of images can say.
MOST_SIDE = 2**31


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
        for parent, names in _walk(folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in suffixes:
                    found.append((suffixes.index(suffix.lower()), parent + stem, suffix))
        self.paths: dict[str, Path] = {}
        self._whole: dict[str, Path] = {}
        self._ids: dict[Path, str] = {}
        for _, stem, suffix in sorted(found, key=lambda each: each[0]):
            path = folder / f"{stem}{suffix}"
            self.paths.setdefault(_composed(stem), path)
            self._whole[_composed(f"{stem}{suffix}")] = path
            self._ids[path] = stem

    def find(self, name: str) -> Path | None:
        """Return the file of a name: its path in the folder, without its suffix or with it."""
        name = _composed(name)
        stem, suffix = os.path.splitext(name)
        # The last is for a suffix in other letters, or that of a picture that was converted since.
        without = self.paths.get(stem) if suffix.lower() in self.suffixes else None
        return self.paths.get(name) or self._whole.get(name) or without

    def id_of(self, path: Path) -> str:
        """Return a found file's path in the folder without suffix, with forward slashes."""
        return self._ids[path]


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder, as a path in the first one that is empty or ends in a slash, and the names of its files.

    Links to folders are followed, but not in circles.
    """
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".")
            and not (os.path.islink(path := os.path.join(parent, name)) and os.path.realpath(path) in seen)
        )
        relative = Path(parent).relative_to(folder).as_posix()
        yield "" if relative == "." else f"{relative}/", sorted(name for name in files if not name.startswith("."))


def _composed(name: str) -> str:
    """Write accents in one way: file systems and tools differ in it."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> dict[str, None]:
    """Return a name with its accents as written, and in the two ways that file systems have them."""
    return dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))


def inside(path: str | Path, root: Path) -> Path | None:
    """Return a path as one that begins with `root`; None where it leads out of it, as the names say."""
    try:
        relative = os.path.relpath(path, root)
    except ValueError:  # on another drive of Windows
        return None
    return None if relative.split(os.sep)[0] == os.pardir else root / relative


def find_file(name: str, bases: Iterable[Path], root: Path) -> tuple[Path | None, str]:
    """Look for a named file in some folders.

    Args:
        name: with folders perhaps, and slashes of either kind.
        bases: folders in `root` that the name may be relative to, the likeliest first.
        root: no file outside of it is returned, as the names say; links in it may lead where they do.

    Returns:
        The path, or None, and then why: a clause.
    """
    forward = name.replace("\\", "/")
    if "\0" in name or not name.strip():
        return None, "the name is empty or has a zero byte"
    # A drive alone is no folder, but on Windows: elsewhere a file may well be called `a:b.jpg`.
    drive = PureWindowsPath(name).drive
    if forward.startswith("/") or (drive and ("/" in forward or os.name == "nt")):
        return None, f"the name is absolute, but names are relative to {root}"
    is_outside, may_lead_out = False, ".." in forward.split("/")
    variants = dict.fromkeys((name, forward)) | ({} if name.isascii() else spellings(forward))
    for base in bases:
        for variant in variants:
            path = inside(base / variant, root) if may_lead_out else base / variant
            is_outside = is_outside or path is None
            # Unlike `Path.is_file`, it takes a name that is too long for one that is not there.
            if path is not None and os.path.isfile(path):
                return path, ""
    return None, f"the name leads out of {root}" if is_outside else "there is no such file"


def known_size(path: Path, findings: Findings) -> tuple[int, int] | None:
    """Return what `image_size` does; None where the file cannot be read, if all faults are wanted."""
    try:
        return image_size(path)
    except ImageError as error:
        if not findings.is_complete:
            raise
        findings.stop(str(error), place=path.name)
        return None


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image as it is shown, from its header where that tells.

    Raises:
        ImageError: the file cannot be read, or has more pixels than the process's limit.
    """
    try:
        with warnings.catch_warnings():
            # Of Pillow's own limit, and of odd entries; what matters here is said below.
            warnings.simplefilter("ignore")
            with open_regular(path) as file, Image.open(file) as image:
                (width, height), turn, kind = image.size, image.getexif().get(_ORIENTATION), image.format
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError):
        kind = None
    # OpenCV has formats that Pillow has not, and its errors are told in the same words as everywhere. Pillow turns the
    # size of a TIFF itself, in some of its versions.
    if kind in (None, "TIFF"):
        height, width = load_image(path).shape[:2]
        return height, width
    check_pixels(path, (height, width))
    return (width, height) if turn in _TURNED else (height, width)
