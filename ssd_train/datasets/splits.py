"""What parts of a data set are called."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ssd_train.errors import DatasetError

# All images of a folder that says of none what it is for.
ALL = "all"

# The validation part of a data set without one, see `holdout`.
HELD_OUT = "val"

# Folders of a split, as people and tools call them, the usual name first.
SPLIT_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("valid", "val", "validation"),
    "test": ("test", "testing"),
}

# The same in the order of training, validation, test.
SPLIT_NAMES = tuple(name for names in SPLIT_FOLDERS.values() for name in names)


def find_part(present: Sequence[str], part: str) -> str | None:
    """Return which of a data set's splits is for training, validation or test; None where none is."""
    return next((name for name in SPLIT_FOLDERS[part] if name in present), None)


def named_split(root: Path, present: Sequence[str], part: str) -> str:
    """Return which of a data set's folders is for training, validation or test.

    Raises:
        DatasetError: none is.
    """
    found = find_part(present, part)
    if found is None:
        raise DatasetError(
            f"{root}: has no folder {' or '.join(SPLIT_FOLDERS[part])}, only {', '.join(present) or 'none'}; name a "
            "split, or hold out a part of the training images",
            arguments=(f"{part}_split", "val_share"),
        )
    return found


def no_lists(root: Path) -> NoReturn:
    """Raise DatasetError where a training finds images, but nothing says which ones to validate on."""
    raise DatasetError(
        f"{root}: has no lists of images to train and to validate on; hold a part of them out, for example "
        "val_share 0.1",
        arguments=("val_share",),
    )
