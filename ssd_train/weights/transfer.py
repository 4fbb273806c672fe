"""One file over HTTP, with a limit to everything that the other side decides: addresses, sizes and times."""

import contextlib
import dataclasses
import http.client
import queue
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import urllib3

# Small enough that a slow connection fills several in a window.
CHUNK_BYTES = 1 << 14

# What a broken or hostile server can end in. ValueError: addresses and encodings that requests leaves to its caller.
TRANSFER_ERRORS = (OSError, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError)

_SCHEMES = ("http", "https")

# Of more digits than any file has bytes, an integer is a way to take time.
_DIGITS = r"[0-9]{1,18}"


class TooLarge(requests.RequestException):
    """More bytes than the file can have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a transfer may take.

    Attributes:
        max_bytes: of the whole file.
        silence_s: of the connection, and between any two of its bytes.
        opening_s: until the headers of the answer are here, those of redirects included.
        window_s, bytes_per_s: it ends where fewer bytes a second arrive over one window.
        redirects: so many are followed.
    """

    max_bytes: int
    silence_s: float
    opening_s: float
    window_s: float
    bytes_per_s: float
    redirects: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
    """An answer that can be read.

    Attributes:
        start: the byte of the file that it begins at.
        total_bytes: of the whole file; None where the server does not say.
        chunks: the bytes; to be read once. Raises one of `TRANSFER_ERRORS`.
    """

    start: int
    total_bytes: int | None
    chunks: Iterator[bytes]


@contextlib.contextmanager
def open_url(url: str, offset: int, limits: Limits) -> Iterator[Transfer]:
    """Open a URL at a byte offset, or at 0 if the server will not go on from there.

    Proxies and certificates are those of the environment, as requests has them.

    Raises:
        One of `TRANSFER_ERRORS`: no connection, no such file, or an answer that breaks a limit.
    """
    reading = _Reading(url, offset, limits)
    try:
        response = reading.response()
        total = _resumed_total(response, offset)
        if total is None and offset and response.status_code != requests.codes.ok:
            reading.leave()
            reading = _Reading(url, 0, limits)
            response = reading.response()
        if total is None and response.status_code != requests.codes.ok:
            raise requests.HTTPError(f"the server answered {response.status_code} {response.reason}")
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise requests.HTTPError(f"the server compressed its answer ({encoding}), which it was told not to")
        start, total = (0, _length(response.headers)) if total is None else (offset, total)
        if total is not None and total > limits.max_bytes:
            raise TooLarge(f"the server announced {total} bytes, more than the {limits.max_bytes} that it can have")
        yield Transfer(start=start, total_bytes=total, chunks=_counted(reading, start, total, limits))
    finally:
        reading.leave()


def _length(headers: Mapping[str, str]) -> int | None:
    """Return how many bytes an answer announces."""
    written = headers.get("Content-Length")
    if written is None or "Transfer-Encoding" in headers:
        return None
    if not re.fullmatch(_DIGITS, written.strip()):
        raise requests.HTTPError(f"the server's Content-Length is {written[:40]!r}, where a number was expected")
    return int(written)


def _resumed_total(response: requests.Response, offset: int) -> int | None:
    """Return the file's size where an answer is its rest from `offset`; None for anything else."""
    if not offset or response.status_code != requests.codes.partial_content:
        return None
    written = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(rf"bytes ({_DIGITS})-({_DIGITS})/({_DIGITS})", written)
    if match is None:
        return None
    first, last, total = map(int, match.groups())
    is_rest = first == offset and last + 1 == total and _length(response.headers) in (None, total - offset)
    return total if is_rest else None


def _counted(reading: "_Reading", start: int, total: int | None, limits: Limits) -> Iterator[bytes]:
    done = start
    since, then = time.monotonic(), done
    while True:
        left_s = since + limits.window_s - time.monotonic()
        if left_s <= 0:
            if done - then < limits.bytes_per_s * limits.window_s:
                raise requests.Timeout(
                    f"fewer than {limits.bytes_per_s:g} bytes a second arrived over {limits.window_s:g} s"
                )
            since, then = time.monotonic(), done
            continue
        chunk = reading.next(left_s)
        if chunk is None:
            continue
        if not chunk:
            break
        done += len(chunk)
        if done > limits.max_bytes:
            raise TooLarge(f"the server sent more than the {limits.max_bytes} bytes that it can have")
        yield chunk
    # A closed connection reads like the end of the file.
    if total is not None and done < total:
        raise requests.ConnectionError("the connection was closed")


class _Reading:
    """A request that runs in a thread of its own, which can be left.

    Sockets have a limit of silence alone: one that gives a byte now and then, in headers, redirects or data, holds
    whoever waits for it.
    """

    def __init__(self, url: str, offset: int, limits: Limits) -> None:
        self._url, self._offset, self._limits = url, offset, limits
        self._arrived: queue.Queue[requests.Response | bytes | Exception] = queue.Queue(maxsize=16)
        self._is_left = threading.Event()
        self._response: requests.Response | None = None
        threading.Thread(target=self._run, name="download", daemon=True).start()

    def response(self) -> requests.Response:
        """Wait for the headers."""
        arrived = self._wait(self._limits.opening_s)
        if arrived is None:
            raise requests.Timeout(f"the server did not answer within {self._limits.opening_s:g} s")
        assert isinstance(arrived, requests.Response)
        self._response = arrived
        return arrived

    def next(self, timeout_s: float) -> bytes | None:
        """Return the next bytes, none at the end; None where there are none yet."""
        arrived = self._wait(timeout_s)
        assert not isinstance(arrived, requests.Response)
        return arrived

    def _wait(self, timeout_s: float) -> requests.Response | bytes | None:
        try:
            arrived = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def leave(self) -> None:
        """Let the thread end, which closes the connection."""
        self._is_left.set()
        # Wakes a thread that waits for bytes; older releases of urllib3 have no way to, and it ends with the next byte.
        shutdown = getattr(self._response and self._response.raw, "shutdown", None)
        if shutdown is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                shutdown()

    def _run(self) -> None:
        # As it is: a compressed answer has neither the length nor the places of the file.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self._offset}-"} if self._offset else {})
        try:
            with requests.Session() as session:
                session.max_redirects = self._limits.redirects
                _check_scheme(self._url)
                with session.get(
                    self._url,
                    headers=headers,
                    stream=True,
                    timeout=self._limits.silence_s,
                    hooks={"response": _check_redirect},
                ) as response:
                    self._tell(response)
                    # Not `iter_content`, which drops the last bytes of a connection that was cut off.
                    response.raw.enforce_content_length = False
                    while not self._is_left.is_set() and (chunk := response.raw.read(CHUNK_BYTES)):
                        self._tell(chunk)
            self._tell(b"")
        except Exception as error:  # raised again where it is waited for
            self._tell(error)

    def _tell(self, arrived: requests.Response | bytes | Exception) -> None:
        while not self._is_left.is_set():
            with contextlib.suppress(queue.Full):
                return self._arrived.put(arrived, timeout=0.2)


def _check_redirect(response: requests.Response, **_: Any) -> None:
    """Refuse a redirect that leads out of the web, or to where others can read and change what is sent."""
    if not response.is_redirect:
        return
    # Otherwise requests reads all of its body, however long.
    response.close()
    target = urllib.parse.urljoin(response.url, response.headers["Location"])
    _check_scheme(target)
    if response.url.lower().startswith("https:") and target.lower().startswith("http:"):
        raise requests.exceptions.InvalidSchema("the server sent on from https to http, which is not safe")


def _check_scheme(url: str) -> None:
    # Without any, it is no address, which requests says.
    scheme = urllib.parse.urlsplit(url).scheme.lower()
    if scheme and scheme not in _SCHEMES:
        raise requests.exceptions.InvalidSchema(f"an address with {scheme}: is not followed, only http: and https:")
