"""What words stand for, pictures as a source, and a thread that runs ahead but not far."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_data import blocks, write_image

from ssd_deploy.sources.base import Reconnect
from ssd_deploy.sources.open import open_source, open_sources
from ssd_deploy.sources.pictures import Pictures
from ssd_deploy.sources.run_ahead import RunAhead
from ssd_train.addresses import without_password
from ssd_train.errors import ImageError, SourceError
from ssd_train.preprocess import load_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("b.png", "a.jpg", "deep/c.png")):
        write_image(tmp_path / "pics" / name, blocks(20, 30, 5, index))
    return tmp_path / "pics"


def test_a_folder_a_pattern_a_file_and_a_list_are_pictures(folder: Path) -> None:
    for named, names in (
        (folder, ["a.jpg", "b.png", "c.png"]),
        (str(folder / "*.png"), ["b.png"]),
        (folder / "a.jpg", ["a.jpg"]),
        ([folder / "b.png", str(folder)], ["b.png", "a.jpg", "c.png"]),
    ):
        with open_source(named) as source:  # type: ignore[arg-type]
            frames = list(source.frames())
            assert [frame.name for frame in frames] == names
            assert [frame.index for frame in frames] == list(range(len(names)))
            assert (source.info.kind, source.info.frames, source.info.rate) == ("pictures", len(names), None)
            for frame in frames:
                assert frame.path is not None
                assert np.array_equal(source.load(frame), load_image(frame.path))


def test_arrays_are_pictures_and_a_wrong_one_is_named() -> None:
    good = blocks(20, 30, 5, 0)
    with open_source([good, good.astype(np.float32)]) as source:  # type: ignore[list-item]
        first, second = source.frames()
        assert source.load(first) is good
        assert (first.path, first.time_s, second.name) == (None, None, "images[1]")
        with pytest.raises(ImageError, match=r"images\[1\]: .*float32"):
            source.load(second)


def test_pictures_that_follow_each_other_are_one_source(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    write_image(folder / "results" / "old.png", blocks(9, 9, 3, 0))
    sources = open_sources([str(folder / "a.jpg"), str(folder)], leave_out=folder / "results")
    assert [[frame.name for frame in source.frames()] for source in sources] == [["a.jpg", "b.png", "c.png"]]


def test_a_picture_is_known_by_its_bytes_where_its_name_does_not_say(folder: Path) -> None:
    nameless = folder / "a.jpg"
    nameless = nameless.rename(folder / "photo")
    with open_source(nameless) as source:
        assert source.info.kind == "pictures"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("nosuch.mp4", "nosuch.mp4: no such file or folder"),
        ("ftp://me:secret@host/a.mp4", r"ftp://me:\*\*\*@host/a.mp4: no stream starts with ftp://; use rtsp"),
        ([], "an empty list is no source"),
        ("", "an empty name"),
    ],
)
def test_what_is_no_source_is_one_sentence(named: object, message: str) -> None:
    with pytest.raises((SourceError, ImageError), match=message):
        open_source(named)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:pw@host:554/cam", "rtsp://user:***@host:554/cam"),
        ("rtsp://user:p@w:x@host/cam", "rtsp://user:***@host/cam"),
        ("rtsp://user:p/w@host/cam", "rtsp://user:***@host/cam"),
        ("http://host:8080/cam@2", "http://host:8080/cam@2"),
        ("http://host/live?user=me&password=pw&x=1", "http://host/live?user=me&password=***&x=1"),
        ("srt://host:9000?passphrase=pw", "srt://host:9000?passphrase=***"),
        ("'rtsp://:pw@host' is gone", "'rtsp://:***@host' is gone"),
        ("https://token@host/w.zip", "https://***@host/w.zip"),
        ("https://user:pw@host/w.zip", "https://user:***@host/w.zip"),
        ("folder/street.mp4", "folder/street.mp4"),
    ],
)
def test_a_password_is_not_shown(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_waits_before_new_tries_double_up_to_the_longest() -> None:
    reconnect = Reconnect(attempts=6, wait_s=2, longest_wait_s=20)
    assert [reconnect.wait_before(attempt) for attempt in range(1, 7)] == [2, 4, 8, 16, 20, 20]
    assert Reconnect().wait_before(10**6) == 60
    with pytest.raises(SourceError, match="attempts 0: expected 1 or more"):
        Reconnect(attempts=0)


def test_a_source_runs_ahead_by_its_room_and_no_further() -> None:
    made: list[int] = []

    def produce(stop: threading.Event) -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    ahead = RunAhead(produce, room=3, drop_oldest=False, name="test")
    items = ahead.items()
    for number in range(20):
        assert next(items) == number
        deadline = time.monotonic() + 10
        # Three that wait, and one that has no room yet.
        while len(made) < number + 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.002)
        assert len(made) == number + 5
    ahead.close()
    assert not any(thread.name == "test" for thread in threading.enumerate())
    assert ahead.dropped == 0


def test_the_newest_item_is_kept_where_the_oldest_are_dropped() -> None:
    taken = threading.Event()

    def produce(stop: threading.Event) -> Iterator[int]:
        yield 0
        taken.wait(10)
        yield from range(1, 10)

    ahead = RunAhead(produce, room=1, drop_oldest=True, name="test")
    items = ahead.items()
    assert next(items) == 0
    assert not ahead.is_ready()
    taken.set()
    while not ahead._is_over:
        time.sleep(0.001)
    assert ahead.is_ready()
    assert (list(items), ahead.dropped) == ([9], 8)


def test_an_error_comes_after_what_was_yielded_before_it() -> None:
    def produce(stop: threading.Event) -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    items = RunAhead(produce, room=5, drop_oldest=False, name="test").items()
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_problems_are_counted_and_told(folder: Path) -> None:
    source = Pictures([folder / "a.jpg"], "a")
    told: list[str] = []
    source.on_problem = told.append
    source.report("one")
    source.report("two", is_loss=False)
    assert (told, source.problems) == (["one", "two"], 1)
