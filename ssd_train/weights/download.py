"""How published weights get to this machine: downloaded once, however many processes ask, resumed and checked."""

import contextlib
import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import requests
import urllib3
from filelock import FileLock

from ssd_train.errors import WeightsError
from ssd_train.files import written_atomically
from ssd_train.weights.store import Progress, PublishedFile, silent

# Of the connection and of every read: a server that is silent for so long is gone.
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 18


def fetch_published(published: PublishedFile, root: Path, on_progress: Progress = silent) -> Path:
    """Return a published `.params` file, downloaded unless it is in `root` already.

    Of several processes that ask at once, one downloads and the others wait for it.

    Raises:
        WeightsError: it cannot be had, or is not what was published (the wrong files are then removed).
        SSDDeployError: `root` cannot be written.
    """
    params = root / f"{published.stem}.params"
    archive = params.with_suffix(".zip")
    if not params.exists():
        with _locked(params.with_suffix(".lock")):
            # Looked for once more: another process may have fetched it while this one waited.
            if not params.exists():
                _fetch(published, archive, params, on_progress)
    _check_sha1(published, params, archive)
    return params


def download(url: str, path: Path, *, on_progress: Progress = silent) -> None:
    """Download a file; `path` appears once it is whole.

    What has arrived is kept in `<path>.part`, and a later call goes on from there if the server can. The
    remote file is taken to be the same one then, so check the hash of what arrives.

    Raises:
        WeightsError: no connection, no such file, or cut off; the message says how to do without this tool.
    """
    part = path.with_name(f"{path.name}.part")
    done, total = 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        response, done = _open_from(url, part.stat().st_size if part.exists() else 0)
        with response, part.open("ab" if done else "wb") as file:
            length = response.headers.get("Content-Length", "")
            total = done + int(length) if length.isdigit() else None
            on_progress(done, total)
            # Not `iter_content`, which drops the last bytes of a connection that was cut off.
            response.raw.enforce_content_length = False
            while chunk := response.raw.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                on_progress(done, total)
        # A closed connection reads like the end of the file.
        if total is not None and done < total:
            raise requests.ConnectionError("the connection was closed")
        os.replace(part, path)
    # RequestException is an OSError, and what `raw` raises is urllib3's.
    except (OSError, urllib3.exceptions.HTTPError) as error:
        progress = f" after {done} bytes, kept to go on from" if done else ""
        raise WeightsError(
            f"{url}: could not be downloaded ({_reason(error)}{progress}); try again, or download it by other means "
            f"and save it as {path}, where it is looked for next time"
        ) from error


def _open_from(url: str, offset: int) -> tuple[requests.Response, int]:
    """Open a URL at a byte offset, or at 0 if the server will not go on from there; return where it begins."""
    # As it is: a compressed answer has neither the length nor the places of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    if offset and response.status_code != requests.codes.ok:
        if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return response, offset
        response.close()
        return _open_from(url, 0)
    if not response.ok:
        response.close()
        raise requests.HTTPError(f"the server answered {response.status_code} {response.reason}")
    return response, 0


def _reason(error: BaseException) -> str:
    """What the system or the server said, which lies under what requests and urllib3 made of it."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _fetch(published: PublishedFile, archive: Path, params: Path, on_progress: Progress) -> None:
    by_hand = archive.exists()
    if not by_hand:
        download(published.url, archive, on_progress=on_progress)
    try:
        with (
            zipfile.ZipFile(archive) as opened,
            opened.open(params.name) as member,
            written_atomically(params) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(member, file)
    # KeyError: another content. The last two: a compression or an encryption that zipfile lacks, which damaged headers
    # ask for.
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        what = f"does not hold {params.name}" if isinstance(error, KeyError) else f"is no whole zip archive ({error})"
        raise WeightsError(
            f"{archive}: {what}, so it was removed; try again, or download {published.url} by other means and save it "
            "there"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{archive}: cannot be unpacked to {params} ({error.strerror}); make room, or choose another "
            "SSD_DEPLOY_ROOT"
        ) from error
    if not by_hand:
        archive.unlink()


def _check_sha1(published: PublishedFile, params: Path, archive: Path) -> None:
    try:
        with params.open("rb") as file:
            # GluonCV published SHA-1 sums; machines in FIPS mode allow it only for such uses.
            sha1 = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
        if sha1 == published.sha1:
            return
        params.unlink()
        archive.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{params}: cannot be checked, or removed if wrong ({error.strerror}); remove it and try again"
        ) from error
    raise WeightsError(
        f"{params}: has the SHA-1 {sha1}, but {published.sha1} was published, so it was removed; try again, or "
        f"download {published.url} by other means and save it as {archive}"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; a second process waits here until the first is through. A file left behind holds nobody."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path).acquire()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be locked ({error.strerror}); choose another SSD_DEPLOY_ROOT") from error
    with held:
        yield
