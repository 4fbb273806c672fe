"""`preprocess` against GluonCV's `SSDDefaultValTransform`."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_train.preprocess import interpolation_for, load_image, preprocess
from ssd_train.spec import IMAGENET_STD, DetectorSpec

pytestmark = pytest.mark.oracle

# MXNet carries an OpenCV of its own, whose cubic kernel rounds some values to the next grey level.
GREY_LEVEL = 1 / 255 / np.array(IMAGENET_STD)[:, None, None]
# float32 rounding of values up to 3.
ROUNDING = 1e-5


def spec_of(input_size: int) -> DetectorSpec:
    return DetectorSpec(network="oracle", class_names=("thing",), input_size=(input_size, input_size))


@pytest.fixture(scope="module")
def reference(oracle_dir: Path) -> dict[str, NDArray[Any]]:
    with np.load(oracle_dir / "preprocess.npz") as file:
        return dict(file)


@pytest.mark.parametrize("input_size", [300, 512])
def test_images_of_every_size_become_gluoncv_input(reference: dict[str, NDArray[Any]], input_size: int) -> None:
    images = {key: image for key, image in reference.items() if "_x" not in key}
    rules = set()
    for key, image in images.items():
        rule = interpolation_for(image.shape[:2], (input_size, input_size))
        rules.add(rule)
        difference = np.abs(preprocess(image, spec_of(input_size)) - reference[f"{key}_x{input_size}"])
        allowed = ROUNDING + (GREY_LEVEL if rule == cv2.INTER_CUBIC else 0)
        assert (difference <= allowed).all(), f"{key} of size {image.shape[:2]}: up to {difference.max():.2e}"
    assert rules == {cv2.INTER_CUBIC, cv2.INTER_AREA, cv2.INTER_LINEAR}


@pytest.mark.parametrize("input_size", [300, 512])
def test_image_files_become_gluoncv_input(
    oracle_dir: Path, reference: dict[str, NDArray[Any]], manifest: dict[str, Any], input_size: int
) -> None:
    assert manifest["image_files"]
    for index, path in enumerate(manifest["image_files"]):
        image = load_image(oracle_dir / path)
        # Two builds of OpenCV may decode a JPEG with different libraries; on these files they agree.
        np.testing.assert_array_equal(image, reference[f"file_{index}"], err_msg=path)
        rule = interpolation_for(image.shape[:2], (input_size, input_size))
        difference = np.abs(preprocess(image, spec_of(input_size)) - reference[f"file_{index}_x{input_size}"])
        allowed = ROUNDING + (GREY_LEVEL if rule == cv2.INTER_CUBIC else 0)
        assert (difference <= allowed).all(), f"{path}: up to {difference.max():.2e}"
