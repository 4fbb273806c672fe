"""Names that a user gives -> image files."""

import glob
from collections.abc import Sequence
from pathlib import Path

from ssd_train.errors import ImageError
from ssd_train.paths import user_path
from ssd_train.preprocess import IMAGE_SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """Return the image files of a folder and its sub-folders, told by their suffixes, in order of their paths.

    Hidden files and sub-folders are left out: macOS leaves `._name.jpg` beside `name.jpg`, and other programs what they
    had not finished. Who names such a file or folder itself means it.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def find_images(patterns: Sequence[str], *, leave_out: Path | None = None) -> list[Path]:
    """Expand files, folders (with their sub-folders) and glob patterns, each image once.

    Args:
        leave_out: a folder of results, whose pictures are not meant where it lies inside a folder that is named.

    Raises:
        ImageError: a pattern stands for nothing, or can be no path.
    """
    found: list[Path] = []
    for pattern in patterns:
        if not pattern:
            raise ImageError("an empty name stands for no image; name a file, a folder or a pattern")
        path = user_path(pattern, ImageError)
        if path.is_dir():
            matches = images_in(path)
            if leave_out is not None and path.resolve() in leave_out.resolve().parents:
                matches = [match for match in matches if leave_out.resolve() not in match.resolve().parents]
            if not matches:
                raise ImageError(f"{path}: the folder has no images ({', '.join(IMAGE_SUFFIXES)}); name another one")
        elif path.exists():
            matches = [path]
        else:
            matches = [match for match in sorted(map(Path, glob.glob(str(path), recursive=True))) if match.is_file()]
            if not matches:
                raise ImageError(f"{pattern}: no such file or folder, and no file matches it as a pattern")
        found += matches
    return list(dict.fromkeys(found))
