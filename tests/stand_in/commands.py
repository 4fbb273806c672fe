"""The command line with engines of the stand-in: built, described, run, scored, and held against PyTorch.

SSD_STAND_IN_MODEL names an exported file of the detector that comes with the package; without it one is exported.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorrt
from typer.testing import CliRunner

from export.engine.file import read_info
from ssd_deploy.backends.cuda_device import CudaDevice
from ssd_deploy.cli import app
from ssd_train.datasets.generated_files import write_shapes

NETWORK = "ssd_300_mobilenet0.25_custom"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run() -> Run:
    """Run a command line that succeeds; returns what it printed."""

    def run_command(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run_command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=1, val=4, seed=1)


@pytest.fixture(scope="module")
def model(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if named := os.environ.get("SSD_STAND_IN_MODEL"):
        return Path(named)
    folder = tmp_path_factory.mktemp("model")
    run("export", NETWORK, "--weights", "shapes", "--out", folder)
    return folder / f"{NETWORK}.fp32.onnx"


@pytest.fixture(scope="module")
def engine(run: Run, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector's engine, built by the command."""
    folder = tmp_path_factory.mktemp("engine")
    output = run("build", model, "--format", "tensorrt", "--max-batch", 4, "--out", folder)
    path = folder / f"{NETWORK}.fp32.tensorrt.engine"
    assert str(path) in output.splitlines() and "note: stand-in for TensorRT" in output
    assert f"tensorrt {tensorrt.__version__}" in output and "batch 1 to 4" in output
    return path


def test_a_second_build_takes_none(run: Run, model: Path, engine: Path, tmp_path: Path) -> None:
    output = run("build", model, "--format", "tensorrt", "--max-batch", 4, "--out", tmp_path)
    assert "from the cache, no build" in output
    assert (tmp_path / engine.name).read_bytes() == engine.read_bytes()


def test_info_says_what_it_is(run: Run, engine: Path, device: CudaDevice) -> None:
    output = run("info", engine)
    assert f"tensorrt version: {tensorrt.__version__}" in output and f"gpu: {device.name}" in output
    assert read_info(engine).layer_precisions == {"fp32": 47}


def test_detect_writes_what_the_file_finds_in_onnx_runtime(
    run: Run, engine: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    pictures = sorted((data / "JPEGImages").glob("*"))[:3]
    found = []
    for name, backend in ((engine, "tensorrt"), (model, "onnxruntime")):
        out = tmp_path / backend
        run("detect", name, *pictures, "--backend", backend, "--out", out)
        found.append(json.loads((out / "detections.json").read_text()))
    assert "stand-in" in found[0]["backend"]
    ours, theirs = (
        [(one["class_name"], one["score"], *one["box"]) for image in each["images"] for one in image["detections"]]
        for each in found
    )
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        assert mine[0] == other[0] and mine[1:] == pytest.approx(other[1:], abs=1e-2)


def test_eval_names_the_stand_in_and_scores_as_the_file_does(
    run: Run, engine: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    scores = []
    for number, (name, options) in enumerate(((engine, ["--cuda-graph"]), (model, ["--backend", "onnxruntime"]))):
        path = tmp_path / f"{number}.json"
        output = run("eval", name, *options, "--data", data, "--split", "val", "--json", path)
        assert ("stand-in" in output) == (name == engine)
        scores.append(json.loads(path.read_text())["headline"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6) and scores[0] > 0.5


def test_parity_finds_nothing_lost_raw_predictions_included(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "parity.json"
    output = run(
        "parity", NETWORK, model, "--weights", "shapes", "--data", data, "--split", "val", "--limit", 2, "--json", path
    )
    assert "PASS: nothing was lost" in output
    comparisons = {each["backend"]: each for each in json.loads(path.read_text())["comparisons"]}
    (compared,) = [each for backend, each in comparisons.items() if "stand-in" in backend]
    # The second engine, with the raw predictions as outputs, which the first has not.
    raw = [stage["difference"] for stage in compared["stages"] if "raw" in stage["name"]]
    assert len(raw) == 2 and max(raw) < 1e-3


def test_benchmark_measures_it_by_its_name(run: Run, model: Path, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "benchmark.json"
    run(
        "benchmark", model, "--backends", "tensorrt:cuda-graph", "--batch-sizes", 1, "--rounds", 1,
        "--images", data / "JPEGImages", "--json", path,
    )  # fmt: skip
    (row,) = json.loads(path.read_text())["rows"]
    assert "stand-in" in row["runner"] and "CUDA graph" in row["runner"]
