"""What docs/extending.md shows works: a row of each kind, in a module of its own, is taken by every command.

The blocks are run as they stand there. One that begins with `# name.py` is a module of that name, the others add rows.
"""

import csv
import importlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ssd_deploy import load_detector
from ssd_deploy.backends import BACKENDS
from ssd_deploy.cli import app
from ssd_deploy.model_source import find_model
from ssd_train import build_network
from ssd_train.datasets.generated import SHAPE_CLASSES
from ssd_train.datasets.source import find_source
from ssd_train.errors import WeightsError
from ssd_train.networks import build, zoo
from ssd_train.precisions import PRECISIONS
from ssd_train.preprocess import load_image

# A minute: exports and runs real networks.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_traces")]

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
KINDS = ("backbone", "backend", "metric", "data layout", "precision", "layout of weights")


def blocks(kind: str) -> list[str]:
    section = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(f"A {kind}\n"))
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the page; the tables are what they were afterwards."""
    from ssd_train.datasets.layouts import LAYOUTS
    from ssd_train.metrics.table import METRICS
    from ssd_train.weights.foreign import LAYOUTS as LAYOUTS_OF_WEIGHTS

    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for table in (BACKENDS, LAYOUTS, METRICS, PRECISIONS, LAYOUTS_OF_WEIGHTS):
            patch.setattr(table, "_rows", dict(table))
        before = dict(build.BACKBONES), dict(zoo.NETWORKS)
        for kind in KINDS:
            for block in blocks(kind):
                if match := re.match(r"# (\w+\.py)\n", block):
                    (folder / match[1]).write_text(block, encoding="utf-8")
                    importlib.invalidate_caches()
                else:
                    exec(compile(block, f"docs/extending.md, {kind}", "exec"), {})
        yield
        for table, rows in zip((build.BACKBONES, zoo.NETWORKS), before, strict=True):
            table.clear()
            table.update(rows)
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated shapes in the toy layout: four pictures to evaluate on."""
    folder = tmp_path_factory.mktemp("csv")
    voc = folder / "voc"
    run("shapes", "--out", voc, "--train", 1, "--val", 4)
    (folder / "images").mkdir()
    with (folder / "val.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "x1", "y1", "x2", "y2", "class"])
        for sample in find_source("voc", voc).load("val", SHAPE_CLASSES).samples:
            shutil.copy(sample.path, folder / "images")
            truth = sample.ground_truth
            for box, label in zip(truth.boxes, truth.labels, strict=True):
                writer.writerow([sample.path.name, *map(float, box), SHAPE_CLASSES[label]])
    shutil.rmtree(voc)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector of shapes in float32."""
    from export.onnx import export_onnx

    return export_onnx(build_network("ssd_300_mobilenet0.25_custom", "shapes"), tmp_path_factory.mktemp("model"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def run_for_json(path: Path, *arguments: object) -> str:
    """Return what a command wrote for programs, as text."""
    run(*arguments, "--json", path)
    return json.dumps(json.loads(path.read_text(encoding="utf-8")))


def test_every_section_is_a_module_and_a_row():
    assert [kind for kind in KINDS if len(blocks(kind)) != 2] == []
    assert re.findall(r"^## A (.+)$", PAGE, re.MULTILINE) == list(KINDS)


# --- From Python ---


def test_load_detector_takes_the_backend_and_finds_what_onnx_runtime_finds(model, pictures):
    images = [load_image(path) for path in sorted((pictures / "images").iterdir())]
    found = load_detector(model, backend="opencv").detect(images)
    expected = load_detector(model, backend="onnxruntime").detect(images)
    assert sum(map(len, expected)) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-2)


def test_the_backend_predicts_raw_what_onnx_runtime_predicts(model):
    images = np.random.default_rng(0).normal(size=(2, 3, 300, 300)).astype(np.float32)
    raw, expected = (load_detector(model, backend=name).runner.run_raw(images) for name in ("opencv", "onnxruntime"))
    for one, other in zip(raw, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_build_network_takes_the_backbone():
    network = build_network("ssd_300_tiny_custom", "random", ["a", "b"])
    assert network.anchors.shape == (2268, 4)


def test_build_network_takes_the_layout_of_weights(tmp_path):
    network = build_network("ssd_300_mobilenet0.25_custom", "random", ["a", "b"])
    tensors = {f"toy.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(tensors, tmp_path / "toy.pth")
    read = find_model(tmp_path / "toy.pth", classes=["a", "b"]).load()
    assert read.spec.weights == "toy.pth, from the toy project"
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in read.state_dict().items())
    with pytest.raises(WeightsError, match="predicts 2 classes"):
        find_model(tmp_path / "toy.pth", classes=["a"]).load()
    del tensors["toy.features.extras.0.conv.weight"]
    torch.save(tensors, tmp_path / "toy.pth")
    with pytest.raises(WeightsError, match=r"it lacks toy\.features\.extras\.0\.conv\.weight"):
        find_model(tmp_path / "toy.pth", classes=["a", "b"]).load()


def test_load_detector_takes_the_precision(pictures):
    images = [load_image(path) for path in sorted((pictures / "images").iterdir())]
    name = "ssd_300_mobilenet0.25_custom"
    short = load_detector(name, weights="shapes", precision="short")
    assert short.spec.precision == "short"
    exact = load_detector(name, weights="shapes")
    pairs = list(zip(short.detect(images), exact.detect(images), strict=True))
    # Rounded, so not equal, and yet the same objects.
    assert any(len(one) != len(other) or not np.array_equal(one.scores, other.scores) for one, other in pairs)
    assert all(np.array_equal(one.labels[:2], other.labels[:2]) for one, other in pairs)


# --- From the command line ---


def test_doctor_has_a_row_for_the_backend():
    assert "opencv" in run("doctor")
    run("doctor", "--require", "opencv")


def test_models_lists_the_network():
    assert "ssd_300_tiny_custom" in run("models")


def test_eval_takes_backend_layout_and_metric(model, pictures, tmp_path):
    report = run_for_json(tmp_path / "a.json", "eval", model, "--data", pictures, "--backend", "opencv")
    same = run_for_json(tmp_path / "b.json", "eval", model, "--data", pictures, "--backend", "onnxruntime")
    assert '"recall"' in report and "opencv" in report
    assert re.findall(r'"recall": ([\d.]+)', report) == re.findall(r'"recall": ([\d.]+)', same)


def test_eval_takes_the_precision(pictures):
    output = run(
        "eval", "ssd_300_mobilenet0.25_custom", "--weights", "shapes", "--precision", "short", "--data", pictures
    )
    assert "recall" in output


def test_export_takes_the_precision_and_the_backend_runs_its_file(pictures, tmp_path):
    run("export", "ssd_300_mobilenet0.25_custom", "--weights", "shapes", "--precision", "short", "--out", tmp_path)
    path = tmp_path / "ssd_300_mobilenet0.25_custom.short.onnx"
    assert load_detector(path, backend="opencv").spec.precision == "short"


def test_parity_compares_the_backend_and_the_precision(pictures, tmp_path):
    network = ("ssd_300_mobilenet0.25_custom", "--weights", "shapes")
    compared = run_for_json(tmp_path / "p.json", "parity", *network, "--precision", "fp32,short", "--data", pictures)
    assert "opencv" in compared and '"short"' in compared and "recall" in compared


def test_benchmark_measures_the_backend(model, tmp_path):
    measured = run_for_json(
        tmp_path / "b.json",
        *("benchmark", model, "--backend", "opencv,onnxruntime", "--batch-sizes", "1", "--rounds", "1"),
    )
    assert "opencv" in measured and "onnxruntime" in measured


def test_detect_takes_the_backend(model, pictures, tmp_path):
    run("detect", model, pictures / "images", "--backend", "opencv", "--out", tmp_path / "found")
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 4
