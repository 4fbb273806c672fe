"""When a GPU's work is recorded for a batch size, checked, kept and given up; with fakes, which need no GPU."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_deploy.backends.recordings import Recordings, Way
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError
from ssd_train.spec import DetectorSpec

Images = NDArray[np.float32]

SPEC = DetectorSpec(network="tiny", class_names=("a", "b"), input_size=(300, 300))


def answer(images: Images, *, label: int = 1, score: float = 0.9) -> PaddedDetections:
    """One box an image, at the image's own value, and a row of padding."""
    count = len(images)
    boxes = np.full((count, 2, 4), -1, np.float32)
    boxes[:, 0] = images[:, 0, 0, 0, None] + np.array([0, 0, 50, 50], np.float32)
    scores, labels = np.full((count, 2), -1, np.float32), np.full((count, 2), -1, np.int64)
    scores[:, 0], labels[:, 0] = score, label
    return PaddedDetections(boxes, scores, labels)


def nothing(images: Images) -> PaddedDetections:
    """All padding: nothing was found."""
    return PaddedDetections(*(np.full_like(array, -1) for array in answer(images)))


class FakeRecording:
    """A fake of a CUDA graph: computes its answer, and notes what is done with it."""

    def __init__(self, shape: tuple[int, ...], find: Callable[[Images], PaddedDetections]) -> None:
        self.shape, self.find = shape, find
        self.runs = self.closed = 0
        self._alone = threading.Lock()

    def run(self, images: Images) -> PaddedDetections:
        assert images.shape == self.shape
        assert self._alone.acquire(blocking=False), "two threads replay at once"
        self.runs += 1
        found = self.find(images)
        self._alone.release()
        return found

    def times_ms(self, images: Images, runs: int) -> list[float]:
        return [0.5] * runs

    def close(self) -> None:
        self.closed += 1


class FakeWay:
    """A fake way to record, which keeps all that it recorded."""

    def __init__(self, name: str = "graph", find: Callable[[Images], PaddedDetections] = answer) -> None:
        self.name, self.find = name, find
        self.made: list[FakeRecording] = []
        self.tried = 0
        self.error: Exception | None = None

    def record(self, images: Images) -> FakeRecording:
        self.tried += 1
        if self.error is not None:
            raise self.error
        self.made.append(FakeRecording(images.shape, self.find))
        return self.made[-1]


class FakeDetector:
    """A fake detector, which counts its calls."""

    def __init__(self, find: Callable[[Images], PaddedDetections] = answer) -> None:
        self.find, self.runs = find, 0

    def run(self, images: Images) -> PaddedDetections:
        self.runs += 1
        return self.find(images)

    def times_ms(self, images: Images, runs: int) -> list[float]:
        return [2.0] * runs


def recordings(
    detector: FakeDetector, *ways: FakeWay, spec: DetectorSpec = SPEC, asked_for: bool = False, most: int = 3
) -> Recordings:
    made: Sequence[Way] = [Way(name=way.name, record=way.record) for way in ways]
    return Recordings("it", spec, detector.run, detector.times_ms, made, is_asked_for=asked_for, most=most)


def batch(count: int, value: float = 0.0) -> Images:
    return np.full((count, 3, 4, 4), value, np.float32)


def test_a_batch_size_is_recorded_at_its_third_call_and_replayed_from_then_on() -> None:
    detector, way = FakeDetector(), FakeWay()
    runs = recordings(detector, way)
    for value in range(6):
        found = runs.run(batch(8, value))
        np.testing.assert_array_equal(found.boxes, answer(batch(8, value)).boxes)
        assert runs.recorded() == ((8,) if value >= 2 else ())
    # Three as usual, the third of them again to compare, then three replays.
    assert (detector.runs, way.made[0].runs) == (3, 4)


def test_the_last_smaller_batches_of_two_passes_cost_no_recording() -> None:
    detector, way = FakeDetector(), FakeWay()
    runs = recordings(detector, way)
    for count in (8, 8, 8, 8, 5, 8, 8, 8, 8, 5):
        runs.run(batch(count))
    assert runs.recorded() == (8,) and way.tried == 1


def test_a_recording_that_finds_something_else_is_given_up_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    detector, wrong = FakeDetector(), FakeWay("nhwc", lambda images: answer(images, label=0))
    right = FakeWay("plain graph")
    runs = recordings(detector, wrong, right)
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            assert (runs.run(batch(2)).labels[:, 0] == 1).all()
            assert (runs.run(batch(3)).labels[:, 0] == 1).all()
    assert (wrong.tried, wrong.made[0].closed, right.tried, runs.recorded()) == (1, 1, 2, (2, 3))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["it: runs without nhwc from now on (of its detections 2 of 2 changed (2 changed label))"]


@pytest.mark.parametrize("error", [RuntimeError("no capture\nand a stack"), BackendError("no memory")])
def test_a_capture_that_fails_leaves_the_detector_as_it_was(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    detector, way = FakeDetector(), FakeWay()
    way.error = error
    runs = recordings(detector, way)
    for _ in range(6):
        assert (runs.run(batch(4)).labels[:, 0] == 1).all()
    assert (detector.runs, way.tried, runs.recorded()) == (6, 1, ())
    reason = str(error).splitlines()[0]
    assert [record.getMessage() for record in caplog.records] == [f"it: runs without graph from now on ({reason})"]


def test_a_mistake_of_ours_is_no_reason_to_go_on() -> None:
    way = FakeWay()
    way.error = AttributeError("a bug of ours")
    runs = recordings(FakeDetector(), way)
    runs.run(batch(1)), runs.run(batch(1))
    with pytest.raises(AttributeError, match="a bug of ours"):
        runs.run(batch(1))


def test_where_nothing_is_found_nothing_is_compared_so_that_a_later_call_decides() -> None:
    detector, way = FakeDetector(nothing), FakeWay(find=nothing)
    runs = recordings(detector, way)
    for _ in range(5):
        runs.run(batch(1))
    assert way.tried == 0
    detector.find = way.find = answer
    runs.run(batch(1))
    assert runs.recorded() == (1,)


def test_no_more_batch_sizes_are_recorded_than_allowed() -> None:
    way = FakeWay()
    runs = recordings(FakeDetector(), way, most=2)
    for _ in range(4):
        for count in (1, 2, 3):
            assert len(runs.run(batch(count)).labels) == count
    assert runs.recorded() == (1, 2) and way.tried == 2


def test_what_is_asked_for_is_recorded_at_once_and_its_failure_is_raised() -> None:
    detector, way = FakeDetector(), FakeWay()
    runs = recordings(detector, way, asked_for=True, most=2)
    for count in (1, 2, 3, 3):
        assert len(runs.run(batch(count)).labels) == count
    assert runs.recorded() == (2, 3) and detector.runs == 0
    assert [made.closed for made in way.made] == [1, 0, 0], "the oldest makes room"
    way.error = BackendError("no capture")
    with pytest.raises(BackendError, match="no capture"):
        runs.run(batch(1))


def test_times_are_those_of_what_runs_in_the_long_run() -> None:
    runs = recordings(FakeDetector(), FakeWay())
    assert runs.times_ms(batch(1), 2) == [2.0] * 2
    assert runs.times_ms(batch(1), 2) == [0.5] * 2
    assert recordings(FakeDetector(), FakeWay()).times_ms(batch(1), 4) == [0.5] * 4
    assert recordings(FakeDetector(), FakeWay(), asked_for=True).times_ms(batch(1), 1) == [0.5]


def test_closing_gives_every_recording_back_once() -> None:
    way = FakeWay()
    runs = recordings(FakeDetector(), way)
    for count in (1, 2) * 3:
        runs.run(batch(count))
    runs.close()
    runs.close()
    assert [made.closed for made in way.made] == [1, 1] and runs.recorded() == ()


def test_threads_take_turns() -> None:
    way = FakeWay()
    runs = recordings(FakeDetector(), way)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda value: runs.run(batch(2, value)), range(40)))
    for value, padded in enumerate(found):
        np.testing.assert_array_equal(padded.boxes, answer(batch(2, value)).boxes)
    assert way.tried == 1
