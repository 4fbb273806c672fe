"""How published weights get to this machine: downloaded once, however many processes ask, resumed and checked."""

import contextlib
import hashlib
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import filelock

from ssd_train.addresses import without_password
from ssd_train.errors import WeightsError
from ssd_train.shared_folder import own_file, plain_size
from ssd_train.weights.archive import ArchiveError, unpacked
from ssd_train.weights.store import Progress, PublishedFile, silent
from ssd_train.weights.transfer import TRANSFER_ERRORS, Limits, TooLarge, open_url

_log = logging.getLogger(__name__)

# Of the connection and of every read: a server that is silent for so long is gone.
TIMEOUT_S = 30.0
# Of the headers, however slowly they drip in.
OPENING_S = 60.0
# A tenth of a telephone modem's 56 kbit/s, over a minute: what is slower is there to hold us.
WINDOW_S = 60.0
BYTES_PER_S = 700.0
REDIRECTS = 5
# Of a file that nobody knows the size of.
MAX_BYTES = 1 << 30
# Until a process that waits for another one says so.
PATIENCE_S = 1.0


def fetch_published(published: PublishedFile, root: Path, on_progress: Progress = silent) -> Path:
    """Return a published `.params` file, downloaded unless it is in `root` already.

    Of several processes that ask at once, one downloads and the others wait for it.

    Raises:
        WeightsError: it cannot be had, or is not what was published (the wrong files are then removed).
    """
    params = root / f"{published.stem}.params"
    if not _is_there(params):
        with _locked(params.with_suffix(".lock")):
            # Looked for once more: another process may have fetched it while this one waited.
            if not _is_there(params):
                _fetch(published, params, on_progress)
                return params
    _check_sha1(published, params)
    return params


def fetch_hashed(url: str, root: Path, *, max_bytes: int, on_progress: Progress = silent) -> Path:
    """Return a file whose name ends with the first digits of its SHA-256, downloaded unless it is in `root` already.

    That is how PyTorch's projects publish weights: `<name>-<digits>.pth`. Of several processes that ask at once, one
    downloads and the others wait for it.

    Raises:
        WeightsError: it cannot be had, or has another hash (the wrong file is then removed).
    """
    path = root / url.rpartition("/")[2]
    if not _is_there(path):
        with _locked(path.with_suffix(".lock")):
            # Looked for once more: another process may have fetched it while this one waited.
            if not _is_there(path):
                download(url, path, max_bytes=max_bytes, on_progress=on_progress)
    digits = path.stem.rpartition("-")[2]
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256.startswith(digits):
            return path
        path.unlink()
    except OSError as error:
        raise _cannot_check(path, error) from error
    raise WeightsError(
        f"{path}: has the SHA-256 {sha256}, which does not begin with {digits} as its name says, so it was removed; "
        f"try again, or download {without_password(url)} by other means and save it there"
    )


def download(url: str, path: Path, *, max_bytes: int = MAX_BYTES, on_progress: Progress = silent) -> None:
    """Download a file; `path` appears once it is whole.

    What has arrived is kept in `<path>.part`, and a later call goes on from there if the server can. The
    remote file is taken to be the same one then, so check the hash of what arrives.

    Args:
        url: http or https, and so is whatever it redirects to; never from https to http.
        path: its folder is created. Links in its place or its part's are replaced.
        max_bytes: a file that is longer, or is said to be, is refused.
        on_progress: told how many bytes are there, and of how many.

    Raises:
        WeightsError: no connection, no such file, too large, too slow or cut off; the message says how to do without
            this tool.
    """
    part = path.with_name(f"{path.name}.part")
    limits = Limits(
        max_bytes=max_bytes,
        silence_s=TIMEOUT_S,
        opening_s=OPENING_S,
        window_s=WINDOW_S,
        bytes_per_s=BYTES_PER_S,
        redirects=REDIRECTS,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = plain_size(part)
        with open_url(url, there if there <= max_bytes else 0, limits) as transfer:
            done = transfer.start
            with open(part, "ab" if done else "wb", opener=own_file) as file:
                on_progress(done, transfer.total_bytes)
                for chunk in transfer.chunks:
                    file.write(chunk)
                    done += len(chunk)
                    on_progress(done, transfer.total_bytes)
        os.replace(part, path)
    except TRANSFER_ERRORS as error:
        kept = 0 if isinstance(error, TooLarge) else plain_size(part)
        if not kept:
            with contextlib.suppress(OSError):
                part.unlink()
        progress = f" after {kept} bytes, kept to go on from" if kept else ""
        reason = without_password(_reason(error))
        raise WeightsError(
            f"{without_password(url)}: could not be downloaded ({reason}{progress}); try again, or download it by "
            f"other means and save it as {path}, where it is looked for next time"
        ) from error


def _reason(error: BaseException) -> str:
    """What the system or the server said, which lies under what requests and urllib3 made of it."""
    while error.__context__ is not None:
        error = error.__context__
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]


def _is_there(path: Path) -> bool:
    """Whether something has a name that is not simply replaced, as links to nowhere and pipes are."""
    return path.is_file() or path.is_dir()


def _fetch(published: PublishedFile, params: Path, on_progress: Progress) -> None:
    """Download the archive, unless it was put there by hand, and take the file out of it."""
    archive = params.with_suffix(".zip")
    by_hand = _is_there(archive)
    if not by_hand:
        download(published.url, archive, max_bytes=published.max_bytes, on_progress=on_progress)
    part = params.with_name(f"{params.name}.part")
    # GluonCV published SHA-1 sums; machines in FIPS mode allow it only for such uses.
    sha1 = hashlib.sha1(usedforsecurity=False)
    try:
        with open(part, "wb", opener=own_file) as file:
            for chunk in unpacked(archive, params.name, published.max_bytes):
                file.write(chunk)
                sha1.update(chunk)
        if sha1.hexdigest() != published.sha1:
            archive.unlink()
            raise _is_wrong(published, params, sha1.hexdigest())
        os.replace(part, params)
    except ArchiveError as error:
        archive.unlink()
        raise WeightsError(
            f"{archive}: {error}, so it was removed; try again, or download {without_password(published.url)} by "
            "other means and save it there"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{archive}: cannot be unpacked to {params} ({error.strerror}); make room, or choose another "
            "SSD_DEPLOY_ROOT"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    if not by_hand:
        archive.unlink()


def _check_sha1(published: PublishedFile, params: Path) -> None:
    """Check a file that was there."""
    try:
        with params.open("rb") as file:
            sha1 = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
        if sha1 == published.sha1:
            return
        params.unlink()
        params.with_suffix(".zip").unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_check(params, error) from error
    raise _is_wrong(published, params, sha1)


def _cannot_check(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be checked, or removed if wrong ({error.strerror}); remove it and try again")


def _is_wrong(published: PublishedFile, params: Path, sha1: str) -> WeightsError:
    return WeightsError(
        f"{params}: has the SHA-1 {sha1}, but {published.sha1} was published, so it was removed; try again, or "
        f"download {without_password(published.url)} by other means and save it as {params.with_suffix('.zip')}"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second process waits here until the first is through. A file left behind holds nobody."""
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE_S)
        except filelock.Timeout:
            _log.info("waiting for another fetch (%s, which holds %s); Ctrl-C ends the waiting", _holder(path), path)
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: cannot be locked ({reason}); choose another SSD_DEPLOY_ROOT") from error
    try:
        _sign(path)
        yield
    finally:
        lock.release()


def _sign(lock: Path) -> None:
    """Write into a lock who holds it, for those who wait; they do without where that fails."""
    with contextlib.suppress(OSError), open(lock, "w", opener=own_file, encoding="utf-8") as file:
        file.write(f"process {os.getpid()} on {platform.node()}")


def _holder(lock: Path) -> str:
    """Return who holds a lock."""
    try:
        with lock.open(encoding="utf-8", errors="replace") as file:
            return file.read(200) or "another process"
    except OSError:
        return "another process"
