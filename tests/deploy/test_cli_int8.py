"""Int8 on the command line, with the detector that ships with the package and drawn pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from ssd_train.datasets.generated_files import write_shapes
from ssd_train.weights.load import SHAPES_WEIGHTS

NAME = "ssd_300_mobilenet0.25_custom"
NETWORK = ("--network", NAME, "--weights", "shapes")
Run = Callable[..., tuple[int, str]]
Mistake = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", train=60, val=20, seed=1)


def test_export_calibrates_and_every_command_takes_the_file(run_cli: Run, data: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "export", *NETWORK, "--precision", "int8", "--calibration-data", data / "JPEGImages",
        "--calibration-images", 10, "--calibration-method", "minmax", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    model = tmp_path / f"{NAME}.int8.onnx"
    assert str(model) in output.splitlines() and "calibrated on 10 images (minmax)" in output
    metadata = {entry.key: entry.value for entry in onnx.load(model).metadata_props}
    assert (metadata["calibration_method"], metadata["int8_target"]) == ("minmax", "portable")

    voc = ("--dataset", "voc", "--data-root", data, "--split", "val")
    code, output = run_cli("eval", "--model", model, *voc)
    assert code == 0 and "int8" in output and "VOC07 mAP" in output
    code, output = run_cli("benchmark", "--model", model, "--rounds", 1, "--batch-sizes", 1)
    assert code == 0 and "int8" in output
    picture = next((data / "JPEGImages").glob("*.jpg"))
    code, output = run_cli("detect", "--model", model, "--images", picture, "--out", tmp_path / "found")
    assert code == 0 and "detections of at least 0.5" in output


def test_an_int8_file_for_this_cpu_is_written_beside_the_portable_one(run_cli: Run, data: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "export", *NETWORK, "--precision", "int8", "--calibration-data", data / "JPEGImages",
        "--calibration-images", 10, "--optimize-for-cpu", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    model, for_cpu = tmp_path / f"{NAME}.int8.onnx", tmp_path / f"{NAME}.int8.cpu.onnx"
    assert output.splitlines()[-2:] == [str(model), str(for_cpu)]
    code, output = run_cli(
        "parity", SHAPES_WEIGHTS, model, for_cpu, "--images", data / "JPEGImages", "--limit", 40,
        "--json", tmp_path / "parity.json",
    )  # fmt: skip
    # Rewritten, it answers as the portable one, and ten pictures are enough to calibrate on: 8 of 125 changed.
    assert code == 0, output
    last = output.splitlines()[-1]
    assert last.startswith("PASS: int8: the detections decided: ") and "10 % may" in last
    report = json.loads((tmp_path / "parity.json").read_text())
    of_model, of_cpu = (each for each in report["comparisons"] if each["backend"] == "onnxruntime (CPU)")
    assert of_cpu["changes"] == of_model["changes"] and of_cpu["changes"]["total"] > 100
    assert of_cpu["agreement"] == pytest.approx(of_model["agreement"])


def test_parity_compares_three_precisions_in_one_table(run_cli: Run, data: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "parity", *NETWORK, "--precision", "fp32,fp16,int8", "--calibration-data", data / "JPEGImages",
        "--calibration-images", 10, "--images", data / "JPEGImages", "--limit", 40, "--json", tmp_path / "parity.json",
        "--backends", "onnxruntime",
    )  # fmt: skip
    # Ten pictures have 34 detections, of which int8 may lose 3; these have 125, where one more decides nothing.
    assert code == 0, output
    rows = [line.split() for line in output.splitlines() if line.startswith("onnxruntime (CPU)  ")]
    assert [row[2] for row in rows] == ["fp32", "fp16", "int8"]
    last = output.splitlines()[-1]
    assert last.startswith("PASS: fp32: nothing was lost; fp16: the detections decided: ")
    assert "int8: the detections decided: " in last
    report = json.loads((tmp_path / "parity.json").read_text())
    assert report["verdict"] == last
    assert [each["verdict"]["limit"] for each in report["comparisons"]] == [None, 0.02, 0.1]
    agreements = [each["agreement"] for each in report["comparisons"]]
    # Another arithmetic, less and less like the reference, and no file that is float behind its name.
    assert agreements[0] > 0.999 > agreements[2] > 0.5


def test_sensitivity_writes_a_table_and_a_chart(run_cli: Run, data: Path, tmp_path: Path) -> None:
    code, output = run_cli(
        "export", *NETWORK, "--precision", "int8", "--calibration-data", data / "JPEGImages",
        "--calibration-images", 3, "--sensitivity", "--int8-target", "cpu", "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, output
    assert "all layers int8: " in output and "0 in float" in output
    table = json.loads((tmp_path / f"{NAME}.int8.sensitivity.json").read_text())
    assert len(table["layer_drops"]) == 47 and table["images"] == 3
    assert cv2.imread(str(tmp_path / f"{NAME}.int8.sensitivity.png")) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "int8"], "int8 needs calibration_data, a folder"),
        (["--calibration-images", "5"], "'--calibration-images': needs --precision int8"),
        (["--precision", "fp16", "--int8-target", "cpu"], "'--int8-target': needs --precision int8"),
        (["--precision", "int8", "--calibration-data", "{here}", "--max-drop", "1"], "max_drop 1 needs sensitivity"),
        (
            ["--precision", "int8", "--calibration-data", "{here}", "--sensitivity", "--max-drop", "-1"],
            "'--max-drop': -1.0 is not 0 to 100",
        ),
        (
            ["--precision", "int8", "--calibration-data", "{here}", "--int8-target", "cpu", "--format", "tensorrt"],
            "TensorRT takes the portable graph",
        ),
        (["--format", "tensorrt", "--optimize-for-cpu"], "'--optimize-for-cpu': needs --format onnx"),
        (["--format", "tensorrt", "--winograd"], "'--winograd': needs --format onnx"),
        (["--precision", "fp16", "--winograd"], "'--winograd': needs --precision fp32"),
        (["--precision", "int8", "--calibration-data", "{here}"], "has no image to calibrate on"),
        (["--precision", "int8", "--calibration-data", "{here}/nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(
    mistake: Mistake, tmp_path: Path, options: list[str], words: str
) -> None:
    given = [option.format(here=tmp_path) for option in options]
    assert words in mistake("export", *NETWORK, *given, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_fewer_images_than_asked_for_are_a_mistake(mistake: Mistake, data: Path, tmp_path: Path) -> None:
    line = mistake(
        "export", *NETWORK, "--precision", "int8", "--calibration-data", data, "--calibration-images", 81,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert "has 80 images that can be read, 81 were asked for; ask for 80" in line
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_color_are_warned_of(run_cli: Run, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "gray.png"), np.full((90, 90, 3), 90, np.uint8))
    code, output = run_cli(
        "export", *NETWORK, "--precision", "int8", "--calibration-data", tmp_path / "flat", "--out", tmp_path
    )
    assert code == 0 and "warning: 1 of 1 calibration images are of one color; on 4 drawn pictures" in output


def test_a_network_in_int8_is_only_to_be_had_as_a_file(mistake: Mistake, data: Path) -> None:
    line = mistake("parity", *NETWORK, "--precision", "int8", "--images", data / "JPEGImages")
    assert "int8 needs calibration_data" in line
