"""Servers, archives and folders that mean harm, or are broken in such a way: each ends in one sentence, soon."""

import bz2
import contextlib
import hashlib
import io
import logging
import lzma
import os
import socket
import ssl
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssd_train.errors import WeightsError
from ssd_train.networks.zoo import NETWORKS
from ssd_train.weights import archive as archive_module
from ssd_train.weights import download as module
from ssd_train.weights.backbone import PUBLISHED_SHA1
from ssd_train.weights.download import download, fetch_published
from ssd_train.weights.store import PublishedFile, published_file

DATA = bytes(range(256)) * 400
PART = DATA[:1000]
MAX_BYTES = 2 * len(DATA)
# In the place of a minute, so that whoever drips is found out within a second.
WINDOW_S = 0.2

Answer = Callable[[socket.socket, str], None]


@contextlib.contextmanager
def serving(answer: Answer, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Answer every request with what `answer` sends, by raw bytes; yields the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            context.wrap_socket(connection, server_side=True) if context else connection as opened,
        ):
            request = b""
            while b"\r\n\r\n" not in request:
                request += opened.recv(65536)
            answer(opened, request.decode())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TIMEOUT_S": 2.0, "OPENING_S": WINDOW_S, "WINDOW_S": WINDOW_S}.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def headed(*headers: str, status: str = "200 OK", body: bytes = DATA) -> Answer:
    def answer(connection: socket.socket, request: str) -> None:
        connection.sendall("\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode("latin-1") + body)

    return answer


def endless(*headers: str, status: str = "200 OK") -> Answer:
    def answer(connection: socket.socket, request: str) -> None:
        headed(*headers, status=status, body=b"")(connection, request)
        # Not really, so that a fault of ours fills no disk.
        for _ in range(1000):
            connection.sendall(DATA)

    return answer


def endless_header(connection: socket.socket, request: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        connection.sendall(b"a" * 1000)


def dripping(before: bytes, drop: bytes) -> Answer:
    def answer(connection: socket.socket, request: str) -> None:
        connection.sendall(before)
        for _ in range(200):
            connection.sendall(drop)
            time.sleep(0.05)

    return answer


def redirecting(location: str, body: bytes = b"") -> Answer:
    return headed(f"Location: {location}", status="302 Found", body=body)


def silent(connection: socket.socket, request: str) -> None:
    time.sleep(3)


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(DATA)}"
RANGE_ERROR = "the server answered 206"

ANSWERS: dict[str, tuple[Answer, str]] = {
    "a length beyond the file": (headed("Content-Length: 1000000"), "announced 1000000 bytes, more than the 204800"),
    "a length of 18 digits": (headed(f"Content-Length: {'9' * 18}"), "announced 9{18} bytes"),
    "a length of 5000 digits": (headed(f"Content-Length: {'9' * 5000}"), "Content-Length is '999"),
    "a negative length": (headed("Content-Length: -5"), "Content-Length is '-5'"),
    "a length in words": (headed("Content-Length: many"), "Content-Length is 'many'"),
    "a length in other digits": (headed("Content-Length: \xb2\xb3"), "Content-Length is"),
    "two equal lengths": (headed(LENGTH, LENGTH), "Content-Length is"),
    "two lengths": (headed(LENGTH, "Content-Length: 3"), "Content-Length"),
    "no end and no length": (endless(), "sent more than the 204800 bytes"),
    "no end in chunks": (
        headed("Transfer-Encoding: chunked", body=(b"%x\r\n" % len(DATA) + DATA + b"\r\n") * 5 + b"0\r\n\r\n"),
        "sent more than the 204800 bytes",
    ),
    "chunks cut off": (
        headed("Transfer-Encoding: chunked", body=b"fffff\r\n" + DATA),
        "IncompleteRead.*kept to go on from",
    ),
    "chunks of no size": (headed("Transfer-Encoding: chunked", body=b"zz\r\n" + DATA), "invalid literal"),
    "cut off": (headed(LENGTH, body=DATA[:-1]), "the connection was closed after 102399 bytes, kept to go on from"),
    "compressed": (headed(LENGTH, "Content-Encoding: gzip"), "compressed its answer"),
    "headers that drip": (dripping(OK, b"X-Drop: 1\r\n"), "did not answer within 0.2 s"),
    "one header that drips": (dripping(OK + b"X-Drop: ", b"a"), "did not answer within 0.2 s"),
    "a status that drips": (dripping(b"", b"H"), "did not answer within 0.2 s"),
    "data that drip": (dripping(OK + b"Content-Length: 102400\r\n\r\n", b"a"), "fewer than 700 bytes a second"),
    "data that drip without a length": (dripping(OK + b"\r\n", b"a"), "fewer than 700 bytes a second"),
    "the head of a chunk that drips": (
        dripping(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        "fewer than 700 bytes a second",
    ),
    "silence": (silent, "did not answer within 0.2 s"),
    "an endless header": (endless_header, "got more than 65536 bytes"),
    "10,000 headers": (headed(*[f"X-{number}: 1" for number in range(10_000)]), "got more than 100 headers"),
    "no status": (headed(status="", body=b""), "HTTP/1.1"),
    "another protocol": (lambda connection, request: connection.sendall(b"\x00\xff\x1b]0;SSH\n" * 50), "0;SSH"),
    "a part unasked": (headed(LENGTH, f"Content-Range: bytes 0-9/{10**6}", status="206 Partial Content"), RANGE_ERROR),
    "nothing": (headed(status="204 No Content", body=b""), "the server answered 204"),
    "not modified": (headed(status="304 Not Modified", body=b""), "the server answered 304"),
    "an error": (headed("Content-Length: 0", status="503 \x1b[31mBusy", body=b""), "the server answered 503"),
    "a redirect to a file": (redirecting("file:///etc/passwd"), "an address with file: is not followed"),
    "a redirect to ftp": (redirecting("ftp://127.0.0.1/x"), "an address with ftp: is not followed"),
    "a redirect in circles": (redirecting("/again"), "Exceeded 5 redirects"),
    "a redirect with an endless body": (endless("Location: /again", status="302 Found"), "Exceeded 5 redirects"),
    "a redirect to nowhere": (redirecting("http://"), "Exceeded 5 redirects"),
    "a redirect to half an address": (redirecting("http://[::1"), "Invalid IPv6 URL"),
    "a redirect in Latin-1": (redirecting("/\xff\xfe"), "can't decode byte"),
    "a redirect with a password": (redirecting("ftp://me:secret@127.0.0.1/x"), "ftp: is not followed"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_hostile_answer_is_one_sentence_soon(tmp_path: Path, case: str) -> None:
    answer, expected = ANSWERS[case]
    begun = time.monotonic()
    with serving(answer) as url, pytest.raises(WeightsError, match=expected) as raised:
        download(f"{url}/w.zip", tmp_path / "w.zip", max_bytes=MAX_BYTES)
    assert time.monotonic() - begun < 1.9, "not before the server let go"
    message = str(raised.value)
    assert message.startswith(f"{url}/w.zip: could not be downloaded (")
    assert f"save it as {tmp_path / 'w.zip'}" in message and "secret" not in message
    assert not (tmp_path / "w.zip").exists()
    part = tmp_path / "w.zip.part"
    assert ("kept to go on from" in message) == part.exists()
    assert not part.exists() or part.stat().st_size <= MAX_BYTES


RANGE = f"Content-Range: bytes 1000-{len(DATA) - 1}/"
RESUMED: dict[str, Answer] = {
    "another total": headed(f"{RANGE}{len(DATA) * 10}", status="206 Partial Content"),
    "no total": headed(f"{RANGE}*", status="206 Partial Content"),
    "another place": headed(f"Content-Range: bytes 999-{len(DATA) - 1}/{len(DATA)}", status="206 Partial Content"),
    "a place of 5000 digits": headed(f"Content-Range: bytes 1000-{'9' * 5000}/7", status="206 Partial Content"),
    "no place": headed(status="206 Partial Content"),
    "another length": headed(f"{RANGE}{len(DATA)}", "Content-Length: 5", status="206 Partial Content"),
    "not there": headed("Content-Length: 0", status="404 Not Found", body=b""),
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_part_that_the_server_does_not_go_on_with_starts_over(tmp_path: Path, case: str) -> None:
    def answer(connection: socket.socket, request: str) -> None:
        is_rest = "Range: bytes=1000-" in request
        (RESUMED[case] if is_rest else headed(LENGTH))(connection, request)

    (tmp_path / "w.part").write_bytes(b"x" * 1000)
    with serving(answer) as url:
        download(f"{url}/w", tmp_path / "w", max_bytes=MAX_BYTES)
    assert (tmp_path / "w").read_bytes() == DATA


def test_a_part_beyond_the_largest_size_starts_over(tmp_path: Path) -> None:
    (tmp_path / "w.part").write_bytes(bytes(MAX_BYTES + 1))
    with serving(headed(LENGTH)) as url:
        download(f"{url}/w", tmp_path / "w", max_bytes=MAX_BYTES)
    assert (tmp_path / "w").read_bytes() == DATA


def test_nothing_is_sent_on_from_https_to_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    try:
        subprocess.run(
            [*command, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
            check=True,
            capture_output=True,
        )
    except OSError:
        pytest.skip("openssl, which makes a certificate, is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with serving(headed(LENGTH)) as plain:
        with serving(redirecting(f"{plain}/w"), context) as url, pytest.raises(WeightsError, match="https to http"):
            download(f"{url}/w", tmp_path / "w")
        with serving(headed(LENGTH), context) as safe:
            with serving(redirecting(f"{safe}/w"), context) as url:
                download(f"{url}/w", tmp_path / "a")
            with serving(redirecting(f"{safe}/w")) as url:
                download(f"{url}/w", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA


@pytest.mark.parametrize("url", ["file:///etc/passwd", "FTP://127.0.0.1/w", "ftp://me:secret@127.0.0.1/w", "data:,abc"])
def test_other_addresses_than_those_of_the_web_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(WeightsError, match="is not followed, only http: and https:") as raised:
        download(url, tmp_path / "w")
    assert "secret" not in str(raised.value)


def test_a_password_of_a_mirror_or_a_proxy_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(headed(status="403 Forbidden", body=b"")) as url:
        address = url.replace("//", "//me:secret@")
        with pytest.raises(WeightsError, match="answered 403") as raised:
            download(f"{address}/w", tmp_path / "w")
        assert "secret" not in str(raised.value)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("https_proxy", address)
        with pytest.raises(WeightsError, match="could not be downloaded") as raised:
            download("https://weights.invalid/w", tmp_path / "w")
        assert "secret" not in str(raised.value)


# Archives


PARAMS = DATA
SHA1 = hashlib.sha1(PARAMS).hexdigest()
PUBLISHED = PublishedFile("ssd_300_mobilenet0.25_voc", SHA1)
NAME = f"{PUBLISHED.stem}.params"


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytearray:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return bytearray(buffer.getvalue())


def damaged(compression: int) -> bytes:
    data = zipped({NAME: PARAMS}, compression)
    # Behind the header of 30 bytes and the name.
    start = 30 + len(NAME)
    data[start + 4 : start + 40] = b"\xff" * 36
    return bytes(data)


def patched(at: int, central: int, value: bytes) -> bytes:
    """A whole archive with other bytes in a member's header and in the table of contents."""
    data = zipped({NAME: PARAMS})
    table = data.index(b"PK\x01\x02")
    data[at : at + len(value)] = value
    data[table + central : table + central + len(value)] = value
    return bytes(data)


ARCHIVES: dict[str, Callable[[], bytes]] = {
    "a bomb": lambda: bytes(zipped({NAME: bytes(PUBLISHED.max_bytes + 1)})),
    "a bomb in bzip2": lambda: bytes(zipped({NAME: bytes(PUBLISHED.max_bytes + 1)}, zipfile.ZIP_BZIP2)),
    "another size in the header": lambda: patched(22, 24, (5).to_bytes(4, "little")),
    "a size of 4 GB": lambda: patched(22, 24, b"\xfe\xff\xff\xff"),
    "many entries": lambda: bytes(zipped({f"{number}": b"" for number in range(2000)} | {NAME: PARAMS})),
    "one in another": lambda: bytes(zipped({f"{PUBLISHED.stem}.zip": bytes(zipped({NAME: PARAMS}))})),
    "encrypted": lambda: patched(6, 8, b"\x01\x00"),
    "a name that is no UTF-8": lambda: bytes(patched(6, 8, b"\x00\x08")).replace(b"ssd_300", b"ss\xff_300"),
    "a newer zip": lambda: patched(4, 6, b"\xff\x00"),
    "deflate64": lambda: patched(8, 10, b"\x09\x00"),
    "a method that nobody knows": lambda: patched(8, 10, b"\x63\x00"),
    "damaged": lambda: damaged(zipfile.ZIP_DEFLATED),
    "damaged bzip2": lambda: damaged(zipfile.ZIP_BZIP2),
    "damaged LZMA": lambda: damaged(zipfile.ZIP_LZMA),
    "LZMA that asks for 4 GB": lambda: bytes(zipped({NAME: PARAMS}, zipfile.ZIP_LZMA)).replace(
        b"\x05\x00\x5d\x00\x00\x80\x00", b"\x05\x00\x5d\xff\xff\xff\xff"
    ),
    "bzip2 alone": lambda: bz2.compress(PARAMS),
    "LZMA alone": lambda: lzma.compress(PARAMS),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_an_archive_that_is_none_is_one_sentence_and_goes_away(tmp_path: Path, case: str) -> None:
    data = ARCHIVES[case]()
    archive = tmp_path / f"{PUBLISHED.stem}.zip"
    archive.write_bytes(data)
    try:
        assert fetch_published(PUBLISHED, tmp_path).read_bytes() == PARAMS
        assert case == "LZMA that asks for 4 GB", "where the memory was given"
    except WeightsError as error:
        assert str(error).startswith(f"{archive}: ") and "so it was removed" in str(error)
        assert "\n" not in str(error)
    left = {path.name for path in tmp_path.iterdir()}
    assert left <= {f"{PUBLISHED.stem}.lock", NAME, archive.name}


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrives is bounded by the published size, and what a header says cannot be wrong by more."""
    archive = tmp_path / "bomb.zip"
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        archive.write_bytes(zipped({"x": bytes(1 << 22)}, compression))
        with pytest.raises(archive_module.ArchiveError, match="says that x has 4194304 bytes, more than the 1000"):
            list(archive_module.unpacked(archive, "x", 1000))
        table = archive.read_bytes()
        lying = table.replace((1 << 22).to_bytes(4, "little"), (500).to_bytes(4, "little"))
        archive.write_bytes(lying)
        arrived = 0
        with pytest.raises(archive_module.ArchiveError, match="no whole zip archive"):
            for chunk in archive_module.unpacked(archive, "x", 1000):
                arrived += len(chunk)
        assert arrived <= 500


def test_every_published_file_has_a_size_of_its_own_network() -> None:
    networks = [published_file(config) for config in NETWORKS.values() if config.params_sha1]
    backbones = [PublishedFile(name, sha1) for name, sha1 in PUBLISHED_SHA1.items()]
    assert {file.max_bytes for file in networks + backbones} <= {mib << 20 for mib in (16, 64, 112, 128, 160, 192, 224)}
    # Its numbers take that many bytes, by the table of GluonCV's presets.
    sizes = {file.name: file.max_bytes for file in networks}
    assert sizes["ssd_512_resnet50_v1_coco"] > 200_000_000 > sizes["ssd_512_vgg16_atrous_coco"] > 147_000_000


# Folders that others may write to


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    archive = bytes(zipped({NAME: PARAMS}))
    with serving(headed(f"Content-Length: {len(archive)}", body=archive)) as url:
        monkeypatch.setenv("MXNET_GLUON_REPO", url)
        yield


@pytest.mark.parametrize("name", [NAME, f"{NAME}.part", f"{PUBLISHED.stem}.zip", f"{PUBLISHED.stem}.zip.part"])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "second name", "pipe"])
def test_what_others_put_in_the_place_of_a_file_is_replaced(tmp_path: Path, mirror: None, name: str, kind: str) -> None:
    victim, root = tmp_path / "victim", tmp_path / "root"
    root.mkdir()
    if kind != "link to nothing":
        victim.write_text("mine")
    if kind == "second name":
        os.link(victim, root / name)
    elif kind == "pipe":
        os.mkfifo(root / name)
    else:
        (root / name).symlink_to(victim)
    # A link to a file may have been put there by hand, and is told, if what it leads to is wrong.
    for _ in range(2):
        with contextlib.suppress(WeightsError):
            fetch_published(PUBLISHED, root)
    assert (root / NAME).read_bytes() == PARAMS and not (root / NAME).is_symlink()
    assert not victim.exists() if kind == "link to nothing" else victim.read_text() == "mine"


@pytest.mark.parametrize("is_there", [True, False])
def test_a_lock_that_is_a_link_is_refused(tmp_path: Path, mirror: None, is_there: bool) -> None:
    victim, root = tmp_path / "victim", tmp_path / "root"
    root.mkdir()
    if is_there:
        victim.write_text("mine")
    (root / f"{PUBLISHED.stem}.lock").symlink_to(victim)
    with pytest.raises(WeightsError, match=r"\.lock: cannot be locked"):
        fetch_published(PUBLISHED, root)
    assert victim.read_text() == "mine" if is_there else not victim.exists()


def test_who_waits_for_another_fetch_says_so_after_a_second(
    tmp_path: Path, mirror: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.05)
    lock = tmp_path / f"{PUBLISHED.stem}.lock"
    waiting = threading.Thread(target=fetch_published, args=(PUBLISHED, tmp_path))
    with caplog.at_level(logging.INFO, "ssd_train"), module._locked(lock):
        waiting.start()
        deadline = time.monotonic() + 5
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert f"waiting for another fetch (process {os.getpid()} on " in caplog.text
        assert str(lock) in caplog.text and "Ctrl-C" in caplog.text
        assert waiting.is_alive() and not (tmp_path / NAME).exists()
    waiting.join(timeout=5)
    assert (tmp_path / NAME).read_bytes() == PARAMS
