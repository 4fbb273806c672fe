"""Charts and the sheet are pictures of sensible sizes that show what they should."""

import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.data_check.charts import write_box_chart, write_class_chart
from ssd_train.data_check.check import check_data
from ssd_train.data_check.pictures import write_pictures
from ssd_train.data_check.report import CheckReport
from ssd_train.datasets.source import find_source


def check(root: Path, **settings: Any) -> CheckReport:
    return check_data(find_source(root), with_images=False, **settings)


def read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path))
    assert image is not None
    return np.asarray(image[:, :, ::-1], np.uint8)


def has_color(image: NDArray[np.uint8], color: tuple[int, int, int]) -> bool:
    return bool((image == color).all(axis=2).any())


def test_all_pictures_are_written(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths, left_out = write_pictures(tmp_path / "out", check(data, network="ssd_300_mobilenet0.25_custom"))
    assert [path.name for path in paths] == ["samples.jpg", "classes.png", "boxes.png"] and left_out is None
    # Three pictures of 80 x 60 in a row, each 400 pixels wide and 4 apart.
    sheet = read(paths[0])
    assert sheet.shape == (304, 1212, 3)
    # The box of the cat begins at 10 of 80 pixels; its color is the first label's, a red.
    red, green, blue = (int(value) for value in sheet[100:180, 50:56].reshape(-1, 3).mean(axis=0))
    assert red > green + 60 and red > blue + 60
    for path in paths[1:]:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert (read(path) < 128).any()


def test_a_chart_of_classes_has_a_color_a_split_and_a_row_a_class(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for count in (2, 40, 400):
        names = ["cat", "dog", *(f"class {number}" for number in range(count - 2))]
        write_class_chart(tmp_path / "a.png", check(data, class_names=names))
        image = read(tmp_path / "a.png")
        heights.append(image.shape[0])
        # 8 inches of 110 dots; training blue, validation orange.
        assert image.shape[1] == 880
        assert has_color(image, (0x00, 0x72, 0xB2)) and has_color(image, (0xE6, 0x9F, 0x00))
    # Room for each class, and no more than for 80.
    assert heights[1] - heights[0] == pytest.approx(38 * 0.24 * 110, abs=2)
    assert heights[2] - heights[1] == pytest.approx(40 * 0.24 * 110, abs=2)


def test_a_chart_of_boxes_has_anchors_where_there_is_a_network(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    black = []
    for network in (None, "ssd_300_mobilenet0.25_custom"):
        write_box_chart(tmp_path / "a.png", check(data, network=network))
        image = read(tmp_path / "a.png")
        assert image.shape == (825, 880, 3)
        black.append(int((image[60:700, 100:] == 0).all(axis=2).sum()))
    assert black[1] > black[0] + 300


def test_without_matplotlib_the_sheet_is_written_and_the_extra_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    paths, left_out = write_pictures(tmp_path / "out", check(data))
    assert [path.name for path in paths] == ["samples.jpg"]
    assert left_out is not None and "pip install 'ssd-deploy[plots]'" in left_out


def test_a_picture_that_cannot_be_read_is_not_on_the_sheet(data: Path, tmp_path: Path) -> None:
    (data / "JPEGImages" / "t1.png").write_bytes(b"")
    paths, _ = write_pictures(tmp_path / "out", check(data))
    assert read(paths[0]).shape == (304, 808, 3)
    for path in (data / "JPEGImages").iterdir():
        path.write_bytes(b"")
    paths, _ = write_pictures(tmp_path / "none", check(data))
    assert "samples.jpg" not in [path.name for path in paths]
