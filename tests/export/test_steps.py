"""The table of export steps: what each makes is held against what it was made of, and refused where it is not alike."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export import cpu_graph, fixed_batch, opset, pixel_input, quantize, raw_outputs, winograd
from export.file_metadata import CPU_GRAPH_KEY, INT8_KEY, WINOGRAD_KEY
from export.graph import Difference, ExportedGraph
from export.onnx import export_onnx
from export.quantize_options import QuantizeOptions
from export.step import OnnxStep, OnProgress, Rewritten
from export.steps import STEPS
from ssd_train import build_network
from ssd_train.errors import BackendError, DatasetError, ModelError

NETWORK = "ssd_300_mobilenet0.25_custom"
MODULES = {
    "int8": quantize,
    "winograd": winograd,
    "cpu": cpu_graph,
    "uint8": pixel_input,
    "uint8-bgr": pixel_input,
    "raw": raw_outputs,
    "batch": fixed_batch,
    "opset": opset,
}
SETTINGS = {"batch": 3, "opset": 21}
ONNX_STEPS = {name: step for name, step in STEPS.items() if isinstance(step, OnnxStep)}


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(build_network(NETWORK, "shapes"), tmp_path_factory.mktemp("float"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "noise.png"), np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    return folder


def settings_of(name: str, pictures: Path) -> Any:
    return QuantizeOptions(calibration_data=pictures) if name == "int8" else SETTINGS.get(name)


def perturbed(model: onnx.ModelProto, change: float) -> onnx.ModelProto:
    """A copy whose predictors' weights are another multiple of what they were."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for constant in copy.graph.initializer:
        if "predictor" in constant.name and constant.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(constant) * np.float32(change)
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    return copy


# Twice its own deviation for int8; a hundredth for float32; and for (almost) bit-equality a few steps of float32's.
@pytest.mark.parametrize(
    ("name", "change"),
    [("int8", -1), ("winograd", 1.01), *((name, 1.00001) for name in MODULES if name not in ("int8", "winograd"))],
)
def test_a_step_whose_result_computes_something_else_is_refused(
    name: str, change: float, float_file: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
        return Rewritten(model=perturbed(source.model, change))

    assert set(MODULES) == set(ONNX_STEPS), "every step is broken here once"
    monkeypatch.setattr(MODULES[name], "rewrite", broken)
    with pytest.raises(ModelError, match=rf"fp32\.onnx: {name} gives other \w+ \(.*; nothing was written"):
        STEPS[name].apply(float_file, tmp_path / "out", settings_of(name, pictures))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ONNX_STEPS)
def test_a_result_with_nan_is_refused(
    name: str, float_file: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        MODULES[name], "rewrite", lambda source, *_: Rewritten(model=perturbed(source.model, float("nan")))
    )
    with pytest.raises(ModelError, match="nothing was written"):
        STEPS[name].apply(float_file, tmp_path / "out", settings_of(name, pictures))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("step", "key", "before"),
    [
        ("int8", WINOGRAD_KEY, "winograd"),
        ("int8", CPU_GRAPH_KEY, "cpu"),
        ("winograd", CPU_GRAPH_KEY, "cpu"),
        ("cpu", CPU_GRAPH_KEY, "cpu"),
        ("uint8", CPU_GRAPH_KEY, "cpu"),
        ("batch", CPU_GRAPH_KEY, "cpu"),
    ],
)
def test_a_step_does_not_take_what_another_has_rewritten(
    step: str, key: str, before: str, float_file: Path, pictures: Path, tmp_path: Path
) -> None:
    model = onnx.load(float_file)
    model.metadata_props.add(key=key, value="{}")
    path = tmp_path / "rewritten.onnx"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=f"is a result of {before} already, which {step} does not take"):
        STEPS[step].apply(path, tmp_path / "out", settings_of(step, pictures))


def test_a_step_takes_one_precision(float_file: Path, pictures: Path, tmp_path: Path) -> None:
    model = onnx.load(float_file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | {"precision": "int8", INT8_KEY: "portable"})
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    for step in ("int8", "winograd"):
        with pytest.raises(ModelError, match=f"computes in int8, but {step} takes fp32"):
            STEPS[step].apply(path, tmp_path / "out", settings_of(step, pictures))


@pytest.mark.parametrize("name", ONNX_STEPS)
@pytest.mark.parametrize(("content", "words"), [(None, "there is no such model file"), (b"no model", "not a usable")])
def test_a_source_that_is_no_model_is_one_sentence(
    name: str, content: bytes | None, words: str, pictures: Path, tmp_path: Path
) -> None:
    source = tmp_path / "model.onnx"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{words}"):
        STEPS[name].apply(source, tmp_path, settings_of(name, pictures))


def test_files_are_named_after_their_source_and_the_step() -> None:
    names = {
        name: step.path_for(Path("in/net.fp32.onnx"), Path("out"), SETTINGS.get(name))
        for name, step in ONNX_STEPS.items()
    }
    assert {name: str(path) for name, path in names.items()} == {
        "int8": "out/net.int8.onnx",
        "winograd": "out/net.fp32.winograd.onnx",
        "cpu": "out/net.fp32.cpu.onnx",
        "uint8": "out/net.fp32.uint8.onnx",
        "uint8-bgr": "out/net.fp32.uint8-bgr.onnx",
        "raw": "out/net.fp32.raw.onnx",
        "batch": "out/net.fp32.batch3.onnx",
        "opset": "out/net.fp32.opset21.onnx",
    }
    assert ONNX_STEPS["int8"].path_for(Path("mine.onnx"), Path()) == Path("mine.int8.onnx")


def test_a_row_that_checks_nothing_cannot_be_made() -> None:
    row: dict[str, Any] = dict(name="toy", module="toy", takes=None, gives=None, follows=(), error="largest", allowed=1)
    with pytest.raises(ValueError, match="the export step toy is checked on nothing"):
        OnnxStep(compared=(), **row)


def test_the_table_is_light() -> None:
    code = "import sys, export.steps; print({'onnx', 'onnxruntime', 'torch', 'numpy', 'cv2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_is_wrong_with_the_settings_is_told_before_there_is_a_source(tmp_path: Path) -> None:
    check = STEPS["int8"].check
    for settings in (None, QuantizeOptions()):
        with pytest.raises(BackendError, match="int8 needs calibration_data") as caught:
            check(settings)
        assert caught.value.arguments == ("calibration_data",)
    with pytest.raises(DatasetError, match="there is no such folder"):
        check(QuantizeOptions(calibration_data=tmp_path / "nowhere"))
    with pytest.raises(DatasetError, match="has no image to calibrate on"):
        check(QuantizeOptions(calibration_data=tmp_path))


@pytest.mark.parametrize(
    ("values", "words", "arguments"),
    [
        ({"max_drop": 1.0}, "max_drop 1 needs sensitivity", ("max_drop", "sensitivity")),
        ({"max_drop": 0.0}, "max_drop 0 needs sensitivity", ("max_drop", "sensitivity")),
        ({"sensitivity": True, "max_drop": 101.0}, "max_drop 101.0: expected 0 to 100", ("max_drop",)),
        ({"sensitivity": True, "max_drop": float("nan")}, "max_drop nan: expected 0 to 100", ("max_drop",)),
        ({"calibration_images": 0}, "calibration_images 0: expected 1 or more", ("calibration_images",)),
        ({"calibration_method": "best"}, "expected minmax or entropy or percentile", ("calibration_method",)),
        ({"int8_target": "gpu"}, "int8_target gpu: expected portable or cpu", ("int8_target",)),
    ],
)
def test_settings_of_int8_are_held_to_their_ranges(
    values: dict[str, Any], words: str, arguments: tuple[str, ...]
) -> None:
    with pytest.raises(BackendError, match=words) as caught:
        QuantizeOptions(**values)
    assert caught.value.arguments == arguments


def test_a_difference_is_a_share_of_the_spread() -> None:
    expected = np.array([0.0, 2.0])  # spread 1
    found = Difference.between(expected, np.array([0.0, 2.5]))
    assert (found.largest, found.rms) == (pytest.approx(0.5), pytest.approx(0.5 / np.sqrt(2)))
    assert Difference.between(expected, expected) == Difference(largest=0, rms=0)
    assert Difference.between(expected, np.zeros(3)).largest == float("inf")
    assert not Difference.between(expected, np.array([0, np.nan])).largest <= 1e9
