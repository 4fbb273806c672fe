import csv
import json
from pathlib import Path

import numpy as np
import pytest
from moving import Box, Seeing, painted, write_video

from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.open import open_sources
from ssd_train.detections import Detections
from ssd_train.errors import BackendError, SSDDeployError

pytest.importorskip("trackers", reason="trackers is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from ssd_deploy.tracking import Tracker  # noqa: E402

FRAMES = 40


def truth(number: int) -> list[tuple[Box, int]]:
    """Three squares of 20 pixels: two that pass each other close by, and one that crosses both ways from below."""
    return [
        ((4 + 3 * number, 20, 24 + 3 * number, 40), 0),
        ((130 - 3 * number, 46, 150 - 3 * number, 66), 1),
        ((70, max(0, 74 - 2 * number), 90, max(0, 74 - 2 * number) + 20), 2),
    ]


def test_each_object_keeps_one_number_through_a_crossing(tmp_path: Path) -> None:
    video = write_video(tmp_path / "in.mp4", [painted(truth(number)) for number in range(FRAMES)])
    found = detect_sources(
        Detector(Seeing()), open_sources([video]), tmp_path / "out", track=True, save=["json", "csv", "video"]
    )
    images = json.loads(found.results["json"].read_text())["images"]
    assert [image["index"] for image in images] == list(range(FRAMES))
    ids: dict[int, set[int]] = {0: set(), 1: set(), 2: set()}
    seen = 0
    for image in images:
        for row in image["detections"]:
            # By the truth, and not by the label that was found.
            box = dict((label, box) for box, label in truth(image["index"]))[row["label"]]
            if row["track_id"] >= 0:
                assert np.abs(np.subtract(row["box"], box)).max() < 24
                ids[row["label"]].add(row["track_id"])
                seen += 1
    assert [len(numbers) for numbers in ids.values()] == [1, 1, 1]
    assert set.union(*ids.values()) == {1, 2, 3}
    # All but the first frame of each, and where one is hidden behind another.
    assert seen > 2.5 * FRAMES
    assert {row["track_id"] for row in images[0]["detections"]} == {-1}
    with found.results["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["track_id"] for row in rows} == {"", "1", "2", "3"}


def of(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), ("cat", "dog"))


def test_an_object_that_is_hardly_seen_for_a_while_keeps_its_number_and_is_not_shown_then() -> None:
    tracker, numbers, shown = Tracker(10), [], []
    # Longer than the second after which an object that is not seen at all is given up.
    for frame in range(26):
        score = 0.2 if 4 <= frame < 22 else 0.8
        found = of((10 + 8 * frame, 10, 50 + 8 * frame, 50, score, 0), (200, 100, 240, 140, 0.15, 1))
        answer = tracker.update(found, np.flatnonzero(found.scores >= 0.5))
        assert answer.track_ids is not None
        shown.append(len(answer))
        numbers += answer.track_ids.tolist()
    assert shown == [1] * 4 + [0] * 18 + [1] * 4
    assert numbers == [-1, 1, 1, 1, 1, 1, 1, 1]


def test_numbers_stay_with_their_rows_and_labels() -> None:
    tracker = Tracker(None)
    first, second = (10, 10, 50, 50), (200, 10, 260, 90)
    tracker.update(of((*first, 0.9, 0), (*second, 0.8, 1)), np.arange(2))
    before = tracker.update(of((*first, 0.9, 0), (*second, 0.8, 1)), np.arange(2))
    # The order of the scores changes, and the detector calls the cat a dog for once.
    after = tracker.update(of((*second, 0.95, 1), (*first, 0.9, 1)), np.arange(2))
    assert before.track_ids is not None and after.track_ids is not None
    assert after.track_ids.tolist() == before.track_ids.tolist()[::-1] and set(after.track_ids) == {1, 2}
    assert after.labels.tolist() == [1, 1] and after.scores.tolist() == pytest.approx([0.95, 0.9])


def test_frames_without_anything_are_fine() -> None:
    tracker = Tracker(25)
    for found in (of(), of((10, 10, 50, 50, 0.9, 0)), of(), of((10, 10, 50, 50, 0.9, 0))):
        assert len(tracker.update(found, np.arange(len(found)))) == len(found)


def test_pictures_cannot_be_tracked(tmp_path: Path) -> None:
    detector = Detector(Seeing())
    with pytest.raises(SSDDeployError, match="no order in time"):
        detect_sources(detector, open_sources([np.zeros((9, 9, 3), np.uint8)]), tmp_path / "out", track=True)
    assert not (tmp_path / "out").exists()


def test_without_the_package_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssd_train.requirements.importlib.util.find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"Tracking needs trackers.*ssd-deploy\[track\]"):
        Tracker(25)
