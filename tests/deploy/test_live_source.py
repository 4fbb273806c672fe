"""Cameras and streams: lost, tried again, and back; nothing hangs, nothing shows a password."""

import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from moving_shapes import free_port, http_server, moving_shapes, start_tcp_stream, write_video
from rtsp_server import rtsp_server

from ssd_deploy.sources import live
from ssd_deploy.sources.base import Reconnect, Source
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import open_source
from ssd_train.errors import SourceError
from ssd_train.pixel_limit import DEFAULT_MAX_PIXELS

av = pytest.importorskip("av", reason="PyAV is not installed")

SOON = Reconnect(attempts=4, wait_s=0.05)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same hundred frames as `v.mp4`, `v.ts` and `v.mkv`, a key frame every ten."""
    folder = tmp_path_factory.mktemp("videos")
    for name, options in (("v.mp4", {"movflags": "faststart"}), ("v.ts", {}), ("v.mkv", {})):
        write_video(folder / name, moving_shapes(100), options={"g": "10"}, container_options=options)
    return folder


def read(source: Source, most: int = 10**6) -> tuple[list[Frame], list[str]]:
    told: list[str] = []
    source.on_problem = told.append
    frames = []
    with source:
        for frame in source.frames():
            frames.append(frame)
            if len(frames) == most:
                break
    return frames, told


@pytest.mark.parametrize("name", ["v.mp4", "v.ts", "v.mkv"])
def test_a_file_on_a_web_server_is_a_video_with_an_end(videos: Path, name: str) -> None:
    with http_server(videos / name) as server:
        source = open_source(f"http://{server}/{name}")
        frames, told = read(source)
    assert (source.info.kind, source.info.size, source.info.rate) == ("video", (120, 160), 25)
    assert [frame.index for frame in frames] == list(range(100))
    assert (told, source.problems, source.is_whole, source.dropped) == ([], 0, True, 0)
    assert frames[3].name == f"{name}#3"


@pytest.mark.parametrize("name", ["v.mp4", "v.ts", "v.mkv"])
def test_a_web_server_that_cuts_the_connection_ends_the_source_and_what_came_is_kept(videos: Path, name: str) -> None:
    with http_server(videos / name, cuts=5) as server:
        source = open_source(f"http://me:secret@{server}/{name}")
        frames, told = read(source)
    assert 30 < len(frames) < 70
    assert (source.is_whole, source.problems) == (False, 1)
    (sentence,) = told
    assert re.fullmatch(rf"http://me:\*\*\*@{server}/{name}: lost after {len(frames)} frames \(.*\); "
                        "what came before is kept", sentence)  # fmt: skip
    assert "secret" not in repr(source.info) + repr([frame.name for frame in frames])


@pytest.mark.parametrize("name", ["v.mp4", "v.ts", "v.mkv"])
def test_a_file_on_a_web_server_goes_on_where_it_was_cut(videos: Path, name: str) -> None:
    # Matroska is opened twice for one connection.
    cuts, down_s = (2, 0.0) if name == "v.mkv" else (1, 0.1)
    with http_server(videos / name, cuts=cuts, down_s=down_s) as server:
        source = open_source(f"http://{server}/{name}", reconnect=SOON)
        frames, told = read(source)
    assert (source.is_whole, source.problems) == (True, 0)
    assert [frame.index for frame in frames] == list(range(100))
    np.testing.assert_allclose([frame.time_s for frame in frames], np.arange(100) / 25, atol=1e-6)
    assert re.search(r"lost after \d\d frames \(.*\); trying again in 0.05 s \(1 of 4\)$", told[0])
    assert told[-1].endswith("back after 0 s")
    # The very frames, each once: compared with the whole file.
    whole, _ = read(source := open_source(videos / name))
    for frame, expected in zip(frames, whole, strict=True):
        assert np.array_equal(source.load(frame), source.load(expected))


@pytest.mark.parametrize("cuts", [0, 1])
def test_a_file_whose_index_is_at_its_end_comes_whole_from_a_server_that_keeps_connections(
    tmp_path: Path, cuts: int
) -> None:
    # Key frames are large beside FFmpeg's buffer, so that it has to come back to the first one.
    path = write_video(tmp_path / "v.mp4", moving_shapes(100, (240, 320)), options={"g": "10", "crf": "5"})
    assert path.read_bytes().index(b"moov") > path.read_bytes().index(b"mdat")
    with http_server(path, cuts=cuts, has_ranges=True) as server:
        source = open_source(f"http://{server}/v.mp4", reconnect=SOON)
        frames, told = read(source)
    assert [frame.index for frame in frames] == list(range(100))
    assert len(told) == 2 * cuts and source.is_whole
    whole, _ = read(open_source(path))
    for frame, expected in zip(frames, whole, strict=True):
        assert np.array_equal(source.load(frame), source.load(expected))


def test_connections_that_bring_nothing_new_are_tries_and_come_to_an_end(videos: Path) -> None:
    with http_server(videos / "v.ts", cuts=10**6) as server:
        source = open_source(f"http://{server}/v.ts", reconnect=Reconnect(attempts=3, wait_s=0.01))
        frames, told = read(source)
    assert 30 < len(frames) < 70
    assert [sentence.rsplit("(", 1)[1] for sentence in told if "trying" in sentence] == [
        "1 of 3)",
        "2 of 3)",
        "3 of 3)",
    ]
    assert told[-1].endswith("given up after 3 tries; what came before is kept")
    assert not source.is_whole


def test_a_server_that_is_gone_is_tried_as_often_as_asked_with_longer_waits(videos: Path) -> None:
    with http_server(videos / "v.mp4", cuts=1, down_s=60) as server:
        source = open_source(f"http://{server}/v.mp4", reconnect=Reconnect(attempts=3, wait_s=0.02))
        frames, told = read(source)
    assert 30 < len(frames) < 70
    assert [re.search(r"trying again in ([\d.]+) s", sentence) is not None for sentence in told] == [True] * 3 + [False]
    assert [sentence.split("again in ")[1] for sentence in told[:3]] == [
        "0.02 s (1 of 3)", "0.04 s (2 of 3)", "0.08 s (3 of 3)",
    ]  # fmt: skip
    assert "given up after 3 tries" in told[-1]


def test_a_reader_that_stops_while_a_stream_is_tried_again_need_not_wait(videos: Path) -> None:
    before = set(threading.enumerate())
    with http_server(videos / "v.mp4", cuts=1, down_s=600) as server:
        source = open_source(f"http://{server}/v.mp4", reconnect=Reconnect(attempts=9, wait_s=60))
        told: list[str] = []
        source.on_problem = told.append
        frames = source.frames()
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            if source.is_ready() or not told:
                next(frames)
            time.sleep(0.001)
        started = time.monotonic()
        frames.close()
        assert time.monotonic() - started < 5
    assert set(threading.enumerate()) <= before


@pytest.fixture
def hanging_server() -> Iterator[str]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_server_that_never_answers_does_not_hang_the_program(hanging_server: str, scheme: str) -> None:
    started = time.monotonic()
    with pytest.raises(
        SourceError, match=rf"{scheme}://me:\*\*\*@.*: cannot be opened \(nothing came for 0.5 seconds\)"
    ):
        open_source(f"{scheme}://me:secret@{hanging_server}/cam", timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_a_stream_that_stops_sending_is_lost(videos: Path) -> None:
    with http_server(videos / "v.ts", cuts=1, pause_s=30) as server:
        source = open_source(f"http://{server}/v.ts", timeout_s=1)
        frames, told = read(source)
    assert len(frames) > 30
    assert "(nothing came for 1 seconds); what came before is kept" in told[0]


@pytest.mark.parametrize("address", ["rtsp://me:secret@127.0.0.1:1/cam", "http://me:secret@127.0.0.1:1/v.mp4"])
def test_a_refused_connection_is_one_sentence_without_the_password(address: str) -> None:
    with pytest.raises(SourceError, match=r"me:\*\*\*@127.0.0.1:1/.*cannot be opened \(Connection refused\)") as caught:
        open_source(address)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_a_live_stream_is_cut_and_comes_back_and_its_count_goes_on(videos: Path) -> None:
    """FFmpeg sends MPEG-TS at the speed of playing, is killed in the middle, and started again."""
    port = free_port()
    sender = start_tcp_stream(videos / "v.ts", port)
    senders = [sender]
    told: list[str] = []
    try:
        source = connected(f"tcp://127.0.0.1:{port}", Reconnect(attempts=20, wait_s=0.2, longest_wait_s=0.5))
        source.on_problem = told.append
        assert source.info.kind == "live"
        indices, times = [], []
        with source:
            for frame in source.frames():
                indices.append(frame.index)
                times.append(frame.time_s)
                assert source.load(frame).shape == (120, 160, 3)
                if len(indices) == 20:
                    sender.kill()
                    sender.wait()
                    senders.append(start_tcp_stream(videos / "v.ts", port))
                if any("back" in sentence for sentence in told) and len(indices) > 40:
                    break
        assert "back after" in told[-1]
        assert all(np.diff(indices) > 0)
        # Time goes on as the clock does, over the gap too.
        assert all(np.diff(times) > -0.2)
        assert "lost after" in told[0]
        assert (source.is_whole, source.problems) == (True, 0)
    finally:
        for process in senders:
            process.kill()
            process.wait()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_a_camera_s_rtsp_stream_is_cut_and_comes_back(videos: Path, tmp_path: Path) -> None:
    with rtsp_server(videos / "v.mp4", tmp_path, cut_after_s=2) as server:
        source = open_source(f"rtsp://me:secret@{server}/cam", reconnect=SOON, drop_late=False, timeout_s=5)
        assert (source.info.kind, source.info.name) == ("live", f"rtsp://me:***@{server}/cam")
        told: list[str] = []
        source.on_problem = told.append
        indices = []
        with source:
            for frame in source.frames():
                assert source.load(frame).shape == (120, 160, 3)
                assert frame.name == f"cam#{frame.index}"
                indices.append(frame.index)
                if len(indices) == 70:
                    break
    assert all(np.diff(indices) > 0)
    assert re.search(r"cam: lost after \d+ frames \(.*\); trying again in 0.05 s \(1 of 4\)", told[0]), told
    assert any("back after" in sentence for sentence in told)
    assert "secret" not in " ".join(told)
    assert source.is_whole


def connected(address: str, reconnect: Reconnect) -> Source:
    """Open a stream whose sender may still be starting."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return open_source(address, reconnect=reconnect, drop_late=False)
        except SourceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")
def test_a_slow_reader_of_a_live_stream_gets_the_newest_frames_and_gaps_in_the_count(videos: Path) -> None:
    port = free_port()
    sender = start_tcp_stream(videos / "v.ts", port)
    try:
        connected(f"tcp://127.0.0.1:{port}", SOON).close()
        sender.kill()
        sender.wait()
        sender = start_tcp_stream(videos / "v.ts", port)
        deadline = time.monotonic() + 30
        while True:
            try:
                source = open_source(f"tcp://127.0.0.1:{port}")
                break
            except SourceError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        source.on_problem = lambda sentence: None
        indices = []
        with source:
            for frame in source.frames():
                indices.append(frame.index)
                time.sleep(0.4)
        # A hundred frames in four seconds; ten or so are seen.
        assert 5 <= len(indices) <= 30
        assert source.dropped == indices[-1] + 1 - len(indices) > 50
    finally:
        sender.kill()
        sender.wait()


class Asked(Exception):
    """Ends what a fake `av.open` was called for."""


@pytest.mark.parametrize(
    ("platform", "camera", "device", "driver", "options"),
    [
        ("linux", "0", "/dev/video0", "v4l2", {}),
        ("linux", "12", "/dev/video12", "v4l2", {}),
        ("darwin", "1", "1:none", "avfoundation", {"framerate": "30"}),
        ("win32", "1", "video=Second", "dshow", {}),
    ],
)
def test_a_camera_is_asked_for_as_each_system_calls_it(
    monkeypatch: pytest.MonkeyPatch, platform: str, camera: str, device: str, driver: str, options: dict[str, str]
) -> None:
    """There is no camera here: what FFmpeg would be asked is looked at, and nothing else."""

    def fake_open(address: str, **asked: Any) -> None:
        limited = {**options, "max_pixels": str(DEFAULT_MAX_PIXELS)}
        assert (address, asked) == (device, {"format": driver, "options": limited, "timeout": 7})
        raise Asked

    def named(driver: str) -> list[Any]:
        return [av.device.DeviceInfo(name, name, False, ["video"]) for name in ("First", "Second")]

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", fake_open)
    monkeypatch.setattr(av, "enumerate_input_devices", named, raising=False)
    with pytest.raises(Asked):
        live.open_camera(camera, None, None, 7)


@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/video77").exists(), reason="this is how Linux names cameras")
@pytest.mark.parametrize("named", [77, "77"])
def test_a_camera_that_is_not_there_is_one_sentence(named: int | str) -> None:
    with pytest.raises(
        SourceError,
        match=r"camera 77 \(/dev/video77\): cannot be opened \(No such file or directory\); check that it is",
    ):
        open_source(named)


def test_a_file_called_like_a_camera_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "v.mp4", moving_shapes(3)).rename(tmp_path / "0")
    monkeypatch.chdir(tmp_path)
    assert open_source("0").info.kind == "video"
