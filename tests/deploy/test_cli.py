"""The command line: what it prints and writes, its exit codes, and one sentence for each mistake."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import safetensors
import safetensors.torch
import torch
from onnx import numpy_helper
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tiny_data import (
    Annotated,
    Image,
    blocks,
    coco_file,
    voc_object,
    write_annotation,
    write_coco,
    write_image,
    write_turned,
)
from typer.testing import CliRunner

from export.file_metadata import check_runs_here
from export.steps import STEPS
from ssd_deploy import load_detector
from ssd_deploy.backends import BACKENDS, Finding, RunOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.cli import app
from ssd_deploy.progress import download_progress
from ssd_train.errors import BackendError
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import COCO_CLASSES, NETWORKS, VOC_CLASSES

PICTURE = str(Path(__file__).resolve().parents[2] / "docs/images/shapes.jpg")
NAME = "ssd_300_mobilenet0.25_voc"
CUSTOM = "ssd_300_mobilenet0.25_custom"
COMMANDS = ("models", "doctor", "fetch", "convert", "export", "eval", "parity", "detect")
SCRIPT = Path(sys.executable).parent / "ssd-deploy"

Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]


@pytest.fixture
def class_list(tmp_path: Path) -> Path:
    path = tmp_path / "cells.txt"
    path.write_text("RBC\n\nWBC\nPlatelets\n")
    return path


@pytest.fixture
def voc(voc_root: Path, tmp_path: Path) -> Path:
    """A VOC folder that the test may break."""
    return Path(shutil.copytree(voc_root, tmp_path / "voc"))


@pytest.fixture
def coco(coco_root: Path, tmp_path: Path) -> Path:
    """A COCO folder that the test may break."""
    return Path(shutil.copytree(coco_root, tmp_path / "coco"))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def changed_model(model_path: Path, out: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """Write a copy of an exported file after a change."""
    model = onnx.load(model_path)
    change(model)
    onnx.save(model, out)
    return out


def add_to_class_bias(amount: float) -> Callable[[onnx.ModelProto], None]:
    """Add to the 'aeroplane' logit of the first anchor shape of the first map."""

    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (
            value for value in model.graph.initializer if value.name.endswith("class_predictors.0.predictor.bias")
        )
        values = numpy_helper.to_array(tensor).copy()
        values[1] += amount
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return change


def set_metadata(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == key).value = value

    return change


# --- Starting -------------------------------------------------------------------------------------------------


def test_help_answers_in_under_half_a_second() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5
    for command in COMMANDS:
        assert f"\n  {command}" in done.stdout


@pytest.mark.parametrize("package", ["ssd_deploy", "ssd_deploy.cli"])
def test_help_of_every_command_loads_nothing_heavy(package: str) -> None:
    code = f"""
import contextlib, io, sys
import {package}
from ssd_deploy.cli import app
for command in {COMMANDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        app([command, "--help"])
    assert "Usage: " in printed.getvalue(), command
heavy = ("torch", "torchvision", "numpy", "cv2", "onnx", "onnxruntime", "onnxscript", "faster_coco_eval", "tensorrt")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_is_the_command() -> None:
    texts = [
        subprocess.run([*command, "eval", "--help"], capture_output=True, text=True, check=True).stdout
        for command in ([SCRIPT], [sys.executable, "-m", "ssd_deploy"])
    ]
    assert "--data-shape" in texts[0] and "--data-shape" in texts[1]


def test_a_mistake_in_the_real_process_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "detect", "--model", tmp_path / "nosuch.onnx", "--images", SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"Error: {tmp_path / 'nosuch.onnx'}")


def test_what_the_system_says_about_a_path_is_one_line_too(mistake: Mistake, tmp_path: Path, model_path: Path) -> None:
    name = 300 * "n" + ".onnx"
    image = write_image(tmp_path / "a.png", blocks(20, 20, 5, 0))
    for arguments in (
        ("detect", "--model", name, "--images", image),
        ("detect", "--model", model_path, "--images", name),
        ("eval", "--model", model_path, "--dataset", "voc", "--data-root", name),
    ):
        sentence = mistake(*arguments)
        assert "nnn.onnx: " in sentence and "File name too long" in sentence and len(sentence) < 200


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch, run_cli: Run) -> None:
    monkeypatch.setattr("ssd_deploy.doctor.examine", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run_cli("doctor")


# --- models, doctor, fetch ------------------------------------------------------------------------------------


def test_models_lists_every_network_with_what_is_known_of_it(run_cli: Run, tmp_path: Path) -> None:
    (tmp_path / "ssd_300_vgg16_atrous_voc.safetensors").touch()
    code, output = run_cli("models", "--root", tmp_path)
    assert code == 0
    rows = {words[0]: words for line in output.splitlines() if (words := line.split()) and words[0] in NETWORKS}
    assert list(rows) == list(NETWORKS)
    assert len([name for name in rows if name.startswith("ssd_")]) == 30
    # By hand from the paper's layers (section 3.1): 26,285,486 parameters and 8732 boxes; GluonCV's page has the rest.
    assert rows["ssd_300_vgg16_atrous_voc"][1:5] == ["300", "20", "26.29", "M"]
    assert rows["ssd_300_vgg16_atrous_voc"][5] == "8732"
    assert rows["ssd_300_vgg16_atrous_voc"][-3:] == ["77.6", "-", "cached"]
    assert rows["ssd_300_vgg16_atrous_coco"][-3:] == ["-", "25.1/42.9/25.8", "published"]
    assert rows["ssd_512_resnet50_v1_voc"][-3:] == ["80.1", "-", "published"]
    assert rows["ssd_300_mobilenet0.25_custom"][2] == "any"
    assert rows["ssd_300_mobilenet0.25_custom"][-3:] == ["-", "-", "-"]
    assert "ssd_640x384_resnet50_v1_custom; sides are multiples of 32 from 96 to 1280" in " ".join(output.split())


def test_doctor_names_every_backend_and_why_it_does_not_work(run_cli: Run) -> None:
    code, output = run_cli("doctor")
    assert code == 0
    rows = {}
    lines = [line for line in output.splitlines() if not line.startswith("trying ")]
    for line in lines[2:]:
        backend, works, detail = line.split("  ", 1)[0], *line.split("  ", 1)[1].split(None, 1)
        rows[backend] = (works, detail)
    assert list(rows) == [
        "torch (cpu)", "torch (cuda)", "onnxruntime (cpu)", "onnxruntime (cuda)", "onnxruntime (tensorrt)",
        "openvino", "tensorrt", "tensorrt-rtx", "kserve",
    ]  # fmt: skip
    assert rows["torch (cpu)"][0] == rows["onnxruntime (cpu)"][0] == "yes"
    assert torch.__version__.split("+")[0] in rows["torch (cpu)"][1]
    assert "CPUExecutionProvider" in rows["onnxruntime (cpu)"][1]
    assert rows["torch (cuda)"][0] == ("yes" if torch.cuda.is_available() else "no")
    if not torch.cuda.is_available():
        assert rows["onnxruntime (cuda)"][0] == rows["onnxruntime (tensorrt)"][0] == "no"
    for works, detail in rows.values():
        assert works in ("yes", "no") and len(detail) > 10


@pytest.mark.parametrize(
    "arguments", [["fetch", NAME], ["export", "--network", NAME], ["detect", "--network", NAME, "--images", PICTURE]]
)
def test_a_network_without_published_weights_asks_for_a_file(mistake: Mistake, arguments: list[str]) -> None:
    line = mistake(*arguments)
    assert NAME in line and "no published weights" in line


def test_where_nothing_is_downloaded_there_is_no_trace_of_a_bar(run_cli: Run) -> None:
    code, output = run_cli("fetch", NAME)
    assert code == 2 and output.count("\n") == 1


def test_a_download_shows_its_name_and_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with download_progress("some network") as on_progress:
        on_progress(1_000_000, None)
        on_progress(2_000_000, 4_000_000)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "some network" in shown.err and "2.0/4.0 MB" in shown.err


def test_an_unknown_network_is_a_mistake(mistake: Mistake, tmp_path: Path) -> None:
    for arguments in (
        ["fetch", "ssd_1"],
        ["export", "--network", "ssd_1"],
        ["parity", "--network", "ssd_1", "--images", tmp_path],
    ):
        assert "ssd_1" in mistake(*arguments, *([] if arguments[0] == "fetch" else ["--weights", "random"]))


# --- convert --------------------------------------------------------------------------------------------------


def tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_convert_brings_every_tensor_through_two_formats(run_cli: Run, network: SSD, tmp_path: Path) -> None:
    # Told by content: a PyTorch checkpoint under a name that says otherwise.
    torch.save(network.state_dict(), tmp_path / "weights.params")
    for source, out in (
        ("weights.params", "new folder/one.safetensors"),
        ("new folder/one.safetensors", "two.safetensors"),
    ):
        code, output = run_cli("convert", "--network", NAME, "--weights", tmp_path / source, "--out", tmp_path / out)
        assert code == 0, output
        assert str(tmp_path / out) in output and "20 classes" in output
        found, metadata = tensors(tmp_path / out)
        expected = network.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert metadata["network"] == NAME
        assert json.loads(metadata["class_names"]) == list(VOC_CLASSES)
    assert metadata["source"] == "one.safetensors, from weights.params"


def test_convert_keeps_a_class_list_with_the_weights(
    run_cli: Run, mistake: Mistake, class_list: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cells.safetensors"
    code, output = run_cli(
        "convert", "--network", CUSTOM, "--weights", "random:2", "--classes", class_list, "--out", out
    )
    assert code == 0 and "3 classes" in output
    assert json.loads(tensors(out)[1]["class_names"]) == ["RBC", "WBC", "Platelets"]
    # From there on the file names its classes itself.
    detector = load_detector(CUSTOM, weights=out)
    assert detector.spec.class_names == ("RBC", "WBC", "Platelets")
    assert detector.spec.weights == "cells.safetensors, from random, seed 2"
    class_list.write_text("WBC\nRBC\nPlatelets\n")
    line = mistake("convert", "--network", CUSTOM, "--weights", out, "--classes", class_list, "--out", tmp_path / "x")
    assert str(out) in line and "RBC, WBC, Platelets" in line


@pytest.mark.parametrize(
    ("content", "words"), [(None, ""), (b"", ""), (b"hello", "no weight file"), (b"\x12\x01\0\0\0\0\0\0abc", "")]
)
def test_convert_names_a_file_that_is_no_weight_file_and_writes_nothing(
    mistake: Mistake, tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "some.params"
    if content is not None:
        path.write_bytes(content)
    line = mistake("convert", "--network", NAME, "--weights", path, "--out", tmp_path / "out" / "x.safetensors")
    assert str(path) in line and words in line
    assert not (tmp_path / "out").exists()


def test_convert_names_both_networks_where_weights_are_anothers(run_cli: Run, mistake: Mistake, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert run_cli("convert", "--network", NAME, "--weights", "random", "--out", path)[0] == 0
    other = "ssd_300_mobilenet0.25_coco"
    line = mistake("convert", "--network", other, "--weights", path, "--out", tmp_path / "b.safetensors")
    assert str(path) in line and NAME in line and other in line
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read"), ("", "empty"), ("a\nb\na\n", "repeats a")])
def test_a_class_list_that_is_no_use_is_named(mistake: Mistake, tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "classes.txt"
    if text is not None:
        path.write_text(text)
    line = mistake("export", "--network", CUSTOM, "--weights", "random", "--classes", path, "--out", tmp_path)
    assert str(path) in line and words in line


def test_a_custom_network_needs_a_class_list_and_another_takes_none(
    mistake: Mistake, class_list: Path, tmp_path: Path
) -> None:
    assert "give its class names" in mistake("export", "--network", CUSTOM, "--weights", "random", "--out", tmp_path)
    line = mistake("export", "--network", NAME, "--weights", "random", "--classes", class_list, "--out", tmp_path)
    assert NAME in line and "20" in line


# --- export ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three classes with thresholds of its own, made by the command."""
    from ssd_deploy.cli import app

    folder = tmp_path_factory.mktemp("strict")
    (folder / "cells.txt").write_text("RBC\nWBC\nPlatelets\n")
    arguments = [
        "export", "--network", CUSTOM, "--weights", "random:5", "--classes", str(folder / "cells.txt"),
        "--out", str(folder / "new" / "folder"), "--score-threshold", "0.3", "--nms-iou", "0.6",
        "--pre-nms-top-k", "50", "--max-detections", "7",
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        app(arguments)
    path = folder / "new" / "folder" / f"{CUSTOM}.fp32.onnx"
    assert printed.getvalue().strip() == str(path)
    return path


def test_export_writes_the_options_into_the_graph_and_its_description(strict_model: Path) -> None:
    detector = load_detector(strict_model)
    settings = detector.spec.postprocess
    assert (settings.score_threshold, settings.nms_iou_threshold) == (0.3, 0.6)
    assert (settings.pre_nms_top_k, settings.max_detections) == (50, 7)
    assert detector.spec.class_names == ("RBC", "WBC", "Platelets")
    assert detector.spec.weights == "random, seed 5"
    found = detector.runner.run(np.random.default_rng(0).normal(0, 1.5, (2, 3, 300, 300)).astype(np.float32))
    assert found.boxes.shape == (2, 7, 4)
    real = found.labels >= 0
    assert real.any() and (found.scores[real] > 0.3).all() and (found.scores[~real] == -1).all()


def test_export_for_the_cpu_writes_winograds_file_and_this_machines(run_cli: Run, tmp_path: Path) -> None:
    # Another test traces this network too.
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    name = "ssd_160x96_vgg16_atrous_custom"
    network = ("--network", name, "--weights", "random", "--classes", tmp_path / "classes.txt")
    code, output = run_cli("export", *network, "--winograd", "--optimize-for-cpu", "--out", tmp_path / "out")
    assert code == 0, output
    files = [tmp_path / "out" / f"{name}.fp32{step}.onnx" for step in ("", ".winograd", ".winograd.cpu")]
    assert [line for line in output.splitlines() if line.startswith("/")] == list(map(str, files))
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    cv2.imwrite(str(tmp_path / "noise.png"), np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    code, output = run_cli("parity", *network, *files[1:], "--images", tmp_path)
    assert code == 0, output


@pytest.fixture(scope="module")
def of_pixels(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of pixels for two images a call, made of a float file by the command."""
    folder = tmp_path_factory.mktemp("pixels")
    given = ["export", str(model_path), "--input", "uint8-bgr", "--batch-size", "2", "--out", str(folder)]
    assert CliRunner().invoke(app, given).exit_code == 0
    (file,) = folder.iterdir()
    assert file.name == f"{model_path.stem}.uint8-bgr.batch2.onnx"
    return file


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_of_pixels_for_two_images_finds_in_three_what_the_float_file_does(
    backend: str, of_pixels: Path, model_path: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    images = [np.random.default_rng(seed).integers(0, 256, (90, 120, 3), np.uint8) for seed in range(3)]
    float_file, pixels = (load_detector(path, backend=backend) for path in (model_path, of_pixels))
    assert pixels.batch_size == 2
    for expected, found in zip(float_file.detect(images), pixels.detect(images), strict=True):
        assert len(expected)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    with pytest.raises(BackendError, match="a batch of 3 images, but this backend takes 1 to 2 a call"):
        pixels.runner.run(np.zeros((3, 300, 300, 3), np.uint8))
    with pytest.raises(BackendError, match=r"takes uint8 images of shape \(N, 300, 300, 3\)"):
        pixels.runner.run(np.zeros((1, 3, 300, 300), np.float32))


def test_parity_takes_a_file_of_pixels(run_cli: Run, of_pixels: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "noise.png"), np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    network = ("--network", "ssd_300_mobilenet0.25_voc", "--weights", "random")
    code, output = run_cli("parity", *network, "--model", of_pixels, "--images", tmp_path)
    assert code == 0, output


def test_raw_predictions_are_described_and_not_detected_with(
    run_cli: Run, mistake: Mistake, model_path: Path, tmp_path: Path
) -> None:
    code, output = run_cli("export", model_path, "--outputs", "raw", "--out", tmp_path)
    assert code == 0, output
    file = tmp_path / f"{model_path.stem}.raw.onnx"
    code, output = run_cli("info", file)
    assert code == 0 and "outputs: raw" in output
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((30, 40, 3), np.uint8))
    assert "for others to decode, and no detections" in mistake("detect", file, tmp_path / "one.png", "--out", tmp_path)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--score-threshold", "1"), ("--score-threshold", "-0.1"), ("--score-threshold", "nan"),
        ("--nms-iou", "0"), ("--nms-iou", "1.5"),
        ("--pre-nms-top-k", "0"), ("--pre-nms-top-k", "3841"),
        ("--max-detections", "0"), ("--max-detections", "401"),
    ],
)  # fmt: skip
def test_export_refuses_thresholds_outside_their_range(
    mistake: Mistake, tmp_path: Path, option: str, value: str
) -> None:
    line = mistake("export", "--network", NAME, "--weights", "random", "--out", tmp_path, option, value)
    assert value in line
    assert list(tmp_path.iterdir()) == []


def test_export_into_a_file_is_a_mistake(mistake: Mistake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ssd_train.files import written_atomically

    def instead_of_export(network: SSD, out: Path, *, settings: object) -> None:
        with written_atomically(out / "x.onnx"):
            pass

    # The export itself takes seconds and is not what fails.
    monkeypatch.setattr("export.onnx.export_onnx", instead_of_export)
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in mistake(
        "export", "--network", NAME, "--weights", "random", "--out", tmp_path / "file"
    )


# --- eval -----------------------------------------------------------------------------------------------------


def test_eval_on_voc_gives_the_score_that_the_objects_were_made_for_in_both_backends(
    run_cli: Run, voc_root: Path, model_path: Path, objects: list[Annotated], tmp_path: Path
) -> None:
    reports = []
    for backend, what in (
        ("onnxruntime", ["--model", model_path]),
        ("torch", ["--network", NAME, "--weights", "random"]),
    ):
        path = tmp_path / f"{backend}.json"
        code, output = run_cli(
            "eval", *what, "--backend", backend, "--dataset", "voc", "--data-root", voc_root,
            "--batch-size", 2, "-j", 1, "--json", path,
        )  # fmt: skip
        assert code == 0, output
        # One class found at rank 1 and one at rank 2: (1 + 1/2) / 2.
        assert "VOC07 mAP 75.00 %" in output
        assert "protocol standard" in output and "difficult" in output and "score_threshold 0.01" in output
        assert f"backend: {backend} (" in output and "random, seed 0" in output
        assert " 5/5 " in output and "images/s" in output
        reports.append(read(path))
    for report in reports:
        assert report["headline"] == report["numbers"]["VOC07 mAP"] == pytest.approx(0.75)
        assert report["numbers"]["VOC12 mAP"] == pytest.approx(0.75)
        assert report["per_class"][objects[0].class_name]["AP07"] == pytest.approx(1)
        assert report["per_class"][objects[1].class_name]["AP07"] == pytest.approx(0.5)
        assert (report["images"], report["objects"], report["protocol"]) == (5, 2, "standard")
        assert report["detector"]["network"] == NAME
        # Classes without objects have no AP; JSON has no NaN.
        without = next(name for name in VOC_CLASSES if name not in {item.class_name for item in objects})
        assert report["per_class"][without]["AP07"] is None
    for key in ("numbers", "per_class", "detections", "capped_images"):
        assert reports[0][key] == reports[1][key]


def test_eval_on_coco_gives_pycocotools_numbers_from_the_written_detections(
    run_cli: Run, coco_root: Path, model_path: Path, tmp_path: Path
) -> None:
    reports = []
    for backend, what in (
        ("onnxruntime", ["--model", model_path]),
        ("torch", ["--network", NAME, "--weights", "random"]),
    ):
        report, detections = tmp_path / f"{backend}.json", tmp_path / "out" / f"{backend} detections.json"
        code, output = run_cli(
            "eval", *what, "--dataset", "coco", "--data-root", coco_root, "--json", report, "--detections", detections,
        )  # fmt: skip
        assert code == 0, output
        numbers = read(report)["numbers"]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(coco_file(coco_root)))
            evaluated = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
            evaluated.evaluate()
            evaluated.accumulate()
            evaluated.summarize()
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
        for name, value in zip(names, evaluated.stats, strict=True):
            # The file's boxes are rounded to float32 twice; an IoU at a threshold could flip, none does here.
            assert numbers[name] == (pytest.approx(value, abs=1e-9) if value > -1 else None), name
        assert numbers["AP"] > 0.1
        rows = json.loads(detections.read_text())
        assert {row["image_id"] for row in rows} <= {100, 99, 98, 97, 96}
        assert {row["category_id"] for row in rows} <= {7 + 3 * label for label in range(20)}
        assert "AP " in output and "crowd" in output
        reports.append(read(report))
    for name, value in reports[0]["numbers"].items():
        assert reports[1]["numbers"][name] == (None if value is None else pytest.approx(value, abs=1e-4))


def test_eval_with_gluoncvs_protocol_names_it_in_text_and_json(
    run_cli: Run, voc_root: Path, model_path: Path, tmp_path: Path
) -> None:
    code, output = run_cli(
        "eval", "--model", model_path, "--dataset", "voc", "--data-root", voc_root, "--protocol", "gluoncv",
        "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0 and "protocol gluoncv" in output
    assert read(tmp_path / "out.json")["protocol"] == "gluoncv"


def test_eval_with_a_limit_takes_the_first_images(
    run_cli: Run, coco_root: Path, model_path: Path, tmp_path: Path
) -> None:
    arguments = ["eval", "--model", model_path, "--dataset", "coco", "--data-root", coco_root, "--data-shape", 300]
    report, detections = tmp_path / "report.json", tmp_path / "detections.json"
    code, output = run_cli(*arguments, "--limit", 2, "--json", report, "--detections", detections)
    assert code == 0, output
    assert read(report)["images"] == 2
    # In order of the ids, which are 96 to 100.
    assert {row["image_id"] for row in json.loads(detections.read_text())} == {96, 97}
    code, output = run_cli(*arguments, "--limit", 0)
    assert code == 2 and "--limit" in output and "Traceback" not in output


def test_eval_writes_voc_detections_by_image_name(
    run_cli: Run, voc_root: Path, model_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "detections.json"
    code, _ = run_cli("eval", "--model", model_path, "--dataset", "voc", "--data-root", voc_root, "--detections", out)
    assert code == 0
    rows = json.loads(out.read_text())
    # The second picture is black: nothing is found there.
    assert {row["image_id"] for row in rows} == {"p0", "p2", "p3", "p4"}
    assert {row["category_id"] for row in rows} <= set(range(1, 21))


@pytest.mark.parametrize(
    ("without", "reason"),
    [("objects", "no image has an object that counts"), ("annotations", "there are no annotations")],
)
def test_images_without_objects_or_annotations_give_detections_and_no_score(
    run_cli: Run, model_path: Path, pictures: list[Image], tmp_path: Path, without: str, reason: str
) -> None:
    root = write_coco(tmp_path / "coco", pictures[:1], [], VOC_CLASSES)
    if without == "annotations":
        content = read(coco_file(root))
        del content["annotations"]
        coco_file(root).write_text(json.dumps(content))
    out, report = tmp_path / "detections.json", tmp_path / "report.json"
    named = ["--data", root], ["--annotations", coco_file(root), "--images", root / "val2017"]
    for data in named:
        code, output = run_cli("eval", "--model", model_path, *data, "--detections", out, "--json", report)
        assert code == 0, output
        assert f"no score, since {reason}" in " ".join(output.split())
        assert len(json.loads(out.read_text())) == 100
        assert read(report)["headline"] is None and read(report)["numbers"] == {}
        out.unlink()


def test_a_detector_with_fewer_classes_runs_on_coco(
    run_cli: Run, model_path: Path, pictures: list[Image], tmp_path: Path
) -> None:
    objects = [Annotated(0, "zebra", (5, 5, 90, 90)), Annotated(0, "couch", (5, 5, 200, 200))]
    root = write_coco(tmp_path / "coco", pictures[:1], objects, COCO_CLASSES)
    code, output = run_cli(
        "eval", "--model", model_path, "--dataset", "coco", "--data-root", root, "--json", tmp_path / "out.json"
    )
    assert code == 0, output
    assert "left out 1 objects of classes that the detector does not know: zebra" in " ".join(output.split())
    assert read(tmp_path / "out.json")["objects"] == 1


def test_a_turned_photo_gives_the_detections_of_the_upright_one(
    run_cli: Run, model_path: Path, objects: list[Annotated], tmp_path: Path
) -> None:
    # Grey, in whole JPEG blocks of one level: a turn changes no pixel then.
    upright = np.repeat(blocks(240, 320, 80, 7)[:, :, :1], 3, axis=2)
    found = []
    for name, write in (("upright", write_image), ("turned", write_turned)):
        root, out = tmp_path / name, tmp_path / f"{name}.json"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        write(root / "JPEGImages" / "a.jpg", upright)
        write_annotation(root / "Annotations" / "a.xml", (240, 320), [voc_object("cat", (10, 10, 90, 90))])
        (root / "ImageSets" / "Main" / "test.txt").write_text("a\n")
        code, output = run_cli(
            "eval", "--model", model_path, "--dataset", "voc", "--data-root", root, "--detections", out
        )
        assert code == 0, output
        found.append(json.loads(out.read_text()))
    assert 0 < len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.01)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_a_box_without_area_is_left_out_with_a_note(run_cli: Run, voc: Path, model_path: Path) -> None:
    annotation = voc / "Annotations" / "p1.xml"
    write_annotation(annotation, (200, 300), [voc_object("cat", (20, 20, 20, 60))])
    code, output = run_cli("eval", "--model", model_path, "--dataset", "voc", "--data-root", voc)
    assert code == 0
    assert "note: left out 1 objects without width or height: p1.xml" in output
    assert "VOC07 mAP 75.00 %" in output


def break_image(data: bytes | None) -> Callable[[Path], str]:
    """Replace the picture p3.png; None removes it."""

    def change(root: Path) -> str:
        path = next(root.rglob("p3.png"))
        path.unlink() if data is None else path.write_bytes(data)
        return "p3"

    return change


def cut_image(root: Path) -> str:
    path = next(root.rglob("p3.png"))
    path.write_bytes(path.read_bytes()[:-200])
    return str(path)


def resize_image(root: Path) -> str:
    return str(write_image(next(root.rglob("p3.png")), blocks(100, 50, 10, 0)))


def other_classes_only(root: Path) -> str:
    for path in (root / "Annotations").iterdir():
        path.write_text(re.sub("<name>.*?</name>", "<name>zebra</name>", path.read_text()))
    return "its objects are of zebra, and the detector knows aeroplane, bicycle"


def write_text(name: str, text: str | None) -> Callable[[Path], str]:
    def change(root: Path) -> str:
        path = root / name
        path.unlink() if text is None else path.write_text(text)
        return str(path)

    return change


def annotation_without_box(root: Path) -> str:
    content = read(coco_file(root))
    content["annotations"][0]["bbox"] = []
    coco_file(root).write_text(json.dumps(content))
    return "annotation 500 of image p"


def without_categories(root: Path) -> str:
    content = read(coco_file(root))
    del content["categories"]
    coco_file(root).write_text(json.dumps(content))
    return f"{coco_file(root)}: has no 'categories'"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(break_image(None), id="missing image"),
        pytest.param(break_image(b""), id="zero-byte image"),
        pytest.param(break_image(b"<html>"), id="image that is none"),
        pytest.param(cut_image, id="truncated image"),
        pytest.param(resize_image, id="image of another size than annotated"),
        pytest.param(other_classes_only, id="classes that the detector does not know"),
        pytest.param(write_text("Annotations/p3.xml", None), id="missing annotation"),
        pytest.param(write_text("Annotations/p3.xml", "<annotation>"), id="broken annotation"),
        pytest.param(write_text("ImageSets/Main/test.txt", ""), id="empty list"),
        pytest.param(write_text("ImageSets/Main/test.txt", "p0\nghost\n"), id="list naming a missing image"),
    ],
)
def test_a_broken_voc_folder_is_one_sentence_naming_the_file(
    mistake: Mistake, voc: Path, model_path: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    named = change(voc)
    report = tmp_path / "report.json"
    line = mistake("eval", "--model", model_path, "--dataset", "voc", "--data-root", voc, "--json", report)
    assert named in line
    assert not report.exists(), "a score over fewer images would be a wrong score"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(break_image(None), id="missing image"),
        pytest.param(break_image(b""), id="zero-byte image"),
        pytest.param(cut_image, id="truncated image"),
        pytest.param(resize_image, id="image of another size than annotated"),
        pytest.param(annotation_without_box, id="annotation without box"),
        pytest.param(without_categories, id="no categories"),
        pytest.param(write_text("annotations/instances_val2017.json", None), id="missing annotation file"),
        pytest.param(write_text("annotations/instances_val2017.json", "{"), id="broken annotation file"),
        pytest.param(write_text("annotations/instances_val2017.json", "[]"), id="result file"),
        pytest.param(write_text("annotations/instances_val2017.json", '{"info": {}}'), id="other JSON"),
    ],
)
def test_a_broken_coco_folder_is_one_sentence_naming_the_file(
    mistake: Mistake, coco: Path, model_path: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    named = change(coco)
    report = tmp_path / "report.json"
    line = mistake("eval", "--model", model_path, "--dataset", "coco", "--data-root", coco, "--json", report)
    assert named in line
    assert not report.exists()


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_missing_data_folder_or_split_is_named(mistake: Mistake, model_path: Path, tmp_path: Path, kind: str) -> None:
    arguments = ["eval", "--model", model_path, "--dataset", kind, "--data-root"]
    assert str(tmp_path / "nosuch") in mistake(*arguments, tmp_path / "nosuch")
    assert str(tmp_path) in mistake(*arguments, tmp_path)


def test_a_missing_split_is_named_with_those_there_are(
    mistake: Mistake, voc_root: Path, coco_root: Path, model_path: Path
) -> None:
    arguments = ["eval", "--model", model_path, "--split", "trainval", "--dataset"]
    line = mistake(*arguments, "voc", "--data-root", voc_root)
    assert "trainval" in line and "lists there: test" in line
    assert "instances_trainval.json" in mistake(*arguments, "coco", "--data-root", coco_root)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(
            ["--data-shape", 512], "'--data-shape': 512 does not fit ssd_300_mobilenet0.25_voc", id="data shape"
        ),
        pytest.param(["--weights", "random"], "--weights", id="weights beside a model"),
        pytest.param(["--classes", "x.txt"], "--classes", id="classes beside a model"),
        pytest.param(["--backend", "torch"], "the torch backend does not run such a file", id="model file in torch"),
        pytest.param(["--network", NAME], f"{NAME} and ", id="network and model"),
    ],
)
def test_options_that_contradict_each_other_are_named(
    mistake: Mistake, voc_root: Path, model_path: Path, arguments: list[object], words: str
) -> None:
    line = mistake("eval", "--model", model_path, "--dataset", "voc", "--data-root", voc_root, *arguments)
    assert words in line


def test_neither_network_nor_model_is_a_mistake(mistake: Mistake, voc_root: Path) -> None:
    assert "name a model: a network, a run folder" in mistake("eval", "--dataset", "voc", "--data-root", voc_root)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_a_provider_is_not_silently_ignored_where_pytorch_runs(mistake: Mistake, voc_root: Path, provider: str) -> None:
    line = mistake(
        "eval",
        "--network",
        NAME,
        "--weights",
        "random",
        "--provider",
        provider,
        "--dataset",
        "voc",
        "--data-root",
        voc_root,
    )
    assert f"'--provider': {provider} is for ONNX Runtime" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA works here")
@pytest.mark.parametrize(
    "arguments",
    [["--network", NAME, "--weights", "random", "--cuda"], ["MODEL", "--cuda"], ["MODEL", "--provider", "cuda"]],
)
def test_a_gpu_that_is_not_there_is_no_silent_cpu(
    mistake: Mistake, voc_root: Path, model_path: Path, arguments: list[str]
) -> None:
    given = ["--model", model_path, *arguments[1:]] if arguments[0] == "MODEL" else arguments
    line = mistake("eval", *given, "--dataset", "voc", "--data-root", voc_root)
    assert "CUDA" in line


@pytest.mark.parametrize("option", ["--json", "--detections"])
@pytest.mark.parametrize("out", ["folder", "file/out.json"])
def test_a_result_that_cannot_be_written_is_named_before_the_work_begins(
    mistake: Mistake, voc_root: Path, tmp_path: Path, option: str, out: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    # The model file is missing too, which is noticed later.
    line = mistake(
        "eval", "--model", "nosuch.onnx", "--dataset", "voc", "--data-root", voc_root, option, tmp_path / out
    )
    assert str(tmp_path / out) in line


# --- parity ---------------------------------------------------------------------------------------------------


@pytest.fixture
def parity_on_voc(voc_root: Path) -> list[object]:
    return ["parity", "--network", NAME, "--weights", "random", "--dataset", "voc", "--data-root", voc_root]


def of_onnxruntime(report: dict) -> dict:
    """The comparison of ONNX Runtime on the CPU; with a GPU there are more."""
    (comparison,) = (item for item in report["comparisons"] if item["backend"] == "onnxruntime (CPU)")
    return comparison


def test_parity_of_the_exported_file_passes_with_exit_code_0(
    run_cli: Run, parity_on_voc: list[object], model_path: Path, tmp_path: Path
) -> None:
    code, output = run_cli(*parity_on_voc, "--model", model_path, "--batch-size", 2, "--json", tmp_path / "out.json")
    assert code == 0, output
    (row,) = (line for line in output.splitlines() if line.startswith("onnxruntime (CPU)  "))
    assert "75.0000 %" in row and "+0.0000 %" in row and "1.000000" in row and "  pass  " in row
    assert output.rstrip().endswith("PASS: nothing was lost")
    report = read(tmp_path / "out.json")
    assert report["passed"] and report["images"] == 5
    comparison = of_onnxruntime(report)
    assert comparison["agreement"] == pytest.approx(1)
    assert comparison["metric"] == pytest.approx(0.75) and comparison["metric_difference"] == pytest.approx(0)
    assert comparison["unmatched"] == 0 and comparison["matched"] > 300
    assert [image["image_id"] for image in comparison["images"]] == [f"p{index}" for index in range(5)]
    assert len(comparison["per_class_difference"]) == 20


def test_parity_on_images_needs_no_annotations(run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "parity", "--network", NAME, "--weights", "random", "--model", model_path,
        "--images", voc_root / "JPEGImages" / "p[0-3].png", "--limit", 3, "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0, output
    report = read(tmp_path / "out.json")
    assert report["images"] == 3 and report["reference"]["report"] is None
    assert of_onnxruntime(report)["metric"] is None


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        pytest.param(add_to_class_bias(0.5), "raw logits", id="one weight is off"),
        pytest.param(add_to_class_bias(float("nan")), "raw logits", id="one weight is NaN"),
        pytest.param(set_metadata("mean", "[0.5, 0.456, 0.406]"), "input tensor", id="another mean"),
    ],
)
def test_parity_of_a_changed_file_fails_with_exit_code_1_and_names_the_stage(
    run_cli: Run,
    parity_on_voc: list[object],
    model_path: Path,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    stage: str,
) -> None:
    path = changed_model(model_path, tmp_path / "changed.onnx", change)
    # However lenient the numbers at the end are, the stages count.
    code, output = run_cli(
        *parity_on_voc, "--model", path, "--tolerance", 1, "--min-agreement", 0, "--json", tmp_path / "out.json"
    )
    assert code == 1, output
    assert f"the difference starts at: {stage}" in output and output.rstrip().endswith("FAIL: see above")
    report = read(tmp_path / "out.json")
    assert not report["passed"] and of_onnxruntime(report)["first_failing_stage"] == stage


def test_parity_past_the_tolerance_of_the_metric_is_named(
    run_cli: Run, parity_on_voc: list[object], model_path: Path, objects: list[Annotated], tmp_path: Path
) -> None:
    def forget(model: onnx.ModelProto) -> None:
        """Lower the logits of the first object's class everywhere, so that it is found nowhere."""
        column = 1 + VOC_CLASSES.index(objects[0].class_name)
        for tensor in model.graph.initializer:
            if "class_predictors" in tensor.name and tensor.name.endswith("bias"):
                values = numpy_helper.to_array(tensor).copy()
                values.reshape(-1, 21)[:, column] -= 50
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    path = changed_model(model_path, tmp_path / "forgetful.onnx", forget)
    code, output = run_cli(*parity_on_voc, "--model", path, "--json", tmp_path / "out.json")
    assert code == 1
    # (0 + 1/2) / 2 instead of (1 + 1/2) / 2.
    assert "failed: the metric differs by -5.00e-01, at most 0.0001 is allowed" in output
    assert "unmatched, only in PyTorch" in output and "failed: agreement AP" in output
    comparison = of_onnxruntime(read(tmp_path / "out.json"))
    assert comparison["per_class_difference"][objects[0].class_name] == pytest.approx(-1)
    code, output = run_cli(*parity_on_voc, "--model", path, "--tolerance", 0.6)
    assert code == 1 and "the metric differs" not in output


def test_parity_of_nothing_is_a_mistake_and_no_pass(mistake: Mistake, strict_model: Path, tmp_path: Path) -> None:
    black = write_image(tmp_path / "black.png", np.zeros((50, 50, 3), np.uint8))
    classes = strict_model.parents[2] / "cells.txt"
    line = mistake(
        "parity",
        "--network",
        CUSTOM,
        "--weights",
        "random:5",
        "--classes",
        classes,
        "--model",
        strict_model,
        "--images",
        black,
    )
    assert "nothing was compared" in line


def test_parity_with_another_networks_file_is_a_mistake(
    mistake: Mistake, parity_on_voc: list[object], strict_model: Path
) -> None:
    line = mistake(*parity_on_voc, "--model", strict_model)
    assert str(strict_model) in line and CUSTOM in line


@pytest.mark.parametrize("arguments", [[], ["--dataset", "voc", "--images", "x.png"]])
def test_parity_needs_a_data_set_or_images(mistake: Mistake, arguments: list[str]) -> None:
    assert "name either --data or --images" in mistake("parity", "--network", NAME, "--weights", "random", *arguments)


def test_parity_that_cannot_write_its_report_says_so_first(
    mistake: Mistake, parity_on_voc: list[object], tmp_path: Path
) -> None:
    assert str(tmp_path) in mistake(*parity_on_voc, "--model", "nosuch.onnx", "--json", tmp_path)


@pytest.mark.parametrize("option", ["--tolerance", "--min-agreement"])
def test_parity_refuses_tolerances_below_0(mistake: Mistake, parity_on_voc: list[object], option: str) -> None:
    assert "-0.5" in mistake(*parity_on_voc, option, "-0.5")


def test_parity_lists_what_one_backend_cannot_take_and_goes_on(
    run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for this CPU, beside a backend that refuses it as a GPU's does."""

    def open_on_a_gpu(model: Any, options: RunOptions) -> Runner:
        metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
        check_runs_here(metadata, str(model), "1", on_cpu=False)
        return BACKENDS["onnxruntime"].open(model, dataclasses.replace(options, device="cpu"))

    toy = dataclasses.replace(BACKENDS["onnxruntime"], name="toy", devices=("gpu",), open=open_on_a_gpu)
    toy = dataclasses.replace(toy, probe=lambda device: Finding(works=True, detail=device))
    monkeypatch.setitem(BACKENDS._rows, "toy", toy)
    for_cpu = STEPS["cpu"].apply(shutil.copy(model_path, tmp_path / "m.onnx"), tmp_path).path
    command = ("parity", "--network", NAME, "--weights", "random", "--images", voc_root / "JPEGImages" / "p0.png")
    code, output = run_cli(*command, "--model", for_cpu, "--model", model_path, "--json", tmp_path / "out.json")
    assert code == 0, output
    (line,) = (line for line in output.splitlines() if line.startswith("not run: toy: "))
    assert str(for_cpu) in line and "was rewritten for a CPU and does not run on a GPU" in line
    # Once the file for the CPU; the other file in both.
    assert len(read(tmp_path / "out.json")["comparisons"]) >= 3
    assert output.rstrip().endswith("PASS: nothing was lost")


def test_parity_of_a_file_that_nothing_takes_is_a_mistake(
    mistake: Mistake, voc_root: Path, model_path: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    line = mistake(
        "parity", "--network", NAME, "--weights", "random", "--images", voc_root / "JPEGImages" / "p0.png",
        "--model", model_path, "--model", broken,
    )  # fmt: skip
    assert f"{broken}: nothing beside the reference runs it here (onnxruntime (cpu): " in line


@pytest.mark.parametrize(
    "command",
    [
        ("doctor",),
        ("models",),
        ("parity", "--network", NAME, "--weights", "random", "--model", "@", "--images", "IMAGE"),
        ("benchmark", "--model", "@", "--rounds", 1, "--batch-sizes", "1,2", "--images", "IMAGE"),
    ],
    ids=lambda command: command[0],
)
def test_no_line_is_wider_than_a_terminal_of_80_columns(
    run_cli: Run, model_path: Path, voc_root: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[object, ...]
) -> None:
    stands_for = {"@": model_path, "IMAGE": voc_root / "JPEGImages" / "p0.png"}
    arguments = [stands_for.get(str(argument), argument) for argument in command]
    monkeypatch.setenv("COLUMNS", "80")
    code, output = run_cli(*arguments)
    assert code == 0, output
    # Nothing of it is a path, which would stay whole.
    assert [line for line in output.splitlines() if len(line) > 80] == []
    # In a pipe a row stays a line.
    monkeypatch.delenv("COLUMNS")
    assert max(len(line) for line in run_cli(*arguments)[1].splitlines()) > 80


# --- detect ---------------------------------------------------------------------------------------------------


def test_detect_writes_pictures_and_json_and_prints_their_names(
    run_cli: Run, voc_root: Path, model_path: Path, torch_detector: object, pictures: list[Image], tmp_path: Path
) -> None:
    folder = voc_root / "JPEGImages"
    code, output = run_cli(
        "detect", "--model", model_path, "--images", folder / "p0.png", folder / "p1.png", folder / "p2.png",
        "--out", tmp_path / "out", "--threshold", 0.01, "--batch-size", 2,
    )  # fmt: skip
    assert code == 0, output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "detections.json",
        "p0.png",
        "p1.png",
        "p2.png",
    ]
    expected = load_detector(NAME, weights="random").detect(pictures[:3])
    for image, found in zip(read(tmp_path / "out" / "detections.json")["images"], expected, strict=True):
        scores = [row["score"] for row in image["detections"]]
        np.testing.assert_allclose(scores, found.scores, atol=1e-5)
        assert f"{tmp_path / 'out' / Path(image['file']).name}  {len(found)} detections of at least 0.01" in output
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "p1.png")), 0)
    assert (cv2.imread(str(tmp_path / "out" / "p0.png")) != pictures[0][:, :, ::-1]).any()


def test_detect_with_a_network_and_a_file_of_weights(
    run_cli: Run, voc_root: Path, network: SSD, tmp_path: Path
) -> None:
    weights = tmp_path / "some.pth"
    torch.save(network.state_dict(), weights)
    code, output = run_cli(
        "detect", "--network", NAME, "--weights", weights, "--images", voc_root / "JPEGImages" / "p0.png",
        "--out", tmp_path / "out", "--threshold", 0.01,
    )  # fmt: skip
    assert code == 0, output
    content = read(tmp_path / "out" / "detections.json")
    assert content["backend"] == "torch (cpu)" and content["detector"]["weights"] == "some.pth"
    assert len(content["images"][0]["detections"]) == 100


def test_detect_goes_on_past_bad_images_and_ends_with_exit_code_2(
    run_cli: Run, model_path: Path, pictures: list[Image], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    good = write_image(folder / "good.png", pictures[0])
    write_image(folder / "narrow.png", blocks(10000, 20, 10, 0))
    (folder / "cut.png").write_bytes(good.read_bytes()[:-300])
    (folder / "zero.jpg").touch()
    code, output = run_cli("detect", "--model", model_path, "--images", folder, "--out", tmp_path / "out")
    assert code == 2
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert [error.split(": ")[1] for error in errors] == [str(folder / "cut.png"), str(folder / "zero.jpg")]
    assert "Traceback" not in output
    content = read(tmp_path / "out" / "detections.json")
    assert [Path(image["file"]).name for image in content["images"]] == ["good.png", "narrow.png"]
    assert [f"Error: {error}" for error in content["errors"]] == errors
    assert (tmp_path / "out" / "good.png").is_file() and (tmp_path / "out" / "narrow.png").is_file()


def test_detect_writes_what_is_asked_for_and_takes_thresholds_at_run_time(
    run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    given = [
        "detect",
        model_path,
        voc_root / "JPEGImages" / "p0.png",
        "--out",
        tmp_path / "out",
        "--score-threshold",
        0.02,
    ]
    code, output = run_cli(*given, "--max-detections", 7, "--save", "json, csv", "--json", tmp_path / "out.json")
    assert code == 0, output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.json", "detections.csv"}
    (image,) = read(tmp_path / "out" / "detections.json")["images"]
    assert len(image["detections"]) == 7
    assert read(tmp_path / "out.json")["pictures"] == [{"path": image["file"], "detections": 7}]
    name = image["detections"][0]["class_name"]
    code, output = run_cli(*given, "--class-threshold", f"{name}=0.99")
    assert code == 0, output
    content = read(tmp_path / "out" / "detections.json")
    assert name not in {row["class_name"] for row in content["images"][0]["detections"]}
    assert content["class_thresholds"][name] == 0.99 and content["threshold"] == 0.02
    assert "of at least 0.02 to 0.99, as its class has it" in output


def test_detect_that_finds_nothing_says_what_to_try(
    run_cli: Run, model_path: Path, voc_root: Path, tmp_path: Path
) -> None:
    given = ["detect", model_path, voc_root / "JPEGImages" / "p0.png", "--out", tmp_path / "out"]
    code, output = run_cli(*given, "--score-threshold", 0.99)
    assert code == 0, output
    found = re.search(r"highest score (\S+); try --score-threshold (\S+)", output)
    assert found is not None and float(found[2]) < float(found[1]) < 0.99
    code, output = run_cli(*given, "--score-threshold", found[2])
    assert code == 0 and "highest score" not in output and "  0 detections" not in output


def test_detect_cuts_tiles_of_an_exported_model(
    run_cli: Run, model_path: Path, pictures: list[Image], tmp_path: Path
) -> None:
    large = np.tile(pictures[0], (2, 2, 1))
    given = [
        "detect",
        model_path,
        write_image(tmp_path / "a.png", large),
        "--out",
        tmp_path / "out",
        "--threshold",
        0.05,
    ]
    found = []
    for tiles in ([], ["--tiles", max(large.shape) * 2 // 3]):
        code, output = run_cli(*given, *tiles, "--save", "json", "--batch-size", 4)
        assert code == 0, output
        found.append(read(tmp_path / "out" / "detections.json")["images"][0]["detections"])
    assert len(found[1]) > 0 and found[0] != found[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "FOLDER/nosuch.png"], "FOLDER/nosuch.png"),
        (["--images", "FOLDER/*.gif"], "FOLDER/*.gif"),
        (["--images", "FOLDER/empty"], "FOLDER/empty"),
        (["--images", "FOLDER/a.png", "--threshold", "1.5"], "1.5"),
        (["--images", "FOLDER/a.png", "--threshold", "0.001"], "export it again with"),
        (["--images", "FOLDER/a.png", "--class-threshold", "zebra=0.4"], "'zebra' is no class"),
        (["--images", "FOLDER/a.png", "--class-threshold", "dog"], "as in dog=0.4 (--class-threshold)"),
        (["--images", "FOLDER/a.png", "--class-threshold", "dog=0.4x"], "'dog=0.4x' is no threshold"),
        (["--images", "FOLDER/a.png", "--class-threshold", "dog=nan"], "expected 0 to 1"),
        (["--images", "FOLDER/a.png", "--max-detections", "101"], "gives 1 to 100"),
        (["--images", "FOLDER/a.png", "--max-detections", "0"], "1 or more"),
        (["--images", "FOLDER/a.png", "--save", "gif"], "choose of pictures, video, json"),
        (["--images", "FOLDER/a.png", "--save", ","], "no kind of result"),
        (["--images", "FOLDER/a.png", "--save", "video"], "video is made of video and live sources"),
        (["--images", "FOLDER/a.png", "--track"], "no order in time"),
        (["--images", "FOLDER/a.png", "--overlap", "0.3"], "give their side, too"),
        (["--images", "FOLDER/a.png", "--tiles", "8"], "32 or more"),
        (["--images", "FOLDER/a.png", "--out", "FOLDER"], "FOLDER/a.png"),
        (["--images", "FOLDER/a.png", "--out", "FOLDER/a.png"], "FOLDER/a.png"),
        (["--images", "FOLDER/a.png", "--model", "FOLDER/broken.onnx"], "broken.onnx"),
    ],
)
def test_detect_names_what_is_wrong(
    mistake: Mistake, model_path: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    image = write_image(tmp_path / "a.png", blocks(20, 20, 5, 0))
    before = image.read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.onnx").write_text("{}")
    given = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    if "--out" not in given:
        given += ["--out", str(tmp_path / "out")]
    if "--model" not in given:
        given += ["--model", str(model_path)]
    assert words.replace("FOLDER", str(tmp_path)) in mistake("detect", *given)
    assert image.read_bytes() == before and not (tmp_path / "out").exists()
