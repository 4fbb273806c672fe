"""A bundle's files where the user wants them: whole or absent, and beside what is there already."""

import os
import secrets
import shutil
from pathlib import Path

from ssd_deploy.bundles import Bundle
from ssd_train.errors import ResultError
from ssd_train.files import PART_SUFFIX
from ssd_train.temporary import unfinished


def write_bundle(bundle: Bundle, model: Path, out: Path) -> list[Path]:
    """Write a bundle into a folder, which is made where it is missing.

    Everything is written beside the folder first and moved in at the end. What a folder of that name had is replaced
    where all of it is of such a bundle; anything else in `out` stays as it is, another model of a repository for one.

    Returns:
        the files, in `out`.

    Raises:
        ResultError: `out` is no folder, cannot be written, or has files in the bundle's place that are not its own.
        SSDDeployError: as `Bundle.write`.
    """
    if out.exists() and not out.is_dir():
        raise ResultError(f"{out}: is a file, and a bundle is a folder; choose another name")
    # Its real place, so that the parts lie on the same file system.
    place = Path(os.path.realpath(out))
    part = place.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(part):
            part.mkdir()
            made = bundle.write(model, part)
            names = sorted(entry.name for entry in part.iterdir())
            for name in names:
                _check_replaceable(part / name, place / name, out)
            place.mkdir(exist_ok=True)
            for name in names:
                _move(part / name, place / name)
    except OSError as error:
        raise ResultError(f"{out}: cannot be written ({error.strerror or error}); choose another folder") from error
    return [out / path.relative_to(part) for path in made]


def _check_replaceable(new: Path, old: Path, out: Path) -> None:
    """Raise ResultError where something would be lost that the new entry has no counterpart of."""
    if not os.path.lexists(old):
        return
    if old.is_symlink() or old.is_dir() != new.is_dir():
        raise ResultError(f"{out}: has another {old.name} already; choose another folder")
    if old.is_dir():
        kept = {path.relative_to(new) for path in new.rglob("*")}
        foreign = sorted(path for path in old.rglob("*") if path.relative_to(old) not in kept)
        if foreign:
            raise ResultError(
                f"{out}: would lose {foreign[0].relative_to(old.parent)}, which is no file of this bundle; move it, or "
                "choose another folder"
            )


def _move(new: Path, old: Path) -> None:
    if not old.is_dir():
        os.replace(new, old)
        return
    # A folder does not replace another that has files: the old one steps aside, and back where the new one fails.
    aside = old.with_name(f".{secrets.token_hex(8)}{PART_SUFFIX}")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except OSError:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
