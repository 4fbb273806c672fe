"""`detector.stream`: the same detections from files and from video, bounded memory, and nothing left behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from moving_shapes import http_server, moving_shapes, write_video
from numpy.typing import NDArray
from tiny_data import FakeRunner, blocks, write_image

from ssd_deploy.detector import Detector, load_detector
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_deploy.sources.open import open_source
from ssd_deploy.sources.pictures import NO_IMAGE, Pictures
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, ImageError, SourceError, SpecError
from ssd_train.spec import DetectorSpec, PostprocessSettings

av = pytest.importorskip("av", reason="PyAV is not installed")

SPEC = DetectorSpec(
    network="tiny", class_names=("a", "b"), input_size=(30, 60), postprocess=PostprocessSettings(max_detections=2)
)
ROWS = [(6, 3, 30, 15, 0.75, 1), (0, 0, 60, 30, 0.5, 0)]


def fake() -> Detector:
    return Detector(FakeRunner(SPEC, ROWS), batch_size=4)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", moving_shapes(50))


def equal(one: Detections, other: Detections) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels")
    )  # fmt: skip


@pytest.mark.parametrize(("codec", "pixels", "options"), [("ffv1", "bgr0", {}), ("libx264rgb", "rgb24", {"crf": "0"})])
def test_files_and_lossless_video_of_the_same_frames_give_equal_detections(
    tmp_path: Path, model_path: Path, codec: str, pixels: str, options: dict[str, str]
) -> None:
    pictures = [blocks(240, 320, 40, seed) for seed in range(6)]
    for index, picture in enumerate(pictures):
        write_image(tmp_path / "pics" / f"{index}.png", picture)
    path = write_video(tmp_path / "v.mkv", pictures, codec=codec, pixels=pixels, options=options)
    detector = load_detector(model_path, batch_size=2)
    of_files = list(detector.stream(tmp_path / "pics"))
    of_video = list(detector.stream(path))
    assert len(of_files) == len(of_video) == 6
    for (file_frame, file_found), (video_frame, video_found), picture in zip(of_files, of_video, pictures, strict=True):
        assert np.array_equal(file_frame.image, picture)
        assert np.array_equal(video_frame.image, picture)
        assert len(file_found) > 0
        assert equal(file_found, video_found)
        assert video_found.image_size == (240, 320)


def test_frames_come_in_order_with_their_pictures_times_and_detections_in_their_pixels(video: Path) -> None:
    found = list(fake().stream(video))
    assert [frame.index for frame, _ in found] == list(range(50))
    assert [frame.time_s for frame, _ in found] == pytest.approx([index / 25 for index in range(50)])
    for frame, detections in found:
        assert type(frame) is Frame
        assert frame.image.shape == (120, 160, 3)
        # The input is 60 wide and 30 high.
        np.testing.assert_allclose(detections.boxes[0], [16, 12, 80, 60], rtol=1e-6)


def test_thresholds_hold_in_a_stream(video: Path) -> None:
    detector = fake()
    assert {len(found) for _, found in detector.stream(video, score_threshold=0.6)} == {1}
    assert {len(found) for _, found in detector.stream(video, class_thresholds={"b": 0.9})} == {1}
    assert {len(found) for _, found in detector.stream(video, max_detections=1)} == {1}
    with pytest.raises(SpecError, match="score_threshold 2"):
        detector.stream(video, score_threshold=2)


def test_batches_are_the_detector_s_own_of_files_and_as_asked(video: Path) -> None:
    for asked, sizes in ((None, [4] * 12 + [2]), (20, [20, 20, 10]), (1, [1] * 50)):
        runner = FakeRunner(SPEC, ROWS)
        list(Detector(runner, batch_size=4).stream(video, batch_size=asked))
        assert runner.batch_sizes == sizes
    runner = FakeRunner(SPEC, ROWS, max_batch_size=2)
    list(Detector(runner).stream(video, batch_size=9))
    assert set(runner.batch_sizes) == {2}
    with pytest.raises(BackendError, match="a batch size of 0"):
        list(fake().stream(video, batch_size=0))


def test_a_list_of_sources_is_one_stream_and_each_frame_says_whose_it_is(tmp_path: Path, video: Path) -> None:
    write_image(tmp_path / "a.png", blocks(9, 9, 3, 0))
    found = list(fake().stream([tmp_path / "a.png", video, blocks(9, 9, 3, 1)]))
    assert [frame.source.kind for frame, _ in found] == ["pictures", *["video"] * 50, "pictures"]
    assert [found[0][0].name, found[1][0].name, found[-1][0].name] == ["a.png", "v.mp4#0", "images[0]"]


def test_a_picture_that_cannot_be_read_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    for index in range(6):
        write_image(tmp_path / f"{index}.png", blocks(9, 9, 3, index))
    (tmp_path / "3.png").write_bytes(b"")
    source = open_source(tmp_path)
    told: list[str] = []
    source.on_problem = told.append
    found = list(fake().stream(source))
    assert [frame.index for frame, _ in found] == [0, 1, 2, 4, 5]
    assert (len(told), source.problems) == (1, 1)
    assert "3.png: the file is empty" in told[0]


class Breaking(Exception):
    pass


@pytest.mark.parametrize("how", ["closed", "left out of sight", "error in the reader", "error in the network"])
def test_whatever_ends_a_stream_no_thread_is_left_and_the_source_is_closed(video: Path, how: str) -> None:
    before = set(threading.enumerate())
    detector = fake()
    source = open_source(video)
    closed: list[bool] = []
    close = source.close
    source.close = lambda: (closed.append(True), close())[1]  # type: ignore[method-assign,func-returns-value]
    found = detector.stream(source)
    next(found)
    assert len(set(threading.enumerate()) - before) >= 2
    if how == "closed":
        found.close()
    elif how == "left out of sight":
        del found
    elif how == "error in the reader":
        with pytest.raises(Breaking):
            found.throw(Breaking)
    else:

        def fail(images: NDArray[np.float32]) -> PaddedDetections:
            raise Breaking

        detector.runner.run = fail  # type: ignore[method-assign]
        found.close()
        with pytest.raises(Breaking):
            list(detector.stream(video))
    assert set(threading.enumerate()) == before
    assert closed


def test_a_source_that_cannot_be_opened_is_said_at_the_first_frame() -> None:
    with pytest.raises(ImageError, match="nosuch.mp4: no such file"):
        next(fake().stream("nosuch.mp4"))
    with pytest.raises(SourceError, match="Connection refused"):
        next(fake().stream("rtsp://127.0.0.1:1/cam"))


class Ticking(Pictures):
    """A live source that gives a frame when it is told to; its `is_ready` says whether one is there."""

    def __init__(self) -> None:
        super().__init__([blocks(9, 9, 3, 0)] * 100, "ticking")
        self.info = SourceInfo(name="ticking", kind="live", frames=None)
        self.given = 0
        self.asked = 0

    def frames(self) -> Iterator[Frame]:  # type: ignore[override]
        for index in range(100):
            self.asked += 1
            assert self.given > index, "a live source was asked for a frame before the last one was given out"
            yield Frame(index=index, name=str(index), image=NO_IMAGE, path=None, time_s=None, source=self.info)

    def is_ready(self) -> bool:
        return self.given > self.asked


def test_a_live_frame_is_detected_in_before_the_next_one_comes() -> None:
    source = Ticking()
    found = fake().stream(source)
    for tick in range(20):
        source.given += 1
        assert next(found)[0].index == tick
    assert fake().batch_size == 4
    found.close()


def test_of_live_frames_that_wait_one_loads_while_the_network_runs() -> None:
    source = Ticking()
    source.given = 50
    found = fake().stream(source)
    for tick in range(20):
        assert next(found)[0].index == tick
        assert source.asked <= tick + 2
    found.close()


def test_decoding_and_preprocessing_run_beside_the_network(tmp_path: Path) -> None:
    """A network that sleeps leaves the processor to the others, so that all of their work hides behind it."""
    path = write_video(tmp_path / "v.mp4", moving_shapes(64, (360, 480)))

    class Sleeping(FakeRunner):
        def run(self, images: NDArray[np.float32]) -> PaddedDetections:
            time.sleep(0.2)
            return super().run(images)

    detector = Detector(Sleeping(SPEC, ROWS), batch_size=8)
    found = detector.stream(path)
    next(found)
    started = time.monotonic()
    assert len(list(found)) == 63
    # Seven more batches of 0.2 s.
    assert 1.4 <= time.monotonic() - started < 1.4 * 1.25


def test_a_stream_that_is_lost_keeps_what_was_done(
    video: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_video(tmp_path / "v.ts", (blocks(120, 160, 9, seed) for seed in range(50)))
    with http_server(path, cuts=9) as server:
        found = list(fake().stream(f"http://me:secret@{server}/v.ts"))
    assert 10 < len(found) < 45
    assert f"lost after {len(found)} frames" in caplog.text
    assert "secret" not in caplog.text


MEMORY = """
import sys
import psutil
from pathlib import Path
from moving_shapes import moving_shapes, write_video
from tiny_data import FakeRunner
from ssd_deploy.detector import Detector
from ssd_train.spec import DetectorSpec, PostprocessSettings

path = Path(sys.argv[1])
some = list(moving_shapes(50))
write_video(path, (some[index % 50] for index in range(5000)), options={"preset": "ultrafast"})
spec = DetectorSpec(
    network="tiny", class_names=("a", "b"), input_size=(300, 300), postprocess=PostprocessSettings(max_detections=2)
)
detector = Detector(FakeRunner(spec, [(0, 0, 30, 30, 0.5, 1)]))
process, highest, at = psutil.Process(), 0, {}
for count, _ in enumerate(detector.stream(path), start=1):
    if count % 10 == 0:
        highest = max(highest, process.memory_info().rss)
        at[count] = highest
print(at[1000] / 2**20, at[5000] / 2**20)
"""


@pytest.mark.slow
def test_memory_is_level_over_five_thousand_frames(tmp_path: Path) -> None:
    """In a process of its own, with a fake network, so that nothing but the stream holds memory."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "v.mp4")]
    folder = Path(__file__).parent
    path = f"{folder}:{folder.parents[1]}"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=True)
    early, late = (float(word) for word in done.stdout.split())
    # A decoded frame has 29 kB and a network input 1 MB: 4,000 frames that were kept would be 100 MB and more.
    assert late - early < 10, (early, late)
