"""The generated data set: what is annotated is what is drawn, and a folder is whole or known not to be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.datasets.generated import SHAPE_CLASSES, Shape, draw_picture, lay_out, paint
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.datasets.source import find_source
from ssd_train.errors import DatasetError

LAYOUTS = [lay_out(5, index) for index in range(80)]


def clipped_to(corners: NDArray[np.float64], image_size: tuple[int, int]) -> NDArray[np.float64]:
    """Cut a polygon at the picture's four edges (Sutherland and Hodgman, 1974)."""
    for axis, bound, sign in ((0, 0, 1), (1, 0, 1), (0, image_size[1], -1), (1, image_size[0], -1)):
        inside = (corners[:, axis] - bound) * sign
        kept = []
        for here, there, a, b in zip(corners, np.roll(corners, -1, axis=0), inside, np.roll(inside, -1), strict=True):
            if a >= 0:
                kept.append(here)
            if a * b < 0:
                kept.append(here + (there - here) * a / (a - b))
        corners = np.array(kept)
    return corners


def area_of(corners: NDArray[np.float64]) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_picture_is_the_same_for_the_same_seed_and_index_only() -> None:
    image, boxes, labels = draw_picture(3, 8)
    draw_picture(3, 9)
    again = draw_picture(3, 8)
    assert all(np.array_equal(a, b) for a, b in zip((image, boxes, labels), again, strict=True))
    for other in (draw_picture(3, 9), draw_picture(4, 8), draw_picture(8, 3)):
        assert other[0].shape != image.shape or not np.array_equal(other[0], image)


def test_a_picture_has_the_documented_types_and_follows_its_layout() -> None:
    for index in range(12):
        image, boxes, labels = draw_picture(5, index)
        (height, width), shapes = LAYOUTS[index]
        assert image.shape == (height, width, 3) and image.dtype == np.uint8
        assert boxes.dtype == np.float64 and boxes.shape == (len(shapes), 4)
        assert labels.dtype == np.int64 and labels.tolist() == [shape.label for shape in shapes]
        assert boxes.tolist() == [list(shape.box) for shape in shapes]


def test_sizes_and_numbers_use_their_whole_range() -> None:
    sides = np.array([image_size for image_size, _ in LAYOUTS])
    assert sides.min() >= 320 and sides.max() <= 480 and np.ptp(sides) > 140
    counts = {len(shapes) for _, shapes in LAYOUTS}
    assert counts == {1, 2, 3, 4, 5}
    parts = []
    for image_size, shapes in LAYOUTS:
        for shape in shapes:
            x1, y1, x2, y2 = shape.box
            assert 0 <= x1 < x2 <= image_size[1] and 0 <= y1 < y2 <= image_size[0]
            parts.append(np.ptp(shape.outline, axis=0).max() / min(image_size))
    assert 0.05 <= min(parts) < 0.08 and 0.5 < max(parts) <= 0.6 + 1e-9
    # Areas are spread evenly.
    assert np.histogram(np.square(parts), 4, (0.05**2, 0.6**2))[0].min() > len(parts) / 8


def test_a_box_is_that_of_the_outline_inside_the_picture() -> None:
    is_cut = 0
    for image_size, shapes in LAYOUTS:
        for shape in shapes:
            inside = clipped_to(shape.outline, image_size)
            expected = [*inside.min(axis=0), *inside.max(axis=0)]
            # Half a pixel of rounding to whole ones, a quarter for the grid that shapes are filled on, and its corners
            # in OpenCV's binary places.
            assert np.abs(np.array(shape.box) - expected).max() <= 0.8
            is_cut += len(inside) != len(shape.outline)
            # At most a tenth of the size lies outside, on each side.
            assert np.abs(inside.min(axis=0) - shape.outline.min(axis=0)).max() <= 0.1 * np.ptp(shape.outline, 0).max()
    assert is_cut > 10


def test_what_is_painted_fills_the_outline_and_its_box() -> None:
    for image_size, shapes in LAYOUTS:
        for shape in shapes:
            inside = area_of(clipped_to(shape.outline, image_size))
            painted = float(shape.coverage.sum())
            if shape.has_hole:
                assert 0.6 * inside < painted < 0.85 * inside
            else:
                # Cells of that grid, a quarter of a pixel wide, are filled where an edge crosses them.
                perimeter = np.linalg.norm(np.diff(shape.outline, axis=0, append=shape.outline[:1]), axis=1).sum()
                assert 0 < painted - inside < 0.25 * perimeter
            image = np.full((*image_size, 3), 128, np.uint8)
            paint(np.random.default_rng(0), image, shape)
            rows, columns = np.nonzero((image != 128).any(axis=2))
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(drawn - shape.box).max() <= 1
            # A pixel at the edge takes its part of the color; 2 for rounding.
            distance = np.linalg.norm(image[shape.region] - 128.0, axis=2)
            assert (distance <= shape.coverage * distance.max() + 2).all()


def test_a_painted_object_stands_out_from_what_is_below() -> None:
    rng = np.random.default_rng(0)
    for image_size, shapes in LAYOUTS[:30]:
        image = np.full((*image_size, 3), rng.integers(0, 256, 3), np.uint8)
        below = image.astype(float)
        paint(rng, image, shapes[0])
        distance = np.linalg.norm(image - below, axis=2)[shapes[0].region][shapes[0].coverage == 1]
        # Between two tones a pixel may have a color of neither.
        assert np.quantile(distance, 0.1) > 70


def visible_parts(image_size: tuple[int, int], shapes: list[Shape]) -> list[float]:
    top = np.full(image_size, -1)
    for place, shape in enumerate(shapes):
        top[shape.region][shape.coverage >= 0.5] = place
    return [np.sum(top == place) / np.sum(shape.coverage >= 0.5) for place, shape in enumerate(shapes)]


def test_objects_hide_parts_of_each_other_but_never_more_than_two_fifths() -> None:
    parts = [part for layout in LAYOUTS for part in visible_parts(*layout)]
    assert min(parts) >= 0.6
    assert sum(part < 0.9 for part in parts) > len(parts) / 20


def test_every_class_is_about_as_frequent() -> None:
    labels = [shape.label for index in range(400) for shape in lay_out(1, index)[1]]
    shares = np.bincount(labels, minlength=len(SHAPE_CLASSES)) / len(labels)
    # Some 1300 objects: three standard deviations are 0.033.
    assert len(shares) == 5 and np.abs(shares - 0.2).max() < 0.033


def test_a_written_data_set_reads_back_as_drawn(tmp_path: Path) -> None:
    root = write_shapes(tmp_path / "shapes", train=6, val=3, seed=5)
    train = find_source("voc", root).load("train", SHAPE_CLASSES)
    val = find_source("voc", root).load("val", SHAPE_CLASSES)
    assert (len(train.samples), len(val.samples)) == (6, 3) and not train.notes and not val.notes
    for index, sample in enumerate(train.samples):
        image, boxes, labels = draw_picture(5, index)
        assert np.array_equal(sample.ground_truth.boxes, boxes) and np.array_equal(sample.ground_truth.labels, labels)
        assert sample.image_size == image.shape[:2]
        # What JPEG changes, mostly in color; with red and blue exchanged it would be tens.
        assert np.abs(sample.load_image().astype(int) - image).mean() < 12
    pictures = [sample.path.read_bytes() for sample in (*train.samples, *val.samples)]
    assert len(set(pictures)) == 9


def test_the_same_request_gives_the_same_bytes_and_a_larger_one_begins_with_them(tmp_path: Path) -> None:
    small = files_of(write_shapes(tmp_path / "a", train=3, val=2, seed=5))
    assert files_of(write_shapes(tmp_path / "b", train=3, val=2, seed=5)) == small
    large = files_of(write_shapes(tmp_path / "c", train=4, val=3, seed=5))
    pictures = {name for name in small if not name.startswith("ImageSets")}
    assert len(pictures) == 10 and all(large[name] == small[name] for name in pictures)
    assert not pictures & set(files_of(write_shapes(tmp_path / "d", train=3, val=2, seed=6)))


def test_progress_counts_up_to_all_pictures(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_shapes(tmp_path, train=2, val=1, seed=0, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_data_set_that_is_there_already_is_left_as_it_is(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=1, val=1, seed=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert write_shapes(tmp_path, train=1, val=1, seed=0) == tmp_path
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    for other in ({"train": 2, "val": 1, "seed": 0}, {"train": 1, "val": 1, "seed": 1}):
        with pytest.raises(DatasetError, match="holds another data set; name a new folder"):
            write_shapes(tmp_path, **other)


def test_an_interrupted_data_set_has_no_lists_and_is_not_taken_for_one(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path, train=500, val=1, seed=0, on_progress=stop)
    assert 2 <= len(list((tmp_path / "JPEGImages").iterdir())) < 100
    assert not list((tmp_path / "ImageSets" / "Main").iterdir())
    with pytest.raises(DatasetError, match="holds half a data set, without its image lists"):
        write_shapes(tmp_path, train=500, val=1, seed=0)


def test_a_folder_of_other_things_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds other things; name a new folder"):
        write_shapes(tmp_path, train=1, val=1, seed=0)
    assert files_of(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(DatasetError, match=r"notes\.txt: is a file"):
        write_shapes(tmp_path / "notes.txt", train=1, val=1, seed=0)
    with pytest.raises(DatasetError, match="cannot be written"):
        write_shapes(tmp_path / "notes.txt" / "below", train=1, val=1, seed=0)


@pytest.mark.parametrize(
    "numbers",
    [
        {"train": 0, "val": 1, "seed": 0},
        {"train": 1, "val": 0, "seed": 0},
        {"train": 1, "val": 1, "seed": -1},
        {"train": 1_000_001, "val": 1, "seed": 0},
    ],
)
def test_numbers_that_give_no_data_set_are_refused(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match="cannot be drawn; ask for"):
        write_shapes(tmp_path / "shapes", **numbers)
    assert not (tmp_path / "shapes").exists()


def test_drawing_needs_no_torch() -> None:
    command = "import sys, ssd_train.datasets.generated; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
