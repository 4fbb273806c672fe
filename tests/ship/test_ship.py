"""A whole shipment: what it makes, how it goes on, what its verdict rests on."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from shipment import INT8, NETWORK, Command, Shipment, spoil, stages_of

from ssd_deploy import load_detector
from ssd_deploy.ship.stages import KEPT_NAME
from ssd_train.files import sha256_of_file

# What two runs of the same differ in.
TIMES = ("latency", "times_float32", "made_at", "fastest")


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        # The page shows times, too.
        values = {name: each for name, each in value.items() if name not in TIMES}
        if value.get("path") == "certificate.html":
            return value["path"]
        return {name: without_times(each) for name, each in values.items()}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_interrupted_in_every_stage_it_certifies_the_same(interrupted: Shipment, whole: Shipment) -> None:
    assert interrupted.stages == (
        "onnx fp32",
        "cpu fp32, this CPU's graph",
        "cpu int8 for the CPU",
        "cpu int8 for the CPU, this CPU's graph",
        "reference torch (cpu)",
        f"compare onnx/{NETWORK}.fp32.onnx",
        f"compare cpu/{NETWORK}.fp32.cpu.onnx",
        f"compare {INT8}",
        f"compare cpu/{NETWORK}.int8.cpu.onnx",
        "samples",
        "time",
    )
    assert without_times(interrupted.certificate) == without_times(whole.certificate)
    # Neither half a file is left, nor anything that the certificate does not know.
    known = {file["path"] for file in whole.certificate["files"]} | {"certificate.json"}
    for each in (interrupted, whole):
        there = {path.relative_to(each.folder).as_posix() for path in each.folder.rglob("*") if path.is_file()}
        assert {name for name in there if not name.startswith(KEPT_NAME)} == known


def test_the_certificate_says_what_was_made_and_run(whole: Shipment, shapes: Path) -> None:
    made = whole.certificate
    assert (made["verdict"], made["metric"], made["data"]["images"]) == ("PASS", "VOC07 mAP", 5)
    assert {check["file"] for check in made["checks"]} == {
        file["path"] for file in made["files"] if file["verdict"] is not None
    }
    for file in made["files"]:
        assert file["sha256"] == sha256_of_file(whole.folder / file["path"])
    for check in [made["reference"], *made["checks"]]:
        times = check["latency"]["network"]
        assert 0 < times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]
    # Of float32 nothing is lost, and what is chosen is one of those that ran.
    floats = [check for check in made["checks"] if check["precision"] == "fp32"]
    assert [(check["lost"], check["changed"]) for check in floats] == [(0, 0)] * 2
    assert made["fastest"]["file"] in {check["file"] for check in made["checks"]}
    # None of the four training pictures is among the scored ones, and int8 says the same hash of them.
    int8 = {entry.key: entry.value for entry in onnx.load(whole.folder / INT8).metadata_props}
    assert (made["data"]["calibration_images"], int8["calibration_images"]) == (4, "4")
    assert made["data"]["calibration_sha256"] == int8["calibration_sha256"]
    assert "split train" in made["data"]["calibration"]
    # Winograd's convolutions gain nothing in so small a network.
    assert {each["what"] for each in made["not_run"]} >= {"fp32, Winograd"}


def test_the_answers_that_travel_along_are_those_of_pytorch(whole: Shipment) -> None:
    detector = load_detector(NETWORK, weights="shapes")
    for sample in whole.certificate["samples"]:
        found = detector.detect(str(whole.folder / sample["file"]))
        np.testing.assert_allclose(found.boxes, sample["boxes"], atol=1e-3)
        assert found.labels.tolist() == sample["labels"]


def test_a_second_run_does_nothing_again(whole: Shipment, tmp_path: Path, command: Command) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    code, output = command(folder)
    stages = stages_of(output)
    assert code == 0
    # Of what gains nothing there is nothing to keep.
    assert [text for text in stages if not text.endswith((", as before", "Winograd"))] == [stages[-1]]
    assert re.fullmatch(r"stage (\d+) of \1, \d+ s: certificate", stages[-1])


def test_a_file_that_was_changed_is_made_anew(whole: Shipment, tmp_path: Path, command: Command) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    (folder / INT8).write_bytes(b"no model")
    code, _ = command(folder)
    assert code == 0
    assert sha256_of_file(folder / INT8) == sha256_of_file(whole.folder / INT8)


def test_a_spoilt_file_fails_and_says_so_everywhere(whole: Shipment, tmp_path: Path, command: Command) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    spoil(folder / INT8)
    # A fake: as if the step itself had written this.
    kept = folder / KEPT_NAME / "cpu-int8-for-the-CPU.json"
    state = json.loads(kept.read_text())
    state["files"][INT8] = sha256_of_file(folder / INT8)
    kept.write_text(json.dumps(state))
    code, output = command(folder)
    made = json.loads((folder / "certificate.json").read_text())
    verdicts = {file["path"]: file["verdict"] for file in made["files"]}
    assert (code, made["verdict"], verdicts[INT8], verdicts[f"onnx/{NETWORK}.fp32.onnx"]) == (1, "FAIL", "FAIL", "PASS")
    # However its line breaks.
    assert INT8 in output.partition("\nFAIL: ")[2]
    assert made["fastest"]["file"].startswith(("onnx/", f"cpu/{NETWORK}.fp32"))
    page = (folder / "certificate.html").read_text()
    assert ">FAIL</strong>" in page
    assert "Do not use this folder" in page


def test_other_limits_judge_again_and_make_nothing_again(whole: Shipment, tmp_path: Path, command: Command) -> None:
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    _, output = command(folder, "--max-drop", "100")
    again = [text for text in stages_of(output) if not text.endswith((", as before", "Winograd"))]
    assert all(": compare " in text for text in again[:-1])
    assert len(again) == 5
    made = json.loads((folder / "certificate.json").read_text())
    assert "int8 may lose 100 points of the metric" in made["criteria"]["text"]


def test_what_cannot_be_made_is_recorded_and_strict_fails(whole: Shipment, tmp_path: Path, command: Command) -> None:
    """TensorRT's own builder needs a GPU."""
    folder = shutil.copytree(whole.folder, tmp_path / "out")
    for strict, expected in (((), 0), (("--strict",), 1)):
        code, _ = command(folder, *strict, targets="cpu,tensorrt")
        made = json.loads((folder / "certificate.json").read_text())
        assert code == expected
        assert [each["why"] for each in made["not_run"] if each["what"].startswith("tensorrt ")]


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("paper", "target 'paper' does not exist; choose onnx, cpu, tensorrt, tensorrt-rtx"),
        ("cpu:89", "target 'cpu:89': cpu takes nothing behind a colon"),
        ("tensorrt-rtx:ada", "expected compute capabilities, as in tensorrt-rtx:75+89"),
        ("onnx,onnx", "names a target twice"),
        (",", "no target is named"),
    ],
)
def test_a_target_that_is_none_is_a_sentence(
    tmp_path: Path, command: Command, capfd: Any, targets: str, sentence: str
) -> None:
    code, output = command(tmp_path / "out", targets=targets)
    assert code == 2
    assert sentence in output + capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, command: Command, capfd: Any) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    code, output = command(tmp_path)
    assert code == 2
    assert "has other files; name an empty folder, or one that ship began" in output + capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
