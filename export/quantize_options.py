"""How to quantize: the settings of the int8 step. Light, since the command line makes options of them."""

import dataclasses
from pathlib import Path
from typing import Any

from export.file_metadata import Int8Target
from ssd_train.errors import BackendError, DatasetError
from ssd_train.options import check_ranges, option
from ssd_train.requirements import require

# Each with what ONNX Runtime calls it and its options there. Its own 128 bins for as many steps of int8 leave entropy
# nothing to choose from. The percentile is the share of an activation's values that are not cut off.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "minmax": ("MinMax", {}),
    "entropy": ("Entropy", {"num_bins": 1024, "num_quantized_bins": 128}),
    "percentile": ("Percentile", {"num_bins": 2048, "percentile": 99.99}),
}

# The one that cost least on trained detectors; the largest values alone leave too few steps for all others.
USUAL_METHOD = "percentile"

# What is taken of a folder where no number is asked for.
USUAL_IMAGES = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How to quantize; None is what was left open.

    Attributes:
        calibration_data: without it there is no int8; random data would look like a calibration and ruin the detector.
        max_drop: asks for `sensitivity`; without it no layer has to stay float.

    Raises:
        BackendError: a value out of its range, or one that needs another.
    """

    calibration_data: Path | None = option(None, "int8: folder with images like those to be detected in.")
    calibration_images: int | None = option(
        None, f"int8: how many of them; without it {USUAL_IMAGES}, or all there are.", least=1
    )
    calibration_method: str | None = option(
        None, f"int8: how ranges follow from activations; without it {USUAL_METHOD}.", choices=tuple(METHODS)
    )
    int8_target: str | None = option(
        None,
        "int8: portable (for TensorRT and ONNX Runtime), or cpu, faster in ONNX Runtime; without it portable.",
        choices=tuple(Int8Target),
    )
    sensitivity: bool = option(False, "int8: measure what each layer costs; writes a table and a chart.")
    max_drop: float | None = option(
        None,
        "int8, with sensitivity: points of agreement AP that may be lost; the worst layers stay float until it is met.",
        least=0,
        most=100,
    )

    def __post_init__(self) -> None:
        check_ranges(self, BackendError)
        if self.max_drop is not None and not self.sensitivity:
            raise BackendError(
                f"max_drop {self.max_drop:g} needs sensitivity, which measures what each layer costs",
                arguments=("max_drop", "sensitivity"),
            )

    @property
    def method(self) -> str:
        return self.calibration_method or USUAL_METHOD

    @property
    def target(self) -> Int8Target:
        return Int8Target(self.int8_target or Int8Target.PORTABLE)


def check_quantizable(settings: QuantizeOptions | None) -> None:
    """Raise what is wrong with settings of int8 and can be told at once: no images, or no matplotlib for the chart."""
    if settings is None or settings.calibration_data is None:
        raise BackendError(
            "int8 needs calibration_data, a folder with images like those to be detected in; there is no int8 "
            "without them",
            arguments=("calibration_data",),
        )
    if settings.sensitivity:
        require("matplotlib", "plots", "The chart of the layers' sensitivity")
    image_files(settings.calibration_data, settings.calibration_images)


def image_files(folder: Path, count: int | None) -> list[Path]:
    """Return the image files in a folder and its sub-folders, none of them opened, in order of their paths.

    Raises:
        DatasetError: no such folder, no image in it, or fewer than `count`.
    """
    from ssd_train.image_files import images_in
    from ssd_train.preprocess import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise DatasetError(
            f"{folder}: there is no such folder; name one with images like those to be detected in",
            arguments=("calibration_data",),
        )
    found = images_in(folder)
    if not found:
        raise DatasetError(
            f"{folder}: has no image to calibrate on; name a folder with images ({', '.join(IMAGE_SUFFIXES)}) like "
            "those to be detected in",
            arguments=("calibration_data",),
        )
    check_count(folder, len(found), count)
    return found


def check_count(folder: Path, found: int, count: int | None) -> None:
    """Raise DatasetError where a folder has fewer images than were asked for."""
    if count is not None and found < count:
        raise DatasetError(
            f"{folder}: has {found} images that can be read, {count} were asked for; ask for {found} or name a larger "
            "folder",
            arguments=("calibration_images",),
        )
