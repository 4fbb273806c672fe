"""The one loop from images to checked detections.

Training's validation, every backend's evaluation, and detection in arrays and files come through here, so that they
differ in where images come from and in what runs the network.
"""

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Sample
from ssd_train.detections import PADDING, Detections, PaddedDetections
from ssd_train.errors import BackendError, DatasetError, ImageError
from ssd_train.preprocess import Images, errors_of, preprocess
from ssd_train.spec import DetectorSpec

Predict = Callable[[Images], PaddedDetections]
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Found(Generic[Item]):
    """What was found in one image.

    Attributes:
        item: what the image was loaded from.
        image: (H, W, 3) RGB uint8 as it was loaded; empty unless images were to be kept.
        detections: boxes in image pixels, not clipped.
    """

    item: Item
    image: NDArray[np.uint8]
    detections: Detections


# A detector's input, its image's (height, width), and the image itself, empty unless it is kept.
_Loaded = tuple[Images, tuple[int, int], NDArray[np.uint8]]
# Stands for an image that is not kept, or not loaded yet.
NO_IMAGE = np.zeros((0, 0, 3), np.uint8)


def detect_images(
    items: Iterable[Item],
    load: Callable[[Item], NDArray[np.uint8]],
    run: Predict,
    spec: DetectorSpec,
    *,
    name_of: Callable[[Item], str],
    batch_size: int = 8,
    workers: int = 2,
    keep_images: bool = False,
    is_ready: Callable[[], bool] = lambda: True,
    on_failed: Callable[[Item, ImageError], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Generator[Found[Item], None, None]:
    """Detect in every image, in order; images are loaded by threads while the network runs.

    While one batch is in the network the next one loads, and no more than that, so memory is bounded. The last
    batch is as small as what is left, and so is one some of whose images cannot be read. Whoever may stop before
    the end closes the generator, which ends its threads.

    Args:
        items: what images are loaded from; none is fine. They are taken as they are needed, so there may be any number.
        load: item -> (H, W, 3) RGB uint8; called in threads.
        run: N images as `preprocess` makes them, N from 1 to `batch_size` -> padded detections of N images, in
            network-input pixels. Its arrays need not outlive the next call, and neither does what it is given.
        spec: gives pre-processing, input size and class list.
        name_of: what errors call an item.
        batch_size: images a call, at least 1.
        workers: threads that load and pre-process, at least 1.
        keep_images: give the loaded images back, too.
        is_ready: whether `items` has the next one, or its end, without waiting; one that it has to be waited for is not
            taken ahead, so that it keeps no other back.
        on_failed: told each item that cannot be read, and why; it is then left out. None stops at the first.
        on_progress: called with the number of items done so far, when those of a batch were taken.

    Raises:
        ImageError: an image cannot be read and there is no `on_failed`.
        BackendError: `run` answered with another number of images or other shapes, labels outside the class
            list, values that are not finite, or rows that are neither detections nor padding.
        ValueError: `batch_size` or `workers` is below 1.
        Exception: whatever else `load` raises.
    """
    if batch_size < 1 or workers < 1:
        raise ValueError(f"batch size {batch_size} and workers {workers} must be 1 or more")

    def prepare(item: Item) -> _Loaded:
        with errors_of(name_of(item)):
            image = load(item)
            return preprocess(image, spec), image.shape[:2], image if keep_images else NO_IMAGE

    # One more than a batch, since the image handed out last no longer waits when the network starts.
    look_ahead = max(batch_size, workers) + 1
    with contextlib.closing(_in_threads(items, prepare, workers, look_ahead, is_ready)) as waiting:
        done, is_over = 0, False
        inputs: Images | None = None
        while not is_over:
            batch, tensors, start = [], [], done
            for item, loaded in itertools.islice(waiting, batch_size):
                done += 1
                try:
                    tensor, image_size, image = loaded.result()
                except ImageError as error:
                    if on_failed is None:
                        raise
                    on_failed(item, error)
                else:
                    tensors.append(tensor)
                    batch.append((item, image_size, image))
            if batch:
                if inputs is None:
                    inputs = np.empty((batch_size, *tensors[0].shape), tensors[0].dtype)
                # Into the same memory each time: fresh pages would cost more than the copy does.
                stacked = np.stack(tensors, out=inputs[: len(tensors)])
                tensors.clear()  # their memory is not needed twice
                padded = run(stacked)
                check_answer(padded, len(batch), spec, f"{name_of(batch[0][0])} to {name_of(batch[-1][0])}")
                # All of them before any is given out: the arrays are the runner's, and may be reused by then.
                found = [
                    Detections.from_padded(padded, row, spec.input_size, image_size, spec.class_names)
                    for row, (_, image_size, _) in enumerate(batch)
                ]
                for (item, _, image), detections in zip(batch, found, strict=True):
                    yield Found(item=item, image=image, detections=detections)
            is_over = done < start + batch_size
            if on_progress is not None and done > start:
                on_progress(done)


def run_detector(
    samples: Sequence[Sample],
    predict: Predict,
    spec: DetectorSpec,
    *,
    batch_size: int = 8,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> list[Detections]:
    """Detect in every sample of a data set; nothing is skipped, since a skipped image is a wrong score.

    Args:
        samples: at least one.
        predict, spec, batch_size, workers, on_progress: as for `detect_images`.

    Returns:
        One Detections a sample in the order of `samples`, boxes in image pixels, not clipped.

    Raises:
        DatasetError: there are no samples, or an image has not its annotated size.
        ImageError, BackendError, ValueError: as `detect_images`.
    """
    if not samples:
        raise DatasetError("there are no images to evaluate; choose a split that has some")
    found = detect_images(
        samples,
        Sample.load_image,
        predict,
        spec,
        name_of=lambda sample: sample.path.name,
        batch_size=batch_size,
        workers=workers,
        on_progress=on_progress,
    )
    return [of_image.detections for of_image in found]


def check_answer(padded: PaddedDetections, count: int, spec: DetectorSpec, images: str) -> None:
    """Raise BackendError unless a detector's answer is one.

    Args:
        padded: the answer.
        count: how many images it is for.
        images: what the error calls them.
    """
    boxes, scores, labels = padded
    rows = scores.shape[-1] if scores.ndim else 0
    is_padding = labels == PADDING
    if not len(boxes) == len(labels) == len(scores) == count:
        problem = f"{len(scores)} images for {count} ({images})"
    elif boxes.shape != (count, rows, 4) or scores.shape != (count, rows) or labels.shape != (count, rows):
        problem = (
            f"boxes {boxes.shape}, scores {scores.shape} and labels {labels.shape} for {count} images ({images}); "
            "expected (N, K, 4), (N, K) and (N, K)"
        )
    elif labels.size and not PADDING <= labels.min() <= labels.max() < len(spec.class_names):
        wrong = labels.max() if labels.max() >= len(spec.class_names) else labels.min()
        problem = f"label {wrong} ({images}), but there are {len(spec.class_names)} classes; export the model again"
    elif not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        problem = f"values that are not finite ({images}); use a higher precision, or check the weights"
    # A detection that lost its label, or a label without a score, would vanish in silence.
    elif (
        (scores[is_padding] != PADDING).any() or (boxes[is_padding] != PADDING).any() or (scores[~is_padding] < 0).any()
    ):
        problem = f"rows that are neither detections nor all {PADDING} ({images}); export the model again"
    else:
        return
    raise BackendError(f"{spec.network}: the backend answered with {problem}")


def _in_threads(
    items: Iterable[Item],
    prepare: Callable[[Item], _Loaded],
    workers: int,
    look_ahead: int,
    is_ready: Callable[[], bool],
) -> Generator[tuple[Item, Future[_Loaded]], None, None]:
    """Yield every item with its future in order, at most `look_ahead` of them loaded or loading."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="load")
    waiting: deque[tuple[Item, Future[_Loaded]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(prepare, item)))
            while waiting and (len(waiting) == look_ahead or not is_ready()):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        # After an error the images still queued are of no use; without this the exit would load them.
        pool.shutdown(cancel_futures=True)
