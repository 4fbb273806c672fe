"""Where weights live on this machine, and how published ones get there. No torch.

`<root>/<name>-<sha8>.zip` is downloaded and `<root>/<name>-<sha8>.params` taken out of it and checked, `name` being
a network or a backbone. `<root>/<network>.safetensors` is what a network's are converted to. A `.zip` or `.params`
put there by hand will do.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ssd_train.errors import WeightsError
from ssd_train.files import written_atomically
from ssd_train.networks.zoo import NetworkConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Where GluonCV looks (`gluoncv/model_zoo/model_store.py`); MXNET_GLUON_REPO names a mirror of it.
REPOSITORY = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/"

# Of the connection and of every read: a server that is silent for so long is gone.
TIMEOUT_S = 30.0
# Only where a lock file cannot be held by the system: the time after which its owner is taken for dead (GluonCV's).
LOCK_TIMEOUT_S = 300.0
CHUNK_BYTES = 1 << 18

# Bytes there so far, and in all; None where the server does not say.
Progress = Callable[[int, int | None], None]


class PublishedFile(NamedTuple):
    """A `.params` file that GluonCV published in a zip archive of its own.

    Attributes:
        name: of the network or backbone.
        sha1: of the `.params` file, in full.
    """

    name: str
    sha1: str

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.sha1[:8]}"

    @property
    def url(self) -> str:
        """The address of the archive; $MXNET_GLUON_REPO names a mirror."""
        repository = os.environ.get("MXNET_GLUON_REPO") or REPOSITORY
        return f"{repository.removesuffix('/')}/gluon/models/{self.stem}.zip"


def silent(done_bytes: int, total_bytes: int | None) -> None:
    """A progress callback that shows nothing."""


def default_root() -> Path:
    """Return the folder of weight files: $SSD_DEPLOY_ROOT, or `~/.torch/models`."""
    root = os.environ.get("SSD_DEPLOY_ROOT")
    return Path(root).expanduser() if root else Path.home() / ".torch" / "models"


def weights_path(config: NetworkConfig, root: Path) -> Path:
    """Return where a network's converted weights belong, there or not."""
    return root / f"{config.name}.safetensors"


def cached_weights(config: NetworkConfig, root: Path) -> Path | None:
    """Return a network's converted weights, or None where there are none yet."""
    path = weights_path(config, root)
    return path if path.is_file() else None


def published_url(config: NetworkConfig) -> str:
    """Return the address of a network's published weights, a zip archive; $MXNET_GLUON_REPO names a mirror.

    Raises:
        WeightsError: none were published for this network.
    """
    return _published(config).url


def fetch_params(config: NetworkConfig, root: Path, on_progress: Progress = silent) -> Path:
    """Return a network's published `.params` file, downloaded unless it is in `root` already.

    Raises:
        WeightsError: none were published, or what `fetch_published` says.
        SSDDeployError: `root` cannot be written.
    """
    return fetch_published(_published(config), root, on_progress)


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
            # Looked for once more: another process may have brought it while this one waited.
            if not params.exists():
                _bring(published, archive, params, on_progress)
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
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                on_progress(done, total)
        # A closed connection reads like the end of the file.
        if total is not None and done < total:
            raise http.client.HTTPException("the connection was closed")
        os.replace(part, path)
    # ValueError: an address that is none, such as a mirror without https://.
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the answer too, and holds the connection
        progress = f" after {done} bytes, kept to go on from" if done else ""
        raise WeightsError(
            f"{url}: could not be downloaded ({_reason(error)}{progress}); try again, or download it by other means "
            f"and save it as {path}, where it is looked for next time"
        ) from error


def _open_from(url: str, offset: int) -> tuple[http.client.HTTPResponse, int]:
    """Open a URL at a byte offset, or at 0 if the server will not go on from there; return where it begins."""
    if offset:
        request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"})
        try:
            response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            error.close()
        else:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                return response, 0
            if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                return response, offset
            response.close()
    return urllib.request.urlopen(url, timeout=TIMEOUT_S), 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def _published(config: NetworkConfig) -> PublishedFile:
    if config.params_sha1 is None:
        raise WeightsError(
            f"there are no published weights for {config.name}; name a file with --weights, or use --weights random "
            "for an untrained network"
        )
    return PublishedFile(config.name, config.params_sha1)


def _bring(published: PublishedFile, archive: Path, params: Path, on_progress: Progress) -> None:
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
    except KeyError as error:
        archive.unlink()
        raise WeightsError(
            f"{archive}: does not hold {params.name}, so it was removed; try again, or download "
            f"{published.url} by other means and save it there"
        ) from error
    # The last two: a compression or an encryption that zipfile lacks, which damaged headers ask for.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise WeightsError(
            f"{archive}: is no whole zip archive ({error}), so it was removed; try again, or download "
            f"{published.url} by other means and save it there"
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
    """Hold a lock file; a second process waits here until the first is through."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            file = _create_alone(path)
        else:
            file = path.open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be locked ({error.strerror}); choose another SSD_DEPLOY_ROOT") from error
    try:
        yield
    finally:
        file.close()
        # A file held by the system stays: without it a third process could lock a new one beside a waiting second.
        if fcntl is None:
            path.unlink()


def _create_alone(path: Path) -> IO[str]:
    """Create a file that must not exist yet, as soon as it does not."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return path.open("x")
        except FileExistsError as error:
            if time.monotonic() > deadline:
                raise WeightsError(
                    f"{path}: another process has been fetching these weights for {LOCK_TIMEOUT_S:.0f} s; if there is "
                    "none, remove this file"
                ) from error
            time.sleep(0.1)
