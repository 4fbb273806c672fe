"""Video files: every frame as it was put in, its time, and what is broken said."""

import os
import random
import re
import threading
from fractions import Fraction
from pathlib import Path

import bad_pictures
import numpy as np
import pytest
from moving_shapes import moving_shapes, write_video
from tiny_data import Image, blocks, write_image

from ssd_deploy.sources.base import Source
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import open_source, open_sources
from ssd_train.errors import BackendError, SourceError

av = pytest.importorskip("av", reason="PyAV is not installed")


def read(source: Source) -> tuple[list[Frame], list[Image], list[str]]:
    """Return all frames, their pictures, and what was said."""
    told: list[str] = []
    source.on_problem = told.append
    with source:
        frames = list(source.frames())
        return frames, [source.load(frame) for frame in frames], told


@pytest.mark.parametrize(
    ("codec", "pixels", "options"),
    [("ffv1", "bgr0", {}), ("libx264rgb", "rgb24", {"crf": "0"})],
)
def test_lossless_video_gives_the_pixels_that_were_put_in(
    tmp_path: Path, codec: str, pixels: str, options: dict[str, str]
) -> None:
    pictures = [blocks(46, 62, 5, seed) for seed in range(12)]
    path = write_video(tmp_path / "v.mkv", pictures, codec=codec, pixels=pixels, options=options)
    frames, found, told = read(open_source(path))
    assert len(found) == 12
    for picture, image in zip(pictures, found, strict=True):
        assert image.dtype == np.uint8
        assert np.array_equal(image, picture)
    assert [frame.name for frame in frames[:2]] == ["v.mkv#0", "v.mkv#1"]
    assert told == []


def test_a_video_says_its_length_rate_and_size(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "v.mp4", moving_shapes(30), rate=10))
    info = source.info
    assert (info.kind, info.frames, info.rate, info.size) == ("video", 30, Fraction(10), (120, 160))
    frames, _, _ = read(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([number / 10 for number in range(30)])
    assert all(frame.source is info and frame.path is None for frame in frames)
    assert source.is_whole
    with pytest.raises(SourceError, match="read already"):
        list(source.frames())


@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"\xff" * 251 + b".mp4", b"a\nb.mp4", b"-x.mp4", b"%06d.mp4", b"http:x.mp4"])
def test_a_video_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    write_video(tmp_path / "v.mp4", moving_shapes(2)).rename(path)
    source = open_source(path)
    assert source.info.name == str(path) and len(read(source)[0]) == 2


def test_frames_of_a_variable_rate_have_their_own_times(tmp_path: Path) -> None:
    times = [0, 40, 500, 520, 2000, 2001]
    frames, _, told = read(open_source(write_video(tmp_path / "v.mkv", moving_shapes(6), times=times)))
    assert [frame.time_s for frame in frames] == pytest.approx([time / 1000 for time in times])
    assert told == []


@pytest.mark.parametrize(("rotation", "quarters"), [(90, 1), (180, 2), (-90, 3)])
def test_a_phone_s_video_is_turned_upright(tmp_path: Path, rotation: int, quarters: int) -> None:
    pictures = [blocks(40, 64, 8, seed, contrast=0.5) for seed in range(3)]
    options = {"crf": "0"}
    path = write_video(tmp_path / "v.mp4", pictures, codec="libx264rgb", pixels="rgb24", options=options,
                       rotation=rotation)  # fmt: skip
    source = open_source(path)
    _, found, _ = read(source)
    assert source.info.size == ((64, 40) if quarters % 2 else (40, 64))
    for picture, image in zip(pictures, found, strict=True):
        assert np.array_equal(image, np.rot90(picture, quarters))
        assert image.flags.c_contiguous


def test_a_video_s_own_colour_matrix_is_used(tmp_path: Path) -> None:
    """Luma and chroma of pure red, worked by hand from BT.709 and BT.601 at limited range."""
    for name, space, (luma, blue, red) in (("709", 1, (63, 102, 240)), ("601", 5, (81, 90, 240))):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=5)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv444p"
            stream.codec_context.colorspace, stream.codec_context.color_range = space, 1
            planes = np.stack([np.full((32, 32), value, np.uint8) for value in (luma, blue, red)])
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.colorspace, frame.color_range = space, 1
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        _, (image,), _ = read(open_source(tmp_path / f"{name}.mkv"))
        # Rounding of three 8-bit numbers, each scaled by up to 2.
        np.testing.assert_allclose(image[16, 16], [255, 0, 0], atol=3)


def damaged(path: Path, start: float, end: float, seed: int = 1) -> Path:
    """Overwrite a few places of a file between two shares of its length."""
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(4):
        place = rng.randrange(int(len(data) * start), int(len(data) * end))
        data[place : place + 40] = rng.randbytes(40)
    broken = path.with_name(f"bad{path.suffix}")
    broken.write_bytes(data)
    return broken


@pytest.mark.parametrize(("name", "codec", "pixels"), [("v.mp4", "libx264", "yuv420p"), ("v.avi", "mjpeg", "yuvj420p")])
def test_a_broken_frame_is_said_and_the_others_keep_their_numbers(
    tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    path = write_video(tmp_path / name, (blocks(120, 160, 9, seed) for seed in range(60)), codec=codec, pixels=pixels)
    source = open_source(damaged(path, 0.3, 0.8))
    frames, pictures, told = read(source)
    assert 50 <= len(frames) < 60
    assert all(
        "bad" in sentence and "broken and left out" in sentence for sentence in told if "damaged" not in sentence
    )
    assert source.problems >= 60 - len(frames) > 0
    assert source.is_whole
    assert frames[-1].index == 59
    # Beyond the damage a frame is the one that has its number in the whole file.
    _, whole, _ = read(open_source(path))
    if codec == "mjpeg":
        for frame, picture in zip(frames, pictures, strict=True):
            if f"frame {frame.index} " not in " ".join(told):
                difference = np.abs(picture.astype(int) - whole[frame.index]).mean()
                assert difference < 20, frame.index


def test_broken_frames_that_follow_each_other_are_one_sentence(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", (blocks(120, 160, 9, seed) for seed in range(30)), codec="mjpeg",
                       pixels="yuvj420p")  # fmt: skip
    data = bytearray(path.read_bytes())
    starts = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 30
    for place in starts[10:13]:
        data[place + 2 : place + 200] = bytes(198)
    path.write_bytes(data)
    frames, _, told = read(open_source(path))
    assert told == [f"{path}: frames 10 to 12 (at 0.40 s) are broken and left out"]
    assert [frame.index for frame in frames] == [*range(10), *range(13, 30)]


@pytest.mark.parametrize(
    ("name", "codec", "options", "said"),
    [
        ("v.mp4", "libx264", {"movflags": "faststart"}, r"ends after [\d,]+ of 100 frames"),
        ("v.mkv", "libx264", {}, r"ends after 2\.\d of 4\.0 seconds"),
        ("v.avi", "mjpeg", {}, r"ends after \d\d of 100 frames"),
    ],
)
def test_a_file_that_is_cut_off_gives_what_it_has_and_says_so(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], said: str
) -> None:
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    pictures = (blocks(120, 160, 9, seed) for seed in range(100))
    path = write_video(tmp_path / name, pictures, codec=codec, pixels=pixels, container_options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    source = open_source(path)
    frames, _, told = read(source)
    assert 45 <= len(frames) <= 65
    assert not source.is_whole
    assert re.search(f"{said}; the file is cut off or damaged", told[-1]), told


def test_what_is_no_video_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(SourceError, match=r"notes.txt: cannot be opened \(.*\); a video was expected"):
        open_source(tmp_path / "notes.txt")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(SourceError, match="empty.mp4: cannot be opened"):
        open_source(tmp_path / "empty.mp4")


def test_a_playlist_cannot_make_this_machine_open_other_files(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", moving_shapes(30))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.ts\n#EXT-X-ENDLIST\n"
    for name, text in (
        ("a.m3u8", playlist),
        ("a.mp4", playlist),
        ("b.txt", "ffconcat version 1.0\nfile secret.ts\n"),
        ("c.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match=f"{name}: cannot be opened"):
            open_source(tmp_path / name)


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "rtsp:cam.mp4", moving_shapes(5))
    monkeypatch.chdir(tmp_path)
    assert len(read(open_source("rtsp:cam.mp4"))[0]) == 5


def test_pictures_and_videos_are_sources_in_their_order(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "z.png"):
        write_image(tmp_path / name, blocks(9, 9, 3, 0))
    for name in ("m.mp4", "n.mp4"):
        write_video(tmp_path / name, moving_shapes(3))
    words = [str(tmp_path / word) for word in ("a.png", "b.png", "*.mp4", "z.png")]
    sources = open_sources(words)
    assert [source.info.kind for source in sources] == ["pictures", "video", "video", "pictures"]
    assert [[frame.name for frame in source.frames()] for source in sources] == [
        ["a.png", "b.png"], ["m.mp4#0", "m.mp4#1", "m.mp4#2"], ["n.mp4#0", "n.mp4#1", "n.mp4#2"], ["z.png"],
    ]  # fmt: skip
    with pytest.raises(SourceError, match="the list is 4 sources, not one"):
        open_source(words)


def test_without_pyav_a_video_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "v.mp4", moving_shapes(3))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"Video needs av, .*ssd-deploy\[video\]"):
        open_source(path)


def test_a_reader_that_stops_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    source = open_source(write_video(tmp_path / "v.mp4", moving_shapes(100)))
    frames = source.frames()
    next(frames)
    frames.close()
    assert set(threading.enumerate()) == before
    source.close()
    source.close()


# --- Frames of too many pixels --------------------------------------------------------------------------------


def video_of_pngs(path: Path, sizes: list[tuple[int, int]], stated: tuple[int, int]) -> Path:
    """Write a video each frame of which is a PNG of its own size; most of a large one's rows are missing."""
    with av.open(str(path), "w", format="mov") as container:
        stream = container.add_stream("png", rate=10)
        (stream.height, stream.width), stream.pix_fmt = stated, "rgb24"
        for index, (height, width) in enumerate(sizes):
            packet = av.Packet(bad_pictures.png(width, height, rows=min(height, 100)))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 10)
            container.mux(packet)
    return path


@pytest.mark.parametrize("stated", [(64, 64), (12_000, 12_000)], ids=["header lies", "header says so"])
def test_a_video_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path, stated: tuple[int, int]) -> None:
    path = video_of_pngs(tmp_path / "v.mov", [(12_000, 12_000)] * 2, stated)
    with pytest.raises(SourceError, match=r"v\.mov.* more .*limit of 100,000,000.*--max-pixels"):
        open_source(path)


def test_frames_that_grow_beyond_the_limit_are_left_out_and_said(tmp_path: Path) -> None:
    path = video_of_pngs(tmp_path / "v.mov", [(64, 64), (64, 64), (12_000, 12_000), (64, 64)], (64, 64))
    frames, _, told = read(open_source(path))
    assert [frame.index for frame in frames] == [0, 1, 3]
    assert len(told) == 1
    assert re.search(r"frame 2 \(at 0\.\d0 s\) is beyond the limit of 100,000,000 pixels.*--max-pixels", told[0])


def test_a_limit_of_ones_own_holds_for_videos_too(tmp_path: Path) -> None:
    path = video_of_pngs(tmp_path / "v.mov", [(64, 64)] * 2, (64, 64))
    assert len(read(open_source(path, max_pixels=64 * 64))[0]) == 2
    with pytest.raises(SourceError, match="limit of 4,095"):
        open_source(path, max_pixels=64 * 64 - 1)
