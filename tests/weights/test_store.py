"""The weight store against a local server: whole, cut off, resumed, wrong and absent downloads."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from ssd_train.errors import WeightsError
from ssd_train.networks.zoo import NETWORKS
from ssd_train.weights import download as module
from ssd_train.weights.download import download, fetch_published
from ssd_train.weights.load import fetch_weights
from ssd_train.weights.store import converted_path, default_root, published_file, run_weights

# Two chunks and a bit, so that progress and resuming have something to count.
PARAMS = bytes(range(256)) * 2100
SHA1 = hashlib.sha1(PARAMS).hexdigest()
CONFIG = dataclasses.replace(NETWORKS["ssd_512_resnet50_v1_voc"], params_sha1=SHA1)
PUBLISHED = published_file(CONFIG)
STEM = f"ssd_512_resnet50_v1_voc-{SHA1[:8]}"
UNPUBLISHED = NETWORKS["ssd_512_resnet18_v1_voc"]


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


ZIP = zip_bytes({f"{STEM}.params": PARAMS})
HALF = len(ZIP) // 2


class Server:
    """A file server with a few bad habits to choose from; `sent` and `ranges` have an entry a request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.sent: list[int] = []
        self.ignores_range = False
        self.answers_another_range = False
        self.tells_length = True
        self.cuts_next_after: int | None = None
        self.stalls = False
        self.delay_s = 0.0


class Handler(http.server.BaseHTTPRequestHandler):
    server_state: Server

    def do_GET(self) -> None:
        state = self.server_state
        wanted = self.headers.get("Range")
        state.ranges.append(wanted)
        body = state.files.get(self.path)
        if body is None:
            state.sent.append(0)
            self.send_error(404)
            return
        start = 0
        if wanted and not state.ignores_range:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                state.sent.append(0)
                self.send_error(416)
                return
            if state.answers_another_range:
                start -= 1
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        if state.tells_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        time.sleep(state.delay_s)
        cut, state.cuts_next_after = state.cuts_next_after, None
        sent = rest[:cut]
        # Noted first: the client may be done with the last byte before this thread goes on.
        state.sent.append(len(sent))
        self.wfile.write(sent)
        if state.stalls:
            time.sleep(0.6)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_address[1]}")
    monkeypatch.setattr(Handler, "server_state", state, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MXNET_GLUON_REPO", state.url)
    state.files[f"/gluon/models/{STEM}.zip"] = ZIP
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def names(folder: Path) -> set[str]:
    return {child.name for child in folder.iterdir()}


# Names and places


def test_the_root_is_in_the_home_folder_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("SSD_DEPLOY_ROOT", raising=False)
    assert default_root() == Path("/home/someone/.torch/models")
    monkeypatch.setenv("SSD_DEPLOY_ROOT", "~/weights")
    assert default_root() == Path("/home/someone/weights")
    monkeypatch.setenv("SSD_DEPLOY_ROOT", "")
    assert default_root() == Path("/home/someone/.torch/models")


def test_the_published_address_is_gluoncvs_or_a_mirrors(monkeypatch):
    config = NETWORKS["ssd_512_mobilenet1.0_voc"]
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    assert published_file(config).url == (
        "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/models/ssd_512_mobilenet1.0_voc-37c18076.zip"
    )
    for mirror in ("https://example.org/mx", "https://example.org/mx/"):
        monkeypatch.setenv("MXNET_GLUON_REPO", mirror)
        assert published_file(config).url == "https://example.org/mx/gluon/models/ssd_512_mobilenet1.0_voc-37c18076.zip"


def test_a_network_without_published_weights_names_the_alternatives(tmp_path):
    with pytest.raises(
        WeightsError, match="no published weights for ssd_512_resnet18_v1_voc; name a weight file, or use 'random'"
    ) as raised:
        published_file(UNPUBLISHED)
    assert raised.value.arguments == ("weights",)
    with pytest.raises(WeightsError, match="no published weights"):
        fetch_weights(UNPUBLISHED.name, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_converted_weights_are_called_after_their_network(tmp_path):
    assert converted_path(CONFIG, tmp_path) == tmp_path / "ssd_512_resnet50_v1_voc.safetensors"


def test_names_and_descriptions_need_no_torch():
    code = (
        "import sys, ssd_train.weights.store, ssd_train.weights.description, ssd_train.weights.load\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'safetensors', 'requests', 'filelock')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


# Downloads


def test_a_download_is_whole_and_its_progress_told(server, tmp_path):
    path = tmp_path / "new" / "w.zip"
    told = []
    download(f"{server.url}/gluon/models/{STEM}.zip", path, on_progress=lambda done, total: told.append((done, total)))
    assert path.read_bytes() == ZIP
    assert names(path.parent) == {"w.zip"}
    assert told[0] == (0, len(ZIP))
    assert told[-1] == (len(ZIP), len(ZIP))
    assert told == sorted(told)
    assert len(told) > 3
    assert server.ranges == [None]


def test_a_server_that_tells_no_length_is_believed(server, tmp_path):
    server.tells_length = False
    told = []
    download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w", on_progress=lambda *step: told.append(step))
    assert (tmp_path / "w").read_bytes() == ZIP
    assert told[-1] == (len(ZIP), None)


def test_a_cut_off_download_goes_on_where_it_stopped(server, tmp_path):
    url, path = f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w.zip"
    server.cuts_next_after = HALF
    with pytest.raises(WeightsError, match=f"connection was closed after {HALF} bytes, kept to go on from"):
        download(url, path)
    assert names(tmp_path) == {"w.zip.part"}
    told = []
    download(url, path, on_progress=lambda *step: told.append(step))
    assert path.read_bytes() == ZIP
    assert names(tmp_path) == {"w.zip"}
    assert server.ranges == [None, f"bytes={HALF}-"]
    assert server.sent == [HALF, len(ZIP) - HALF]
    assert told[0] == (HALF, len(ZIP))
    assert told[-1] == (len(ZIP), len(ZIP))


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    (tmp_path / "w.part").write_bytes(b"the wrong beginning" * 1000)
    server.ignores_range = True
    download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == ZIP
    assert server.sent == [len(ZIP)]


def test_a_part_as_long_as_the_file_starts_over(server, tmp_path):
    (tmp_path / "w.part").write_bytes(bytes(len(ZIP)))
    download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == ZIP
    assert server.ranges == [f"bytes={len(ZIP)}-", None]


def test_a_server_that_answers_another_range_starts_over(server, tmp_path):
    (tmp_path / "w.part").write_bytes(ZIP[:HALF])
    server.answers_another_range = True
    download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == ZIP
    assert server.ranges == [f"bytes={HALF}-", None]


def test_a_server_that_falls_silent_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    server.cuts_next_after, server.stalls = HALF, True
    with pytest.raises(WeightsError, match="timed out"):
        download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "w")
    assert names(tmp_path) == {"w.part"}


def closed_port() -> int:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("{server}/none.zip", "the server answered 404"),
        ("http://127.0.0.1:{port}/w.zip", "Connection refused"),
        ("http://no-such-host.invalid/w.zip", ""),
        ("example.org/w.zip", "Invalid URL 'example.org/w.zip': No scheme supplied"),
        ("http://127.0.0.1:{port}/a b.zip", "Connection refused"),
    ],
)
def test_a_failed_download_says_what_to_put_where(server, tmp_path, url, reason):
    url = url.format(server=server.url, port=closed_port())
    with pytest.raises(WeightsError) as raised:
        download(url, tmp_path / "w.zip")
    message = str(raised.value)
    assert message.startswith(f"{url}: could not be downloaded ({reason}")
    assert f"save it as {tmp_path / 'w.zip'}" in message
    assert "\n" not in message
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_made_is_a_weights_error(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="could not be downloaded"):
        download(f"{server.url}/gluon/models/{STEM}.zip", tmp_path / "file" / "w")
    with pytest.raises(WeightsError, match="cannot be locked .*SSD_DEPLOY_ROOT"):
        fetch_published(PUBLISHED, tmp_path / "file" / "root")


# Published weights


def test_published_weights_are_fetched_once(server, tmp_path):
    path = fetch_published(PUBLISHED, tmp_path)
    assert path == tmp_path / f"{STEM}.params"
    assert path.read_bytes() == PARAMS
    assert names(tmp_path) == {f"{STEM}.params", f"{STEM}.lock"}
    assert fetch_published(PUBLISHED, tmp_path) == path
    assert len(server.sent) == 1


def test_a_cut_off_fetch_goes_on_where_it_stopped(server, tmp_path):
    server.cuts_next_after = HALF
    with pytest.raises(WeightsError, match=f"save it as {tmp_path / STEM}.zip"):
        fetch_published(PUBLISHED, tmp_path)
    assert fetch_published(PUBLISHED, tmp_path).read_bytes() == PARAMS
    assert server.sent == [HALF, len(ZIP) - HALF]


def test_a_file_put_there_by_hand_needs_no_network(server, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / f"{STEM}.params").write_bytes(PARAMS)
    assert fetch_published(PUBLISHED, tmp_path / "a").read_bytes() == PARAMS
    assert names(tmp_path / "a") == {f"{STEM}.params"}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / f"{STEM}.zip").write_bytes(ZIP)
    assert fetch_published(PUBLISHED, tmp_path / "b").read_bytes() == PARAMS
    assert f"{STEM}.zip" in names(tmp_path / "b")
    assert server.sent == []


@pytest.mark.parametrize("where", ["params", "zip", "server"])
def test_a_wrong_file_is_removed_and_both_hashes_told(server, tmp_path, where):
    wrong = PARAMS[:-1] + b"!"
    if where == "params":
        (tmp_path / f"{STEM}.params").write_bytes(wrong)
        (tmp_path / f"{STEM}.zip").write_bytes(b"its source")
    elif where == "zip":
        (tmp_path / f"{STEM}.zip").write_bytes(zip_bytes({f"{STEM}.params": wrong}))
    else:
        server.files[f"/gluon/models/{STEM}.zip"] = zip_bytes({f"{STEM}.params": wrong})
    with pytest.raises(WeightsError, match=f"SHA-1 {hashlib.sha1(wrong).hexdigest()}, but {SHA1} was published"):
        fetch_published(PUBLISHED, tmp_path)
    assert names(tmp_path) <= {f"{STEM}.lock"}
    server.files[f"/gluon/models/{STEM}.zip"] = ZIP
    assert fetch_published(PUBLISHED, tmp_path).read_bytes() == PARAMS


BAD_MEMBER = bytearray(ZIP)
BAD_MEMBER[HALF] ^= 1
# The member's data begins after a 30 byte header and its name; block type 3 is none of deflate's.
BAD_DEFLATE = bytearray(zip_bytes({f"{STEM}.params": PARAMS}, zipfile.ZIP_DEFLATED))
BAD_DEFLATE[30 + len(f"{STEM}.params")] = 0xFF


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<html>log in to the hotel's network</html>", "no whole zip archive"),
        (ZIP[:HALF], "no whole zip archive"),
        (bytes(BAD_MEMBER), "no whole zip archive .*CRC"),
        (bytes(BAD_DEFLATE), "no whole zip archive .*invalid block type"),
        (zip_bytes({"readme.txt": b"hello"}), f"does not hold {STEM}.params"),
        (zip_bytes({f"folder/{STEM}.params": PARAMS}), f"does not hold {STEM}.params"),
    ],
)
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_bad_archive_is_removed_so_that_the_next_try_can_succeed(server, tmp_path, data, message, by_hand):
    if by_hand:
        (tmp_path / f"{STEM}.zip").write_bytes(data)
    else:
        server.files[f"/gluon/models/{STEM}.zip"] = data
    with pytest.raises(WeightsError, match=f"{STEM}.zip: .*{message}.*removed.*{server.url}"):
        fetch_published(PUBLISHED, tmp_path)
    assert names(tmp_path) == {f"{STEM}.lock"}
    server.files[f"/gluon/models/{STEM}.zip"] = ZIP
    assert fetch_published(PUBLISHED, tmp_path).read_bytes() == PARAMS


def test_a_folder_in_the_place_of_a_file_is_a_weights_error(server, tmp_path):
    (tmp_path / f"{STEM}.zip").mkdir()
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        fetch_published(PUBLISHED, tmp_path)
    (tmp_path / f"{STEM}.params").mkdir()
    with pytest.raises(WeightsError, match="cannot be checked"):
        fetch_published(PUBLISHED, tmp_path)


def test_processes_that_fetch_at_once_download_once(server, tmp_path):
    server.delay_s = 0.3
    code = (
        "import sys; from pathlib import Path\n"
        "from ssd_train.weights.download import fetch_published; from ssd_train.weights.store import PublishedFile\n"
        "fetch_published(PublishedFile('ssd_512_resnet50_v1_voc', sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, SHA1, str(tmp_path)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert server.sent == [len(ZIP)]


def test_threads_that_fetch_at_once_download_once(server, tmp_path):
    server.delay_s = 0.3
    threads = [threading.Thread(target=fetch_published, args=(PUBLISHED, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.sent == [len(ZIP)]
    assert (tmp_path / f"{STEM}.params").read_bytes() == PARAMS


def test_a_lock_file_that_a_killed_process_left_holds_nobody(server, tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from ssd_train.weights.download import _locked\n"
        "with _locked(Path(sys.argv[1])): os._exit(9)"
    )
    lock = tmp_path / f"{STEM}.lock"
    killed = subprocess.run([sys.executable, "-c", code, str(lock)], cwd=Path(__file__).parents[2])
    assert killed.returncode == 9 and lock.exists()
    assert fetch_published(PUBLISHED, tmp_path).read_bytes() == PARAMS


def test_a_proxy_of_the_environment_is_asked(server, tmp_path, monkeypatch):
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    # A proxy is asked for the whole address; this server knows it under that name.
    server.files["http://weights.invalid/w.zip"] = ZIP
    download("http://weights.invalid/w.zip", tmp_path / "w.zip")
    assert (tmp_path / "w.zip").read_bytes() == ZIP


def test_a_run_folder_stands_for_its_best_weights_else_its_last(tmp_path):
    with pytest.raises(WeightsError, match="holds neither best.safetensors nor last.safetensors"):
        run_weights(tmp_path)
    for name in ("last.safetensors", "best.safetensors"):
        (tmp_path / name).touch()
        assert run_weights(tmp_path) == tmp_path / name
