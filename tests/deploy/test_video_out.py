"""Annotated videos, read back: as many frames as came in, at their times, of their size."""

import json
import threading
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from moving import SIZE, SPEC, Seeing, grey, painted, write_video

from ssd_deploy.detected import Detected
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.base import Source
from ssd_deploy.sources.frame import Frame, SourceInfo, SourceKind
from ssd_deploy.sources.open import open_sources
from ssd_deploy.tiling import Tiling
from ssd_train.errors import BackendError, ImageError, SSDDeployError

av = pytest.importorskip("av", reason="PyAV is not installed")


class Shots(Source):
    """A source of pictures that are given, some of them missing as if they had been broken.

    Args:
        images: index -> picture; an index that is left out was lost, None is one that `load` cannot read.
        length: how many the container says there are.
        times: index -> seconds; those of the rate where it is None.
        interrupt: press Ctrl-C at the end.
    """

    def __init__(
        self,
        images: dict[int, np.ndarray | None],
        *,
        kind: SourceKind = "video",
        length: int | None = None,
        rate: Fraction | None = Fraction(25),
        times: dict[int, float] | None = None,
        name: str = "shots.avi",
        interrupt: bool = False,
    ) -> None:
        super().__init__()
        self.images, self.times, self.interrupt = images, times, interrupt
        self.info = SourceInfo(name=name, kind=kind, frames=length, rate=rate)
        self.problems = (length or 0) - len(images) if length else 0

    def frames(self) -> Generator[Frame, None, None]:
        for index in self.images:
            rate = self.info.rate or Fraction(25)
            time_s = float(index / rate) if self.times is None else self.times[index]
            yield Frame(index=index, name=f"shots#{index}", image=grey(), path=None, time_s=time_s, source=self.info)
        if self.interrupt:
            raise KeyboardInterrupt

    def load(self, frame: Frame) -> np.ndarray:
        image = self.images[frame.index]
        if image is None:
            raise ImageError(f"{frame.name}: broken")
        return image


def shade(number: int) -> np.ndarray:
    """A picture that tells its number: 10 levels of grey a frame."""
    return np.full((*SIZE, 3), 20 + 10 * number, np.uint8)


def number_of(image: np.ndarray) -> int:
    return round((float(image.mean()) - 20) / 10)


def detect(source: Source, out: Path, **options: Any) -> Detected:
    return detect_sources(Detector(Seeing(), batch_size=3), [source], out, **options)


class Stated(NamedTuple):
    """What a container says of its video."""

    rate: Fraction
    base_rate: Fraction
    frames: int
    duration_s: float
    size: tuple[int, int]


def read_back(path: Path) -> tuple[list[np.ndarray], list[float], Stated]:
    """Return frames, their times in seconds, and what the container says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        stated = Stated(
            stream.average_rate,
            stream.base_rate,
            stream.frames,
            float(stream.duration * stream.time_base),
            (stream.height, stream.width),
        )
        return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames], stated


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001), Fraction(10), Fraction(60)])
@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_comes_out_with_its_frames_rate_and_size(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    video = write_video(tmp_path / f"street{suffix}", [shade(number) for number in range(13)], rate=rate)
    with open_sources([video])[0] as source:
        found = detect(source, tmp_path / "out")
    images, times, stated = read_back(tmp_path / "out" / "street.mp4")
    assert [number_of(image) for image in images] == list(range(13))
    assert {image.shape for image in images} == {(*SIZE, 3)}
    np.testing.assert_allclose(times, [float(number / rate) for number in range(13)], atol=1e-4)
    assert stated[:3] == (rate, rate, 13)
    assert stated.duration_s == pytest.approx(float(13 / rate), abs=1e-4)
    assert (found.sources[0].frames, found.sources[0].video) == (13, tmp_path / "out" / "street.mp4")
    assert found.errors == () and not found.is_lossy


def test_detections_are_drawn_where_they_are_and_colors_stay(tmp_path: Path) -> None:
    boxes = [(10 + 4 * number, 20, 30 + 4 * number, 40) for number in range(6)]
    video = write_video(tmp_path / "in.mp4", [painted([(box, 2)]) for box in boxes])
    with open_sources([video])[0] as source:
        detect(source, tmp_path / "out")
    for image, (left, top, right, bottom) in zip(read_back(tmp_path / "out" / "in.mp4")[0], boxes, strict=True):
        # The inside stays blue, the far corner grey, and the line of the box is another color than both.
        np.testing.assert_allclose(
            image[top + 6 : bottom - 4, left + 5 : right - 5].mean((0, 1)), (30, 60, 250), atol=12
        )
        np.testing.assert_allclose(image[-20:, -20:].mean((0, 1)), 90, atol=3)
        line = image[top + 6 : bottom - 4, right].astype(int).mean(0)
        assert np.abs(line - (30, 60, 250)).max() > 60 and np.abs(line - 90).max() > 60


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (47, 64), (2, 2), (1, 1)])
def test_odd_sides_stay_odd(tmp_path: Path, size: tuple[int, int]) -> None:
    images = {number: np.full((*size, 3), 20 + 10 * number, np.uint8) for number in range(4)}
    detect(Shots(images), tmp_path / "out")
    frames, _, stated = read_back(tmp_path / "out" / "shots.mp4")
    assert stated.size == size
    assert [number_of(image) for image in frames] == [0, 1, 2, 3]


def test_lost_frames_show_the_last_good_one_so_that_the_length_stays(tmp_path: Path) -> None:
    images: dict[int, np.ndarray | None] = {number: shade(number) for number in (2, 3, 6, 7)}
    images[5] = None
    images = dict(sorted(images.items()))
    source = Shots(images, length=10)
    found = detect(source, tmp_path / "out")
    frames, times, _ = read_back(tmp_path / "out" / "shots.mp4")
    assert [number_of(image) for image in frames] == [2, 2, 2, 3, 3, 3, 6, 7, 7, 7]
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-4)
    assert found.is_lossy and "shots#5: broken" in found.errors
    # Its JSON has what was really looked at.
    images_found = json.loads(found.results["json"].read_text())["images"]
    assert [image["index"] for image in images_found] == [2, 3, 6, 7]


def test_a_variable_rate_keeps_the_time_of_each_frame(tmp_path: Path) -> None:
    times = dict(enumerate([0.0, 0.04, 0.2, 0.21, 0.5, 1.0]))
    detect(Shots({number: shade(number) for number in times}, times=times), tmp_path / "out")
    frames, read, _ = read_back(tmp_path / "out" / "shots.mp4")
    assert [number_of(image) for image in frames] == list(range(6))
    np.testing.assert_allclose(read, list(times.values()), atol=2e-4)


def test_times_rounded_by_a_container_make_a_constant_rate_again(tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    times = {number: round(float(number / rate), 3) for number in range(10)}
    detect(Shots({number: shade(number) for number in times}, times=times, rate=rate), tmp_path / "out")
    assert read_back(tmp_path / "out" / "shots.mp4")[2].rate == rate


def test_times_that_stand_still_or_go_back_become_a_video_all_the_same(tmp_path: Path) -> None:
    times = dict(enumerate([0.0, 0.04, 0.04, 0.01, 0.16, 0.2]))
    detect(Shots({number: shade(number) for number in times}, times=times), tmp_path / "out")
    frames, read, _ = read_back(tmp_path / "out" / "shots.mp4")
    assert [number_of(image) for image in frames] == list(range(6)) and read == sorted(read)


def test_a_frame_of_another_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    images = {0: shade(0), 1: np.full((200, 100, 3), 30, np.uint8), 2: shade(2)}
    detect(Shots(images), tmp_path / "out")
    frames, _, _ = read_back(tmp_path / "out" / "shots.mp4")
    assert [image.shape for image in frames] == [(*SIZE, 3)] * 3
    assert [number_of(image) for image in frames] == [0, 1, 2]


def test_a_stream_keeps_its_times_and_is_not_filled_up_where_frames_were_dropped(tmp_path: Path) -> None:
    times = {0: 0.0, 1: 0.5, 7: 0.9, 8: 2.0}
    source = Shots({number: shade(number) for number in times}, kind="live", rate=None, times=times, name="rtsp://h/s")
    found = detect(source, tmp_path / "out", save=["video"])
    frames, read, _ = read_back(tmp_path / "out" / "h-s.mp4")
    assert [number_of(image) for image in frames] == [0, 1, 7, 8]
    np.testing.assert_allclose(read, list(times.values()), atol=1e-3)
    # One frame at a time, since a camera does not wait for a batch.
    assert found.sources[0].video == tmp_path / "out" / "h-s.mp4"


@pytest.mark.parametrize("tiling", [None, Tiling(tiles=64)])
def test_a_live_frame_is_not_kept_back_until_the_next_one_comes(tmp_path: Path, tiling: Tiling | None) -> None:
    is_seen = threading.Semaphore(0)

    class Patient(Shots):
        """A camera whose next frame comes once the one before has been seen."""

        def frames(self) -> Generator[Frame, None, None]:
            for number, frame in enumerate(super().frames()):
                if number:
                    assert is_seen.acquire(timeout=10), "the frame before was kept back"
                yield frame

        def is_ready(self) -> bool:
            return False

    class Viewer:
        def show(self, image: np.ndarray, name: str, *, waits: bool) -> bool:
            assert not waits
            is_seen.release()
            return True

    source = Patient({number: shade(number) for number in range(4)}, kind="live", name="0")
    found = detect(source, tmp_path / "out", viewer=Viewer(), tiling=tiling)
    assert found.sources[0].frames == 4


def test_a_stream_that_is_stopped_by_its_user_ended_well(tmp_path: Path) -> None:
    source = Shots({number: shade(number) for number in range(5)}, kind="live", interrupt=True, name="0")
    found = detect(source, tmp_path / "out", save=["video", "json"])
    content = json.loads(found.results["json"].read_text())
    assert content["is_complete"] is True and len(content["images"]) <= 5 and not found.is_lossy


def test_a_video_that_is_broken_off_keeps_what_was_done_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A look-ahead of frames is under way when it happens, so the last ones are not there.
    source = Shots({number: shade(number) for number in range(20)}, length=40, interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        detect(source, tmp_path / "out")
    frames, _, _ = read_back(tmp_path / "out" / "shots.mp4")
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [number_of(image) for image in frames] == list(range(len(frames))) and len(frames) >= 15
    assert content["is_complete"] is False and len(content["images"]) == len(frames)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"shots.mp4", "detections.json"}
    assert f"broken off; what was found up to then is in {tmp_path / 'out'}" in caplog.text


def test_a_backend_that_fails_in_the_middle_leaves_a_video_of_what_was_done(tmp_path: Path) -> None:
    class Failing(Seeing):
        def run(self, images: np.ndarray) -> Any:
            if len(self.batch_sizes) == 3:
                raise BackendError("the GPU is gone")
            return super().run(images)

    source = Shots({number: shade(number) for number in range(20)}, length=20)
    with pytest.raises(BackendError, match="the GPU is gone"):
        detect_sources(Detector(Failing(), batch_size=3), [source], tmp_path / "out")
    assert len(read_back(tmp_path / "out" / "shots.mp4")[0]) == 9


def test_several_videos_and_pictures_go_to_files_of_their_own(tmp_path: Path) -> None:
    for folder, count in (("a", 3), ("b", 5)):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "street.mp4", [shade(number) for number in range(count)])
    words = [tmp_path / "a" / "street.mp4", shade(1), tmp_path / "b" / "street.mp4"]
    detector = Detector(Seeing(), batch_size=2)
    found = detect_sources(detector, open_sources(words), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "street.mp4", "street-2.mp4", "images[0].png", "detections.json",
    }  # fmt: skip
    assert len(read_back(tmp_path / "out" / "street.mp4")[0]) == 3
    assert len(read_back(tmp_path / "out" / "street-2.mp4")[0]) == 5
    images = json.loads(found.results["json"].read_text())["images"]
    assert [image.get("index") for image in images] == [0, 1, 2, None, 0, 1, 2, 3, 4]
    assert [image["file"] for image in images[::4]] == [str(words[0]), str(words[2]), str(words[2])]


def test_a_video_never_replaces_the_one_that_is_read(tmp_path: Path) -> None:
    video = write_video(tmp_path / "street.mp4", [shade(number) for number in range(3)])
    before = video.read_bytes()
    with open_sources([video])[0] as source, pytest.raises(SSDDeployError, match="would replace one that is read"):
        detect(source, tmp_path)
    assert video.read_bytes() == before and list(tmp_path.iterdir()) == [video]


def test_pictures_make_no_video(tmp_path: Path) -> None:
    with pytest.raises(SSDDeployError, match="video is made of video and live sources"):
        detect_sources(Detector(Seeing()), open_sources([shade(0)]), tmp_path / "out", save=["video"])
    assert not (tmp_path / "out").exists() and SPEC.network == "seeing"


def damaged(path: Path, numbers: list[int]) -> Path:
    """Overwrite the data of some frames, counted from 0."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        start, size = packets[number]
        data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("numbers", [[5], [4, 5, 6], [12], [11, 12]])
def test_a_file_with_broken_frames_comes_out_as_long_as_it_was(tmp_path: Path, numbers: list[int]) -> None:
    path = write_video(tmp_path / "street.mp4", [painted([((10 + 5 * n, 20, 30 + 5 * n, 40), 0)]) for n in range(13)])
    with open_sources([damaged(path, numbers)])[0] as source:
        found = detect(source, tmp_path / "out")
    frames, times, stated = read_back(tmp_path / "out" / "street.mp4")
    assert len(frames) == 13 and stated.frames == 13
    np.testing.assert_allclose(times, np.arange(13) / 25, atol=1e-4)
    assert found.is_lossy and len(found.errors) >= 1 and "street.mp4" in found.errors[0]
    assert found.sources[0].problems == len(numbers)
