"""Images -> the range of every activation, measured in the float graph with ONNX Runtime's calibrators."""

import hashlib
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, TensorsData, create_calibrator

from export.quantize_options import METHODS, USUAL_IMAGES, check_count, image_files
from ssd_train.captured_stdout import captured_stdout
from ssd_train.datasets.generated import draw_picture
from ssd_train.errors import DatasetError, ImageError
from ssd_train.files import sha256_of_file
from ssd_train.preprocess import Images, load_image, preprocess
from ssd_train.spec import INPUT_NAME, DetectorSpec
from ssd_train.temporary import temporary_folder

log = logging.getLogger(__name__)

# Operators whose inputs and outputs are measured: those that compute in integers, see `quantize`.
MEASURED_OPERATORS = ("Conv", "Relu", "MaxPool", "Add")

# Pixels of a picture of one color differ by no more than JPEG's rounding, in 0 to 255.
FLAT_SPREAD = 4.0
# Pictures that a flat calibration is tried on, and how far their activations leave its range to be told.
PROBES = 4
SATURATED = 1.5


class CalibrationImages(NamedTuple):
    """Image files that can be read, each checked, and a hash over their contents in their order."""

    paths: tuple[Path, ...]
    sha256: str


def find_calibration_images(folder: Path, count: int | None = None) -> CalibrationImages:
    """Choose images of a folder and its sub-folders, the same ones every time; warn of those that cannot be read.

    Args:
        count: how many; None for `USUAL_IMAGES`, or all where there are fewer.

    Raises:
        DatasetError: no such folder, no image in it that can be read, or fewer than `count`.
    """
    found = image_files(folder, count)
    # Folders are often in the order in which pictures were taken.
    random.Random(0).shuffle(found)
    wanted = USUAL_IMAGES if count is None else count
    paths: list[Path] = []
    unreadable: list[str] = []
    digest = hashlib.sha256()
    for path in found:
        if len(paths) == wanted:
            break
        try:
            load_image(path)
        except ImageError as error:
            unreadable.append(str(error))
            continue
        paths.append(path)
        digest.update(sha256_of_file(path).encode())
    if not paths:
        raise DatasetError(
            f"{folder}: has no image to calibrate on ({len(unreadable)} files could not be read, the first: "
            f"{unreadable[0]}); name a folder with images like those to be detected in",
            arguments=("calibration_data",),
        )
    check_count(folder, len(paths), count)
    for sentence in unreadable:
        log.warning("%s", sentence)
    return CalibrationImages(tuple(paths), digest.hexdigest())


def calibrate(
    network: onnx.ModelProto,
    spec: DetectorSpec,
    images: Sequence[Path],
    *,
    method: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> TensorsData:
    """Measure the range of every activation; warn where the ranges may be of no use.

    Args:
        network: the float graph from images to raw predictions.
        method: key of `METHODS`.
        on_progress: told how many images are done, of how many.

    Raises:
        ImageError: an image was removed in the meantime.
    """
    log.info("calibrating on %d images (%s)", len(images), method)
    spreads: list[float] = []

    def loaded() -> Iterator[Images]:
        for done, path in enumerate(images, start=1):
            image = load_image(path)
            spreads.append(float(image.std(axis=(0, 1)).max()))
            yield preprocess(image, spec)
            if on_progress is not None:
                on_progress(done, len(images))

    ranges = _measure(network, loaded(), method)
    flat = sum(spread < FLAT_SPREAD for spread in spreads)
    if 2 * flat >= len(spreads):
        log.warning("%s", _about_flat_images(network, spec, ranges, flat, len(spreads)))
    return ranges


def _measure(network: onnx.ModelProto, inputs: Iterable[Images], method: str) -> TensorsData:
    calibrator_method, options = METHODS[method]
    with temporary_folder() as folder:
        path = folder / "network.onnx"
        onnx.save(network, path)
        calibrator = create_calibrator(
            path,
            MEASURED_OPERATORS,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=CalibrationMethod[calibrator_method],
            extra_options=options,
        )
        # One by one: a calibrator keeps every activation of what it is given at once. It prints a line for each, which
        # is caught around its own call alone, not while images are loaded and callers are told.
        for image in inputs:
            reader = _OneImage(image)
            with captured_stdout():
                calibrator.collect_data(reader)
        with captured_stdout():
            return calibrator.compute_data()


class _OneImage(CalibrationDataReader):
    def __init__(self, image: Images) -> None:
        self._feeds = [{INPUT_NAME: image[None]}]

    def get_next(self) -> dict[str, Images] | None:
        return self._feeds.pop() if self._feeds else None


def _about_flat_images(
    network: onnx.ModelProto, spec: DetectorSpec, ranges: TensorsData, flat: int, images: int
) -> str:
    """Name the activations that a picture with something in it drives out of the measured ranges."""
    pictures = (preprocess(draw_picture(0, index)[0], spec) for index in range(PROBES))
    probes = _measure(network, pictures, "minmax")
    excess = {name: _largest(probes[name]) / max(_largest(ranges[name]), 1e-12) for name in probes}
    worst = sorted((name for name in excess if excess[name] > SATURATED), key=lambda name: -excess[name])
    saturated = "none saturates"
    if worst:
        named = ", ".join(f"{name} ({min(excess[name], 1e6):.3g} times)" for name in worst[:5])
        saturated = f"{len(worst)} of {len(excess)} activations would saturate, such as {named}"
    return (
        f"{flat} of {images} calibration images are of one color; on {PROBES} drawn pictures {saturated}; "
        "calibrate on images like those to be detected in"
    )


def _largest(measured: Any) -> float:
    return max(float(np.max(np.abs(value))) for value in measured.range_value)
