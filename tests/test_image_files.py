import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_train.errors import ImageError
from ssd_train.image_files import find_images, images_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, a text file and a sub-folder with a fourth picture."""
    for index, name in enumerate(("b.png", "a.jpg", "c.WEBP", "sub/d.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / "in" / name), np.full((4, 6, 3), index, np.uint8))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    return tmp_path / "in"


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_folder_stands_for_its_pictures_in_order_and_those_of_its_sub_folders(folder: Path) -> None:
    assert names(find_images([str(folder)])) == ["a.jpg", "b.png", "c.WEBP", "d.png"]
    assert find_images([str(folder)]) == images_in(folder)


def test_results_inside_the_folder_are_no_images_unless_they_are_named(folder: Path) -> None:
    results = folder / "sub"
    assert names(find_images([str(folder)], leave_out=results)) == ["a.jpg", "b.png", "c.WEBP"]
    assert names(find_images([str(results)], leave_out=results)) == ["d.png"]
    assert names(find_images([f"{results}/d.png"], leave_out=results)) == ["d.png"]
    assert len(find_images([str(folder)], leave_out=folder)) == 4
    assert len(find_images([str(folder)], leave_out=folder.parent / "elsewhere")) == 4


def test_a_pattern_stands_for_the_files_that_match_it(folder: Path) -> None:
    assert names(find_images([f"{folder}/*.png"])) == ["b.png"]
    assert names(find_images([f"{folder}/**/*.png"])) == ["b.png", "d.png"]
    assert names(find_images([f"{folder}/[ab].*"])) == ["a.jpg", "b.png"]


def test_a_single_file_needs_no_suffix_and_may_look_like_a_pattern(folder: Path) -> None:
    odd = folder / "odd[1]"
    shutil.copy(folder / "b.png", odd)
    assert find_images([str(odd)]) == [odd]


def test_an_image_that_is_named_twice_comes_once(folder: Path) -> None:
    picked = find_images([f"{folder}/b.png", str(folder), f"{folder}/*.png"])
    assert names(picked) == ["b.png", "a.jpg", "c.WEBP", "d.png"]


@pytest.mark.parametrize("pattern", ["nosuch.png", "nosuch/*.png", "*.gif", "s*", "sub/nosuch"])
def test_a_pattern_that_stands_for_no_file_is_named(folder: Path, pattern: str) -> None:
    with pytest.raises(ImageError) as caught:
        find_images([f"{folder}/b.png", f"{folder}/{pattern}"])
    assert f"{folder}/{pattern}" in str(caught.value)


def test_a_folder_without_pictures_is_named(folder: Path) -> None:
    (folder / "empty" / "not a file.png").mkdir(parents=True)
    with pytest.raises(ImageError, match="empty: the folder has no images"):
        find_images([str(folder / "empty")])


def test_an_empty_name_is_no_image_and_not_this_folder() -> None:
    with pytest.raises(ImageError, match="an empty name"):
        find_images([""])
