import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_data import FakeRunner, blocks, with_orientation, write_image, write_turned

from ssd_deploy.detect_options import Thresholds
from ssd_deploy.detecting import Detected, detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.open import open_sources
from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, SSDDeployError
from ssd_train.image_files import find_images
from ssd_train.spec import DetectorSpec

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
