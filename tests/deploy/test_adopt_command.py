"""`adopt` and what takes the file that it writes: one small detector of somebody else's, adopted once."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from foreign_onnx import HEIGHT, WIDTH, anchors, write_foreign
from typer.testing import CliRunner

from ssd_deploy.cli import app
from ssd_deploy.parity.reference import is_adopted
from ssd_deploy.ship import run as run_of_ship
from ssd_deploy.ship import timing
from ssd_train.datasets.generated_files import write_shapes
from ssd_train.spec import DetectorSpec

# Those of the generated images.
NAMES = ["star", "triangle", "cross", "square"]


def command(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`their own.onnx`, its anchors and names, and three images."""
    folder = tmp_path_factory.mktemp("theirs")
    np.save(folder / "anchors.npy", anchors())
    (folder / "names.txt").write_text("\n".join(NAMES))
    write_foreign(folder / "their own.onnx", batch=1, shape_batch=1, columns=len(NAMES) + 1)
    return folder


@pytest.fixture(scope="module")
def adopted(folder: Path) -> Path:
    """Its file of ours; nobody writes to it."""
    code, output = command(
        "adopt", folder / "their own.onnx", "--scores", "cls", "--boxes", "reg", "--anchors", folder / "anchors.npy",
        "--variances", "0.05,0.3", "--classes", folder / "names.txt", "--mean", "127", "--std", "128",
        "--resize", "linear", "--score-threshold", "0.02", "--pre-nms-top-k", "40", "--max-detections", "20",
        "--out", folder / "out",
    )  # fmt: skip
    assert code == 0, output
    assert "cls are logits of 4 classes and a background, reg are offsets from anchors in pixels" in output
    return Path(output.splitlines()[-1])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=2, val=3, seed=1)


def run(path: Path, images: Any, names: list[str]) -> list[Any]:
    """Run a graph in plain ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return list(session.run(names, {session.get_inputs()[0].name: images}))


def test_it_finds_what_numpy_finds(folder: Path, adopted: Path) -> None:
    images = np.random.default_rng(1).normal(size=(2, 3, HEIGHT, WIDTH)).astype(np.float32)
    boxes, scores, labels = run(adopted, images, ["boxes", "scores", "labels"])
    for number, image in enumerate(images):
        raw = run(folder / "their own.onnx", image[None], ["cls", "reg"])
        logits, offsets = (value[0].astype(np.float64) for value in raw)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        # The best of all is kept by every NMS.
        anchor, column = divmod(int(probabilities[:, 1:].argmax()), len(NAMES))
        (cx, cy, w, h), (dx, dy, dw, dh) = anchors().astype(np.float64)[anchor], offsets[anchor]
        cx, cy, w, h = cx + dx * 0.05 * w, cy + dy * 0.05 * h, w * np.exp(dw * 0.3), h * np.exp(dh * 0.3)
        np.testing.assert_allclose(boxes[number, 0], (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), atol=1e-3)
        assert scores[number, 0] == pytest.approx(probabilities[anchor, column + 1], abs=1e-5)
        assert labels[number, 0] == column


def test_it_describes_itself(adopted: Path, tmp_path: Path) -> None:
    code, _ = command("info", adopted, "--json", tmp_path / "info.json")
    known = json.loads((tmp_path / "info.json").read_text())["models"][0]
    assert code == 0 and adopted.name == "their_own.fp32.onnx" and known["network"] == "their_own"
    assert known["class_names"] == NAMES and known["input_size"] == [HEIGHT, WIDTH]
    assert known["mean"] == pytest.approx([127 / 255] * 3) and known["postprocess"]["max_detections"] == 20
    assert known["weights"] == "their own.onnx" and len(known["weights_sha256"]) == 64
    # Control characters of a file are no part of what is printed.
    assert known["adopted_from"].startswith("their") and "\x1b" not in known["adopted_from"]
    assert is_adopted(adopted)


def test_a_description_without_it_reads_as_before() -> None:
    spec = DetectorSpec(network="own", class_names=("a",), input_size=(8, 8))
    assert "adopted_from" not in spec.to_metadata()
    assert DetectorSpec.from_metadata(spec.to_metadata(), "a file") == spec


def test_parity_holds_other_backends_against_the_file(adopted: Path, data: Path) -> None:
    pytest.importorskip("openvino", reason="something beside ONNX Runtime has to run it")
    code, output = command(
        "parity", adopted, "--data", data, "--split", "val", "--backend", "openvino", "--score-threshold", "0.1"
    )
    assert code == 0 and "against onnxruntime (CPU)" in output and output.splitlines()[-1].startswith("PASS"), output
    code, output = command("parity", adopted, "--data", data, "--precision", "fp16")
    assert code == 2 and "not to those named" in output


def test_an_int8_file_of_it_is_no_reference(adopted: Path, data: Path, tmp_path: Path) -> None:
    code, output = command("quantize", adopted, "--data", data, "--calibration-images", 2, "--out", tmp_path)
    assert code == 0, output
    int8 = Path(output.splitlines()[-1])
    assert not is_adopted(int8)
    code, output = command("parity", int8, "--data", data)
    assert code == 2 and "0 networks are named" in output


def test_it_is_shipped_and_verified(adopted: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One short turn of each: times are not what is tested.
    quick = dataclasses.replace(timing.SETTINGS, rounds=1, turn_seconds=0)
    monkeypatch.setattr(run_of_ship, "SETTINGS", quick)
    monkeypatch.setitem(timing.time_all.__kwdefaults__, "settings", quick)
    out = tmp_path / "shipped"
    code, output = command(
        "ship", adopted, "--data", data, "--split", "val", "--targets", "onnx", "--backend", "onnxruntime:cpu",
        "--samples", 1, "--score-threshold", "0.1", "--calibration-images", 2, "--out", out,
    )  # fmt: skip
    made = json.loads((out / "certificate.json").read_text())
    float_file = next(file for file in made["files"] if file["path"] == "onnx/their_own.fp32.onnx")
    assert float_file["verdict"] == "PASS" and code in (0, 1), output
    assert (out / "onnx" / "their_own.fp32.onnx").read_bytes() == adopted.read_bytes()
    assert "the adopted file in ONNX Runtime, the reference" in output
    assert any("fp16 is made of a network" in each["why"] for each in made["not_run"])
    # Its own statistics and resize rule are part of what verify prepares pictures by.
    code, output = command("verify", out, "--backend", "onnxruntime:cpu")
    assert "input tensor" not in output
