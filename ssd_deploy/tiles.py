"""Large pictures in tiles: square windows of a picture go through the detector one by one, and their detections merge.

A detector scales every picture to its input, so an object of 20 pixels in a picture of 10,000 has none left. In a
window of about the input's own size it keeps them. The whole picture goes through once more, since an object larger
than a window is whole nowhere else.

Windows are items of the same loop as pictures. A picture is loaded once, and the next one while it is detected in, so
that two, or three where one ends and the next begins, are in memory at a time.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.tiling import Tiling, Window
from ssd_train.boxes import areas, shared_areas
from ssd_train.detections import Detections
from ssd_train.errors import ImageError
from ssd_train.evaluation.loop import NO_IMAGE, Found, Predict, detect_images
from ssd_train.nms import rank, suppress
from ssd_train.spec import DetectorSpec

Item = TypeVar("Item")
Image = NDArray[np.uint8]

# A box that comes this close to a window's edge, as a share of its side, may be the part of an object that lies inside:
# regressed edges end a little before the border or behind it.
BORDER_SHARE = 0.01

# The part of an object is given up for a box of another window that holds this share of it ...
COVERED_SHARE = 0.8

# ... and has at least this share of its score, so that a box which no threshold will let through takes nothing along.
SCORE_SHARE = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class _Tile(Generic[Item]):
    item: Item
    image: Image
    window: Window
    is_last: bool


def detect_tiled(
    items: Iterable[Item],
    load: Callable[[Item], Image],
    run: Predict,
    spec: DetectorSpec,
    *,
    tiling: Tiling,
    name_of: Callable[[Item], str],
    batch_size: int = 8,
    workers: int = 2,
    keep_images: bool = False,
    is_ready: Callable[[], bool] = lambda: True,
    on_failed: Callable[[Item, ImageError], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Found[Item], None, None]:
    """Detect in every picture as `detect_images` does, in windows; without tiles it is that function.

    Args:
        tiling: how pictures are cut.
        items, load, run, spec, name_of, batch_size, workers, keep_images, is_ready, on_failed: as there.
        on_progress: called with the number of items done so far.

    Raises:
        SSDDeployError: as `detect_images`.
    """
    if tiling.tiles is None:
        yield from detect_images(
            items, load, run, spec, name_of=name_of, batch_size=batch_size, workers=workers, keep_images=keep_images,
            is_ready=is_ready, on_failed=on_failed, on_progress=on_progress,
        )  # fmt: skip
        return
    done, is_between = 0, True

    def tiles() -> Generator[_Tile[Item], None, None]:
        nonlocal done, is_between
        with contextlib.closing(_loaded_ahead(items, load, is_ready)) as loaded:
            for item, future in loaded:
                try:
                    image = future.result()
                except ImageError as error:
                    if on_failed is None:
                        raise
                    on_failed(item, error)
                    done += 1
                else:
                    windows = tiling.windows(image.shape[:2])
                    for number, window in enumerate(windows, 1):
                        is_between = number == len(windows)
                        yield _Tile(item, image, window, is_between)

    def crop(tile: _Tile[Item]) -> Image:
        left, top, right, bottom = tile.window
        return np.ascontiguousarray(tile.image[top:bottom, left:right])

    parts: list[tuple[Window, Detections]] = []
    found_tiles = detect_images(
        tiles(), crop, run, spec, name_of=lambda tile: f"{name_of(tile.item)} at {tile.window[0]}, {tile.window[1]}",
        batch_size=batch_size, workers=workers, is_ready=lambda: not is_between or is_ready(),
    )  # fmt: skip
    with contextlib.closing(found_tiles):
        for found in found_tiles:
            tile = found.item
            parts.append((tile.window, found.detections))
            if tile.is_last:
                merged = merge_windows(parts, tile.image.shape[:2], spec)
                parts = []
                done += 1
                yield Found(item=tile.item, image=tile.image if keep_images else NO_IMAGE, detections=merged)
                if on_progress is not None:
                    on_progress(done)


def merge_windows(
    parts: list[tuple[Window, Detections]], image_size: tuple[int, int], spec: DetectorSpec
) -> Detections:
    """Bring the detections of a picture's windows together.

    They move to the picture's pixels, and the detector's own rules hold for all of them: order, candidates, NMS, limit.
    Before the NMS one that ends at an edge where its window cuts the picture is left out if a detection of its class
    from another window covers it: that is the whole object.

    Args:
        parts: each window and what was found in it, in pixels of the window.
        image_size: (height, width) of the picture.
        spec: gives NMS and limits.
    """
    if len(parts) == 1:
        return parts[0][1]
    offsets = [np.array([window.left, window.top, window.left, window.top], np.float32) for window, _ in parts]
    together = Detections(
        np.concatenate([found.boxes + offset for (_, found), offset in zip(parts, offsets, strict=True)]),
        np.concatenate([found.scores for _, found in parts]),
        np.concatenate([found.labels for _, found in parts]),
        parts[0][1].class_names,
        image_size,
    )
    is_cut = np.concatenate([_is_cut(found.boxes, window, image_size) for window, found in parts])
    window_of = np.repeat(np.arange(len(parts)), [len(found) for _, found in parts])
    settings = spec.postprocess
    order = rank(together.scores, together.labels)[: settings.pre_nms_top_k]
    candidates = together.select(order)
    candidates = candidates.select(~_is_covered(candidates, window_of[order], is_cut[order]))
    kept = suppress(candidates.boxes, candidates.labels, settings.nms_iou_threshold)
    return candidates.select(kept[: settings.max_detections])


def _is_cut(boxes: NDArray[np.float32], window: Window, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes, in pixels of a window, end at one of its edges that lies inside the picture."""
    height, width = image_size
    left, top, right, bottom = boxes.T
    margin_x, margin_y = (BORDER_SHARE * side for side in (window.right - window.left, window.bottom - window.top))
    cut: NDArray[np.bool_] = (
        ((left <= margin_x) & (window.left > 0))
        | ((top <= margin_y) & (window.top > 0))
        | ((right >= window.right - window.left - margin_x) & (window.right < width))
        | ((bottom >= window.bottom - window.top - margin_y) & (window.bottom < height))
    )
    return cut


def _is_covered(found: Detections, window_of: NDArray[np.int64], is_cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which detections are cut parts of one that another window shows whole, or more of."""
    covered = np.zeros(len(found), bool)
    boxes = found.boxes.astype(np.float64)
    area = areas(boxes)
    for row in np.flatnonzero(is_cut & (area > 0)):
        is_other = (found.labels == found.labels[row]) & (window_of != window_of[row]) & (area > area[row])
        others = np.flatnonzero(is_other & (found.scores >= SCORE_SHARE * found.scores[row]))
        shared = shared_areas(boxes[row : row + 1], boxes[others])[0]
        covered[row] = (shared >= COVERED_SHARE * area[row]).any()
    return covered


def _loaded_ahead(
    items: Iterable[Item], load: Callable[[Item], Image], is_ready: Callable[[], bool]
) -> Generator[tuple[Item, "Future[Image]"], None, None]:
    """Yield every item with its picture, the next one already loading."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="load-picture")
    waiting: tuple[Item, Future[Image]] | None = None
    try:
        for item in items:
            following = (item, pool.submit(load, item))
            if waiting is not None:
                yield waiting
            waiting = following
            if not is_ready():
                yield waiting
                waiting = None
        if waiting is not None:
            yield waiting
    finally:
        pool.shutdown(cancel_futures=True)
