"""The files that are run, the pictures they are run on, what each runtime makes of them: once for all tests here."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtimes import FILES, FOLDER, RUNTIMES, Answers, Input, run

from export.exported import read_exported
from export.file_metadata import Int8Target
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.steps import STEPS
from ssd_train import build_network
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.precisions import in_precision
from ssd_train.preprocess import load_image, preprocess

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
    """The detector of shapes in each kind of file, by the names of `runtimes.FILES`."""
    folder = tmp_path_factory.mktemp("files")
    network = build_network(NETWORK, "shapes")
    made = {"fp32": export_onnx(network, folder), "fp16": export_onnx(in_precision(network, "fp16"), folder)}
    calibration = folder / "calibration"
    calibration.mkdir()
    for picture in pictures[PICTURES:]:
        (calibration / picture.name).symlink_to(picture)

    def apply(step: str, source: str, settings: Any = None) -> Path:
        path = STEPS[step].apply(made[source], folder / f"{step}{len(made)}", settings).path
        assert path is not None
        return path

    for name, target in (("int8", Int8Target.PORTABLE), ("int8-cpu", Int8Target.CPU)):
        made[name] = apply(
            "int8",
            "fp32",
            QuantizeOptions(calibration_data=calibration, calibration_method="minmax", int8_target=target),
        )
    for source in ("fp32", "fp16", "int8", "int8-cpu"):
        made[f"{source}-uint8"] = apply("uint8", source)
    made["fp32-batch"] = apply("batch", "fp32", PICTURES)
    made["fp32-raw"] = apply("raw", "fp32")
    assert set(made) == set(FILES)
    return made


@pytest.fixture(scope="session")
def inputs(files: Mapping[str, Path], pictures: list[Path]) -> dict[str, Input]:
    """Each file with the pictures as it takes them."""

    def of_file(path: Path) -> Input:
        spec = read_exported(path, path.name).spec
        images = np.stack([preprocess(load_image(picture), spec) for picture in pictures[:PICTURES]])
        return path, spec.input.tensor, images

    return {name: of_file(path) for name, path in files.items()}


@pytest.fixture(scope="session")
def answers(inputs: Mapping[str, Input], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answers]:
    """Name of a runtime -> its answers; each runs once."""

    @functools.cache
    def of_runtime(name: str) -> Answers:
        runtime = RUNTIMES[name]
        return run(runtime, {file: inputs[file] for file in runtime.files}, tmp_path_factory.mktemp("run"))

    return of_runtime
