"""The files that are run, the pictures they are run on, and what each runtime makes of them: once for all tests here."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runtimes import FOLDER, RUNTIMES, Answers, run

from export.file_metadata import Int8Target
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.precisions import in_precision
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import INPUT_NAME

NETWORK = "ssd_300_mobilenet0.25_custom"
PICTURES = 4
CALIBRATION_PICTURES = 20


@pytest.fixture(scope="session", autouse=True)
def _made(shared_traces: None) -> None:
    if not (FOLDER / "made").is_file():
        pytest.skip(f"there are no runtimes in {FOLDER}: bash tests/runtimes/make_runtimes.sh")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of shapes: the first ones to detect in, the others to calibrate on."""
    root = write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=CALIBRATION_PICTURES, val=PICTURES, seed=1)
    return sorted((root / "JPEGImages").iterdir())


@pytest.fixture(scope="session")
def files(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The detector of shapes in each kind of file."""
    folder = tmp_path_factory.mktemp("files")
    network = build_network(NETWORK, "shapes")
    fp32 = export_onnx(network, folder)
    made = {"fp32": fp32, "fp16": export_onnx(in_precision(network, "fp16"), folder)}
    calibration = folder / "calibration"
    calibration.mkdir()
    for picture in pictures[PICTURES:]:
        (calibration / picture.name).symlink_to(picture)
    for name, target in (("int8", Int8Target.PORTABLE), ("int8-cpu", Int8Target.CPU)):
        settings = QuantizeOptions(calibration_data=calibration, calibration_method="minmax", int8_target=target)
        path = STEPS["int8"].apply(fp32, folder / name, settings).path
        assert path is not None
        made[name] = path
    return made


@pytest.fixture(scope="session")
def images(pictures: list[Path]) -> NDArray[np.float32]:
    spec = build_network(NETWORK, "shapes").spec
    return np.stack([preprocess(load_image(path), spec) for path in pictures[:PICTURES]])


@pytest.fixture(scope="session")
def answers(
    files: Mapping[str, Path], images: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Answers]:
    """Name of a runtime -> its answers; each runs once."""

    @functools.cache
    def of_runtime(name: str) -> Answers:
        runtime = RUNTIMES[name]
        inputs = {file: (files[file], INPUT_NAME, images) for file in runtime.files or files}
        return run(runtime, inputs, tmp_path_factory.mktemp("run"))

    return of_runtime
