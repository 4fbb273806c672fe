import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tiny_data import blocks, write_image

from ssd_deploy.detecting import detect_sources
from ssd_deploy.detector import Detector
from ssd_deploy.sources.open import open_sources
from ssd_deploy.tiles import detect_tiled, merge_windows
from ssd_deploy.tiling import Tiling, Window
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import ImageError, SSDDeployError
from ssd_train.spec import DetectorSpec, PostprocessSettings

SPEC = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(100, 100))


class Seeing:
    """A backend that finds red things as cats: the bounds of all red pixels of a picture, unless there are too few.

    Args:
        input_size: side of its square input; smaller ones see less.
        least: red pixels of the input that it needs.
    """

    name, max_batch_size = "seeing", None

    def __init__(self, least: int = 20) -> None:
        self.spec, self.least = SPEC, least
        self.calls: list[int] = []

    def run(self, images: np.ndarray) -> PaddedDetections:
        self.calls.append(len(images))
        count = self.spec.postprocess.max_detections
        answer = PaddedDetections(
            np.full((len(images), count, 4), -1, np.float32),
            np.full((len(images), count), -1, np.float32),
            np.full((len(images), count), -1, np.int64),
        )
        for index, image in enumerate(images):
            # Red is above its mean, green below it.
            rows, columns = np.nonzero((image[0] > 1) & (image[1] < 0))
            if len(rows) >= self.least:
                box = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                answer.boxes[index, 0], answer.scores[index, 0], answer.labels[index, 0] = box, 0.9, 0
        return answer

    def close(self) -> None:
        pass


def grey(height: int, width: int, *red: tuple[int, int, int, int]) -> np.ndarray:
    image = np.full((height, width, 3), 90, np.uint8)
    for left, top, right, bottom in red:
        image[top:bottom, left:right] = (250, 0, 0)
    return image


def found_in(image: np.ndarray, tiling: Tiling, **options: object) -> Detections:
    runner = options.pop("runner", None) or Seeing()
    (found,) = detect_tiled([0], lambda _: image, runner.run, SPEC, tiling=tiling, name_of=str, batch_size=3, workers=2)
    return found.detections


# --- Windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # No larger than a tile: the picture, and nothing twice.
        ((100, 100), [(0, 0, 100, 100)]),
        ((40, 100), [(0, 0, 100, 40)]),
        # A step is 80; the last tile moves back to the border.
        ((100, 190), [(0, 0, 100, 100), (80, 0, 180, 100), (90, 0, 190, 100), (0, 0, 190, 100)]),
        ((60, 180), [(0, 0, 100, 60), (80, 0, 180, 60), (0, 0, 180, 60)]),
        ((101, 100), [(0, 0, 100, 100), (0, 1, 100, 101), (0, 0, 100, 101)]),
    ],
)
def test_windows_are_as_by_hand(size: tuple[int, int], expected: list[tuple[int, ...]]) -> None:
    assert Tiling(tiles=100, overlap=0.2).windows(size) == expected
    assert Tiling(tiles=100).windows(size) == expected  # which is the usual overlap


@pytest.mark.parametrize("size", [(333, 1000), (1000, 97), (512, 513)])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
def test_tiles_cover_every_pixel_and_overlap_as_much_as_asked(size: tuple[int, int], overlap: float) -> None:
    *tiles, whole = Tiling(tiles=96, overlap=overlap).windows(size)
    assert whole == (0, 0, size[1], size[0])
    covered = np.zeros(size, bool)
    for left, top, right, bottom in tiles:
        assert (right - left, bottom - top) == (min(96, size[1]), min(96, size[0]))
        covered[top:bottom, left:right] = True
    assert covered.all()
    starts = sorted({tile.left for tile in tiles})
    assert all(b - a <= 96 - round(96 * overlap) + 1 for a, b in zip(starts, starts[1:], strict=False))


@pytest.mark.parametrize("values", [{"tiles": 8}, {"tiles": 512, "overlap": 0.95}, {"tiles": 512, "overlap": -0.1}])
def test_tiles_out_of_range_are_refused(values: dict) -> None:
    with pytest.raises(SSDDeployError, match="expected"):
        Tiling(**values)


def test_an_overlap_without_tiles_is_refused() -> None:
    with pytest.raises(SSDDeployError, match="give their side, too"):
        Tiling(overlap=0.2)


# --- Finding --------------------------------------------------------------------------------------------------


def test_an_object_too_small_for_the_whole_picture_is_found_in_its_tile() -> None:
    image = grey(1000, 1000, (620, 300, 632, 309))
    assert len(found_in(image, Tiling())) == 0
    found = found_in(image, Tiling(tiles=100, overlap=0.5))
    np.testing.assert_allclose(found.boxes, [[620, 300, 632, 309]])
    assert (found.image_size, found.class_names) == ((1000, 1000), ("cat", "dog"))


def test_an_object_larger_than_a_tile_comes_once_and_whole() -> None:
    # Tiles see parts of it, which touch their borders and lie inside what the whole picture shows.
    image = grey(300, 300, (40, 60, 250, 240))
    found = found_in(image, Tiling(tiles=100, overlap=0.2))
    np.testing.assert_allclose(found.boxes, [[40, 60, 250, 240]], atol=3)


def test_an_object_on_a_border_of_two_tiles_comes_once_and_whole() -> None:
    # Tiles begin at 0, 80, ...: the first one sees it up to 100, the second one all of it; the parts' IoU is 10/18.
    image = grey(100, 600, (90, 40, 108, 60))
    found = found_in(image, Tiling(tiles=100, overlap=0.2))
    np.testing.assert_allclose(found.boxes, [[90, 40, 108, 60]])


def test_order_and_pictures_are_kept_over_many_of_different_sizes() -> None:
    boxes = [(5 + 3 * n, 8, 25 + 3 * n, 30) for n in range(6)]
    images = [grey(60 + 70 * (n % 3), 90 + 60 * n, boxes[n]) for n in range(6)]
    done: list[int] = []
    found = list(
        detect_tiled(
            range(6), lambda n: images[n], Seeing().run, SPEC, tiling=Tiling(tiles=64, overlap=0.5), name_of=str,
            batch_size=4, keep_images=True, on_progress=done.append,
        )
    )  # fmt: skip
    assert [each.item for each in found] == list(range(6)) and done == [1, 2, 3, 4, 5, 6]
    for each in found:
        assert each.image is images[each.item]
        # Each of the whole picture's pixels is several of the network's.
        np.testing.assert_allclose(each.detections.boxes[:1], [boxes[each.item]], atol=4)


def test_a_picture_is_loaded_once_and_a_broken_one_is_told_or_ends_the_run() -> None:
    loads: list[int] = []
    lock = threading.Lock()

    def load(number: int) -> np.ndarray:
        with lock:
            loads.append(number)
        if number == 1:
            raise ImageError("broken")
        return grey(200, 200, (20, 20, 60, 60))

    failed: list[int] = []
    options = {"tiling": Tiling(tiles=100), "name_of": str, "batch_size": 2}
    found = detect_tiled(range(3), load, Seeing().run, SPEC, on_failed=lambda n, _: failed.append(n), **options)
    assert [each.item for each in found] == [0, 2] and failed == [1] and loads == [0, 1, 2]
    with pytest.raises(ImageError, match="broken"):
        list(detect_tiled(range(3), load, Seeing().run, SPEC, **options))


def test_memory_stays_at_a_few_pictures_and_a_batch_of_tiles() -> None:
    side, count = 2000, 8
    one = side * side * 3
    tracemalloc.start()
    try:
        found = detect_tiled(
            range(count), lambda _: np.full((side, side, 3), 90, np.uint8), Seeing().run, SPEC,
            tiling=Tiling(tiles=500, overlap=0.5), name_of=str, batch_size=4,
        )  # fmt: skip
        for each in found:
            assert each.image.size == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one < peak < 4 * one


# --- Merging --------------------------------------------------------------------------------------------------


def of(*rows: tuple[float, ...]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64), SPEC.class_names)


# Two tiles of 100 pixels side by side, 20 of them shared, and the whole picture.
LEFT, RIGHT, WHOLE = Window(0, 0, 100, 100), Window(80, 0, 180, 100), Window(0, 0, 180, 100)


def merged(left: Detections, right: Detections, whole: Detections | None = None) -> list[list[float]]:
    found = merge_windows([(LEFT, left), (RIGHT, right), (WHOLE, whole or of())], (100, 180), SPEC)
    return [[*box, round(score, 3), label] for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    )]  # fmt: skip


def test_the_same_object_in_two_windows_comes_once_with_its_better_score() -> None:
    # At 84 to 96 of the picture, which both tiles and the whole picture show.
    same = merged(of((84, 40, 96, 60, 0.8, 0)), of((4, 40, 16, 60, 0.9, 0)), of((84, 41, 96, 60, 0.7, 0)))
    assert same == [[84, 40, 96, 60, 0.9, 0]]
    # Of two classes it is two.
    assert len(merged(of((84, 40, 96, 60, 0.8, 0)), of((4, 40, 16, 60, 0.9, 1)))) == 2


def test_the_part_of_an_object_at_an_inner_border_gives_way_to_the_whole_even_with_a_better_score() -> None:
    # 90 to 130: the left tile sees 90 to 100, a quarter, of which NMS would keep both.
    part, whole = (90, 40, 100, 60, 0.95, 0), (10, 40, 50, 60, 0.9, 0)
    assert merged(of(part), of(whole)) == [[90, 40, 130, 60, 0.9, 0]]
    # Not for another class, nor for what has less than half its score.
    assert len(merged(of(part), of((*whole[:5], 1)))) == 2
    assert len(merged(of(part), of((*whole[:4], 0.4, 0)))) == 2
    # Nor for what covers less than 0.8 of it.
    assert len(merged(of((90, 10, 100, 60, 0.95, 0)), of((10, 25, 50, 60, 0.9, 0)))) == 2


def test_what_ends_elsewhere_stays_though_something_larger_covers_it() -> None:
    # A child before a car: whole in its tile, at no border, and so an object of its own.
    assert len(merged(of((60, 40, 75, 60, 0.95, 0)), of(), of((20, 10, 150, 90, 0.9, 0)))) == 2
    # At the border of the picture nothing is cut.
    assert len(merged(of((0, 40, 10, 60, 0.95, 0)), of(), of((0, 10, 150, 90, 0.9, 0)))) == 2


def test_two_parts_of_an_object_that_no_window_shows_whole_both_stay() -> None:
    assert len(merged(of((40, 40, 100, 60, 0.9, 0)), of((0, 40, 60, 60, 0.9, 0)))) == 2


def test_the_detectors_limits_hold_for_all_windows_together() -> None:
    settings = PostprocessSettings(pre_nms_top_k=3, max_detections=2)
    spec = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(100, 100), postprocess=settings)
    left = of((10, 10, 20, 20, 0.9, 0), (30, 10, 40, 20, 0.5, 1), (50, 10, 60, 20, 0.3, 0))
    right = of((40, 10, 50, 20, 0.7, 0), (60, 10, 70, 20, 0.5, 0))
    found = merge_windows([(LEFT, left), (RIGHT, right), (WHOLE, of())], (100, 180), spec)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    # Of the equal third places the lower label is a candidate, which a limit of three shows.
    settings = PostprocessSettings(pre_nms_top_k=3, max_detections=3)
    spec = DetectorSpec(network="tiny", class_names=("cat", "dog"), input_size=(100, 100), postprocess=settings)
    found = merge_windows([(LEFT, left), (RIGHT, right), (WHOLE, of())], (100, 180), spec)
    assert (found.boxes[2].tolist(), found.labels[2]) == ([140, 10, 150, 20], 0)


def test_one_window_is_the_detectors_own_answer() -> None:
    found = of((0, 0, 90, 90, 0.9, 0), (0, 0, 90, 90, 0.8, 0))
    assert merge_windows([(LEFT, found)], (100, 100), SPEC) is found


# --- The command's function -----------------------------------------------------------------------------------


def test_a_large_picture_file_is_detected_in_tiles(tmp_path: Path) -> None:
    paths = [
        write_image(tmp_path / "a.png", grey(1000, 1200, (620, 300, 632, 309))),
        write_image(tmp_path / "b.png", blocks(40, 40, 10, 0) // 8 + 80),
    ]
    results = {}
    for name, tiling in (("whole", Tiling()), ("tiles", Tiling(tiles=128, overlap=0.25))):
        detector = Detector(Seeing(), batch_size=4)
        results[name] = detect_sources(detector, open_sources(paths), tmp_path / name, tiling=tiling)
    assert [picture.count for picture in results["whole"].pictures] == [0, 0]
    assert [picture.count for picture in results["tiles"].pictures] == [1, 0]
