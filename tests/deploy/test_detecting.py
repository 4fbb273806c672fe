import dataclasses
import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_data import FakeRunner, blocks, with_orientation, write_image, write_turned

from ssd_deploy.detect_options import Thresholds
from ssd_deploy.detected import Detected
from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import open_sources
from ssd_deploy.sources.pictures import Pictures
from ssd_train.detections import PaddedDetections
from ssd_train.draw import write_picture
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.image_files import find_images
from ssd_train.spec import DetectorSpec, WorkingThresholds

SPEC = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(100, 100))

# In percent of the picture: one box inside, one that reaches outside on three sides, one of a low score.
ROWS = [(10, 20, 50, 60, 0.9, 1), (-30, 50, 130, 130, 0.7, 0), (0, 0, 9, 9, 0.2, 0)]


@pytest.fixture
def detector() -> Detector:
    return Detector(FakeRunner(SPEC, ROWS), batch_size=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, a text file and a sub-folder without any."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.jpg", "c.WEBP")):
        write_image(tmp_path / "in" / name, blocks(40, 60, 10, index))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def detect_files(
    detector: Detector, files: list[Path], out: Path, *, threshold: float = 0.5, **options: Any
) -> Detected:
    kept = Thresholds(score_threshold=threshold).keeping(detector.spec)
    return detect_sources(detector, open_sources(files), out, kept=kept, **options)


def pictures_of(result: Detected) -> list[Path]:
    return [picture.path for picture in result.pictures]


def counts_of(result: Detected) -> list[int]:
    return [picture.count for picture in result.pictures]


def written(result: Detected) -> dict:
    return json.loads(result.results["json"].read_text(encoding="utf-8"))


def test_boxes_are_in_each_pictures_own_pixels_and_inside_it(detector: Detector, tmp_path: Path) -> None:
    paths = [
        write_image(tmp_path / "wide.png", blocks(50, 400, 10, 0)),
        write_image(tmp_path / "high.png", blocks(200, 10, 10, 0)),
        write_image(tmp_path / "square.png", blocks(100, 100, 10, 0)),
    ]
    result = detect_files(detector, paths, tmp_path / "out", threshold=0.5)
    content = written(result)
    assert counts_of(result) == [2, 2, 2] and result.errors == () and content["errors"] == []
    assert (content["threshold"], content["backend"]) == (0.5, "fake")
    assert content["detector"]["network"] == "tiny"
    for path, image, (width, height) in zip(paths, content["images"], ((400, 50), (10, 200), (100, 100)), strict=True):
        assert (image["file"], image["width"], image["height"]) == (str(path), width, height)
        inside, outside = image["detections"]
        assert (inside["class_name"], inside["label"]) == ("dog", 1)
        assert inside["score"] == pytest.approx(0.9)
        scale = np.array([width, height, width, height]) / 100
        np.testing.assert_allclose(inside["box"], scale * [10, 20, 50, 60], rtol=1e-6)
        np.testing.assert_allclose(outside["box"], scale * [0, 50, 100, 100], rtol=1e-6)


@pytest.mark.parametrize(
    ("threshold", "count"), [(0.01, 3), (0.2, 3), (0.5, 2), (0.7, 2), (0.71, 1), (0.95, 0), (1, 0)]
)
def test_the_threshold_is_the_lowest_score_shown(
    detector: Detector, tmp_path: Path, threshold: float, count: int
) -> None:
    path = write_image(tmp_path / "a.png", np.full((100, 100, 3), 90, np.uint8))
    # float32 stores 0.7 as slightly less and 0.2 as slightly more, so the test does not hang on the last bit.
    detector.runner.rows = [(*row[:4], row[4] + 1e-6, row[5]) for row in ROWS]  # type: ignore[attr-defined]
    result = detect_files(detector, [path], tmp_path / "out", threshold=threshold)
    assert counts_of(result) == [count]
    assert len(written(result)["images"][0]["detections"]) == count
    drawn = cv2.imread(str(pictures_of(result)[0]))
    assert (drawn != 90).any() == (count > 0)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused_before_anything_is_written(
    detector: Detector, folder: Path, tmp_path: Path, threshold: float
) -> None:
    with pytest.raises(SSDDeployError, match="threshold"):
        detect_files(detector, [folder / "b.png"], tmp_path / "out", threshold=threshold)
    assert not (tmp_path / "out").exists()


def test_pictures_keep_their_names_and_formats_and_sizes(detector: Detector, folder: Path, tmp_path: Path) -> None:
    result = detect_files(detector, find_images([str(folder)]), tmp_path / "out")
    # WebP would lose pixels, so formats other than JPEG and PNG become PNG.
    assert names(pictures_of(result)) == ["a.jpg", "b.png", "c.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.png", "c.png", "detections.json"]
    for picture in pictures_of(result):
        assert cv2.imread(str(picture)).shape == (40, 60, 3)
    assert pictures_of(result)[0].read_bytes()[:2] == b"\xff\xd8"
    assert pictures_of(result)[1].read_bytes()[:4] == b"\x89PNG"


def test_colors_stay_what_they_were(tmp_path: Path) -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[:, :, 0] = 200
    path = write_image(tmp_path / "red.png", red)
    result = detect_files(Detector(FakeRunner(SPEC, [])), [path], tmp_path / "out")
    assert (cv2.imread(str(pictures_of(result)[0])) == [0, 0, 200]).all()  # OpenCV reads BGR


def test_equal_names_from_two_folders_are_numbered(detector: Detector, tmp_path: Path) -> None:
    paths = [
        write_image(tmp_path / folder / name, blocks(height, 60, 10, 0))
        for folder, name, height in (
            ("one", "a.png", 40), ("one", "a-2.png", 41), ("two", "a.png", 42), ("two", "a.bmp", 43),
        )
    ]  # fmt: skip
    result = detect_files(detector, paths, tmp_path / "out")
    assert len(set(pictures_of(result))) == 4
    assert names(pictures_of(result))[:2] == ["a.png", "a-2.png"]
    assert [cv2.imread(str(picture)).shape[0] for picture in pictures_of(result)] == [40, 41, 42, 43]
    assert [image["file"] for image in written(result)["images"]] == [str(path) for path in paths]


def test_bad_images_among_good_ones_are_reported_and_the_good_ones_written(
    detector: Detector, folder: Path, tmp_path: Path
) -> None:
    jpeg = (folder / "a.jpg").read_bytes()
    bad = {"0 zero.jpg": b"", "a cut.jpg": jpeg[: len(jpeg) // 2], "z text.png": b"<html>"}
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    done: list[int] = []
    result = detect_files(detector, find_images([str(folder)]), tmp_path / "out", on_progress=done.append)
    assert names(pictures_of(result)) == ["a.jpg", "b.png", "c.png"]
    assert all(picture.is_file() for picture in pictures_of(result))
    content = written(result)
    assert [Path(image["file"]).name for image in content["images"]] == ["a.jpg", "b.png", "c.WEBP"]
    assert content["errors"] == list(result.errors)
    for name, error in zip(bad, result.errors, strict=True):
        assert error.startswith(str(folder / name))
    assert done == [2, 4, 6]


def test_only_bad_images_still_leave_a_report(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "zero.jpg").write_bytes(b"")
    result = detect_files(detector, [tmp_path / "zero.jpg"], tmp_path / "out")
    assert (result.pictures, len(result.errors)) == ((), 1)
    assert written(result)["images"] == []


@pytest.mark.parametrize("out", [".", "../in", "sub/.."])
def test_an_input_is_never_replaced(detector: Detector, folder: Path, out: str) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SSDDeployError, match="would replace an image; choose another folder"):
        detect_files(detector, find_images([str(folder)]), folder / out)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_second_run_replaces_the_pictures_of_the_first(detector: Detector, folder: Path, tmp_path: Path) -> None:
    first = detect_files(detector, [folder / "b.png"], tmp_path / "out", threshold=0.99)
    plain = pictures_of(first)[0].read_bytes()
    second = detect_files(detector, [folder / "b.png"], tmp_path / "out", threshold=0.5)
    assert pictures_of(second) == pictures_of(first)
    assert pictures_of(second)[0].read_bytes() != plain


def test_a_file_where_the_folder_should_be_is_an_error(detector: Detector, folder: Path) -> None:
    with pytest.raises(SSDDeployError, match="notes.txt"):
        detect_files(detector, [folder / "b.png"], folder / "notes.txt")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 10000), (1, 700), (3000, 1)])
def test_pictures_of_extreme_sizes_work(detector: Detector, tmp_path: Path, height: int, width: int) -> None:
    path = write_image(tmp_path / "extreme.png", blocks(height, width, 7, 0))
    result = detect_files(detector, [path], tmp_path / "out")
    assert cv2.imread(str(pictures_of(result)[0])).shape == (height, width, 3)
    (image,) = written(result)["images"]
    for found in image["detections"]:
        x1, y1, x2, y2 = found["box"]
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height


def test_grey_transparent_and_16_bit_pictures_work(detector: Detector, tmp_path: Path) -> None:
    color = blocks(40, 60, 10, 0)
    kinds = {
        "grey.png": color[:, :, 0],
        "rgba.png": np.dstack([color, color[:, :, :1]]),
        "deep.png": color.astype(np.uint16) * 257,
        "deep grey.png": color[:, :, 0].astype(np.uint16) * 257,
    }
    for name, image in kinds.items():
        assert cv2.imwrite(str(tmp_path / name), image)
    result = detect_files(detector, find_images([str(tmp_path)]), tmp_path / "out")
    assert len(result.pictures) == 4 and counts_of(result) == [2, 2, 2, 2]
    assert cv2.imread(str(pictures_of(result)[0]), cv2.IMREAD_UNCHANGED).shape == (40, 60, 3)


def test_a_turned_picture_comes_out_upright(detector: Detector, tmp_path: Path) -> None:
    upright = np.zeros((48, 96, 3), np.uint8)
    upright[:, :48] = 250  # white on the left
    path = write_turned(tmp_path / "turned.jpg", upright)
    assert cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION).shape == (96, 48, 3)
    result = detect_files(detector, [path], tmp_path / "out", threshold=0.95)
    (image,) = written(result)["images"]
    assert (image["height"], image["width"]) == (48, 96)
    # The copy has upright pixels and no Exif entry that would turn them again.
    stored = cv2.imread(str(pictures_of(result)[0]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored.shape == (48, 96, 3)
    assert stored[24, 10].min() > 200 and stored[24, 86].max() < 50
    assert b"Exif" not in pictures_of(result)[0].read_bytes()


def test_an_upright_exif_entry_changes_nothing(detector: Detector, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.jpg", blocks(48, 96, 16, 0))
    path.write_bytes(with_orientation(path.read_bytes(), 1))
    result = detect_files(detector, [path], tmp_path / "out")
    assert written(result)["images"][0]["width"] == 96


def test_an_interrupted_run_leaves_what_it_found_beside_its_pictures(folder: Path, tmp_path: Path) -> None:
    class Interrupted(FakeRunner):
        """A fake that stops in its second batch, as a user does with Ctrl-C."""

        calls = 0

        def run(self, images: np.ndarray) -> PaddedDetections:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().run(images)

    with pytest.raises(KeyboardInterrupt):
        detect_files(Detector(Interrupted(SPEC, ROWS), batch_size=2), find_images([str(folder)]), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert content["is_complete"] is False
    assert [Path(image["file"]).name for image in content["images"]] == ["a.jpg", "b.png"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jpg", "b.png", "detections.json"}


def test_a_run_that_ends_before_its_first_picture_leaves_earlier_results_alone(
    detector: Detector, folder: Path, tmp_path: Path
) -> None:
    path = detect_files(detector, find_images([str(folder)]), tmp_path / "out").results["json"]
    before = path.read_bytes()

    class Broken(FakeRunner):
        """A fake that fails at once."""

        def run(self, images: np.ndarray) -> PaddedDetections:
            raise SSDDeployError("nothing works")

    with pytest.raises(SSDDeployError, match="nothing works"):
        detect_files(Detector(Broken(SPEC, ROWS)), find_images([str(folder)]), tmp_path / "out")
    assert path.read_bytes() == before


def test_a_whole_run_says_that_it_is_complete(detector: Detector, folder: Path, tmp_path: Path) -> None:
    assert written(detect_files(detector, find_images([str(folder)]), tmp_path / "out"))["is_complete"] is True


def test_a_file_as_the_folder_for_results_is_named_before_the_work(detector: Detector, folder: Path) -> None:
    with pytest.raises(SSDDeployError, match=r"notes.txt: is a file; name a folder for the results"):
        detect_files(detector, find_images([str(folder)]), folder / "notes.txt")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, 0, 9, 9, float("nan"), 1), "values that are not finite"),
        ((0, 0, 9, 9, float("nan"), -1), "values that are not finite"),
        ((float("nan"), 0, 9, 9, 0.9, 1), "values that are not finite"),
        ((0, 0, 9, 9, 0.9, 2), "label 2 .*but there are 2 classes"),
    ],
)
def test_an_answer_that_is_no_detections_is_an_error_and_not_0_detections(
    folder: Path, tmp_path: Path, row: tuple[float, ...], message: str
) -> None:
    with pytest.raises(BackendError, match=rf"{message}") as caught:
        detect_files(Detector(FakeRunner(SPEC, [row])), find_images([str(folder)]), tmp_path / "out")
    assert "a.jpg to c.WEBP" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_pictures_of_sub_folders_come_along(detector: Detector, folder: Path, tmp_path: Path) -> None:
    write_image(folder / "sub" / "b.png", blocks(41, 60, 10, 0))
    result = detect_files(detector, find_images([str(folder)]), tmp_path / "out")
    assert names(pictures_of(result)) == ["a.jpg", "b.png", "c.png", "b-2.png"]
    assert cv2.imread(str(pictures_of(result)[3])).shape == (41, 60, 3)


# --- Thresholds -----------------------------------------------------------------------------------------------


def with_saved(**values: Any) -> Detector:
    spec = dataclasses.replace(SPEC, working_thresholds=WorkingThresholds(**values))
    return Detector(FakeRunner(spec, ROWS), batch_size=2)


def test_without_a_threshold_those_saved_with_the_detector_hold_and_else_a_half(tmp_path: Path) -> None:
    image = blocks(50, 50, 5, 0)
    for detector, expected in (
        (Detector(FakeRunner(SPEC, ROWS)), [0.9, 0.7]),
        (with_saved(overall=0.1), [0.9, 0.7, 0.2]),
        (with_saved(overall=0.1, per_class={"cat": 0.8}), [0.9]),
    ):
        found = detect_sources(detector, open_sources([image]), tmp_path / "out")
        scores = [row["score"] for row in written(found)["images"][0]["detections"]]
        assert scores == pytest.approx(expected)


def test_a_class_may_have_its_own_threshold_and_equal_signs_in_its_name() -> None:
    spec = dataclasses.replace(SPEC, class_names=("cat", "a=b"))
    kept = Thresholds(score_threshold=0.3, class_thresholds=("a=b=0.9", "cat=0.2")).keeping(spec)
    assert kept.score_thresholds.tolist() == [0.2, 0.9]
    with pytest.raises(SSDDeployError, match="'cat' is no threshold of a class; write its name and a number"):
        Thresholds(class_thresholds=("cat",)).keeping(SPEC)


def test_nothing_found_says_the_highest_score_and_what_to_try(detector: Detector, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", blocks(50, 50, 5, 0))
    found = detect_files(detector, [path], tmp_path / "out", threshold=0.95)
    assert found.hint == "highest score 0.9; try --score-threshold 0.6"
    assert detect_files(detector, [path], tmp_path / "out", threshold=0.9).hint == ""
    nothing = detect_files(Detector(FakeRunner(SPEC, [])), [path], tmp_path / "out")
    assert nothing.hint == "no score is above 0.01, the least that this detector gives"


def test_the_best_are_given_out_where_their_number_is_limited(detector: Detector, tmp_path: Path) -> None:
    kept = Thresholds(score_threshold=0.01, max_detections=2).keeping(SPEC)
    found = detect_sources(detector, open_sources([blocks(50, 50, 5, 0)]), tmp_path / "out", kept=kept)
    content = written(found)
    assert [row["score"] for row in content["images"][0]["detections"]] == pytest.approx([0.9, 0.7])
    assert (content["max_detections"], content["class_thresholds"]) == (2, {})


# --- Behind the network ---------------------------------------------------------------------------------------


class Slow(FakeRunner):
    """A fake whose network takes a while, as real ones do, and leaves the processor alone meanwhile."""

    def run(self, images: np.ndarray) -> PaddedDetections:
        time.sleep(NETWORK_S * len(images))
        return super().run(images)


NETWORK_S = 0.02


@pytest.mark.alone
def test_reading_and_writing_hide_behind_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(path: Path, image: np.ndarray) -> None:
        time.sleep(NETWORK_S)
        write_picture(path, image)

    class SlowSource(Pictures):
        def load(self, frame: Frame) -> np.ndarray:
            time.sleep(NETWORK_S)
            return super().load(frame)

    monkeypatch.setattr("ssd_deploy.results.pictures.write_picture", slowly)
    images = [blocks(20, 20, 5, 0)] * 48
    start = time.perf_counter()
    detect_sources(Detector(Slow(SPEC, ROWS), batch_size=4), [SlowSource(images, "slow")], tmp_path / "out")
    seconds = time.perf_counter() - start
    # One after the other it would be three times as long; two threads each need no longer than the network.
    assert seconds < 1.6 * NETWORK_S * len(images)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(images)


def test_results_are_in_order_however_long_each_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delays = np.random.default_rng(0).uniform(0, 0.01, 40).tolist()

    def irregularly(path: Path, image: np.ndarray) -> None:
        time.sleep(delays[int(path.stem[7:-1])])

    monkeypatch.setattr("ssd_deploy.results.pictures.write_picture", irregularly)
    images = [blocks(20, 20, 5, 0)] * 40
    detector = Detector(FakeRunner(SPEC, ROWS), batch_size=4)
    found = detect_sources(detector, open_sources(images), tmp_path / "out", workers=5)
    expected = [f"images[{number}]" for number in range(40)]
    assert [image["file"] for image in written(found)["images"]] == expected
    assert [picture.path.stem for picture in found.pictures] == expected


def test_few_pictures_wait_for_a_slow_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written_count, ahead = 0, []

    def slowly(path: Path, image: np.ndarray) -> None:
        nonlocal written_count
        time.sleep(0.005)
        written_count += 1

    class Counting(FakeRunner):
        done = 0

        def run(self, images: np.ndarray) -> PaddedDetections:
            ahead.append(self.done - written_count)
            self.done += len(images)
            return super().run(images)

    monkeypatch.setattr("ssd_deploy.results.pictures.write_picture", slowly)
    detector = Detector(Counting(SPEC, ROWS), batch_size=4)
    detect_sources(detector, open_sources([blocks(20, 20, 5, 0)] * 60), tmp_path / "out", workers=2)
    # A batch and two that are being written, of which one waits in hand, and one more for the loop.
    assert max(ahead) <= 4 + 2 + 2 + 1


def test_what_fails_in_a_writing_thread_is_raised_and_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, image: np.ndarray) -> None:
        raise SSDDeployError("the disk is full")

    monkeypatch.setattr("ssd_deploy.results.pictures.write_picture", failing)
    runner = FakeRunner(SPEC, ROWS)
    with pytest.raises(SSDDeployError, match="the disk is full"):
        detect_sources(Detector(runner, batch_size=4), open_sources([blocks(20, 20, 5, 0)] * 200), tmp_path / "out")
    assert sum(runner.batch_sizes) < 200
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("write", "prepare", "load"))]


def test_a_viewer_sees_every_picture_and_ends_the_run(detector: Detector, tmp_path: Path) -> None:
    class Viewer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, bool]] = []

        def show(self, image: np.ndarray, name: str, *, waits: bool) -> bool:
            assert image.shape == (20, 20, 3)
            self.seen.append((name, waits))
            return len(self.seen) < 3

    viewer = Viewer()
    found = detect_sources(detector, open_sources([blocks(20, 20, 5, 0)] * 9), tmp_path / "out", viewer=viewer)
    assert viewer.seen == [(f"images[{number}]", True) for number in range(3)]
    content = written(found)
    assert content["is_complete"] is False and len(content["images"]) == 3
    # Nothing was lost by it.
    assert not found.is_lossy
