"""The script that asks cuDNN for plans: which convolutions it takes out of a file, tried on the CPU."""

import importlib
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssd_deploy.backends.probes import probe_onnxruntime

FOLDER = Path(__file__).parents[1] / "benchmarks"
HALF = TensorProto.FLOAT16

# Channels in and out, and what is no default: as in SSD's networks, the second and the last alike.
LAYERS = [
    (3, 12, {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    (12, 12, {"pads": (1, 1, 1, 1), "group": 12}),
    (12, 12, {"pads": (1, 1, 1, 1), "group": 12}),
    (12, 16, {"pads": (6, 6, 6, 6), "dilations": (6, 6)}),
    (16, 18, {"strides": (2, 2), "pads": (0, 0, 1, 1)}),
]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("cudnn_plans")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    nodes, weights = [], []
    for number, (inputs, outputs, attributes) in enumerate(LAYERS):
        shape = (outputs, inputs // attributes.get("group", 1), 3, 3)
        weights.append(numpy_helper.from_array(np.ones(shape, np.float16), f"weight{number}"))
        names = [f"value{number}", f"weight{number}"]
        if number == 0:
            weights.append(numpy_helper.from_array(np.ones(outputs, np.float16), "bias"))
            names.append("bias")
        nodes.append(helper.make_node("Conv", names, [f"value{number + 1}"], f"conv{number}", **attributes))
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("value0", HALF, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("value5", HALF, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def features_of(content: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    (features,) = session.run(None, {images.name: np.ones(images.shape, np.float16)})
    return features


def test_distinct_convolutions_are_found_with_their_nodes(script: ModuleType, model: onnx.ModelProto) -> None:
    found = script.distinct_convolutions(model)
    assert list(found.values()) == [["conv0"], ["conv1", "conv2"], ["conv3"], ["conv4"]]
    assert [str(convolution) for convolution in found] == [
        "3x32x32 -> 12, 3x3, stride 2, bias",
        "12x16x16 -> 12, 3x3, group 12",
        "12x16x16 -> 16, 3x3, dilation 6",
        "16x16x16 -> 18, 3x3, stride 2, pads 0,0,1,1",
    ]


def test_each_runs_by_itself_with_the_outputs_it_has_in_the_model(script: ModuleType, model: onnx.ModelProto) -> None:
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:])
        for value in (*graph.value_info, *graph.output)
    }
    for convolution, (first, *_) in script.distinct_convolutions(model).items():
        features = features_of(script.model_of(convolution, 2))
        output = next(node.output[0] for node in model.graph.node if node.name == first)
        assert features.shape == (2, *shapes[output]) and features.dtype == np.float16, first


def test_channels_are_rounded_up_where_that_changes_something(script: ModuleType, model: onnx.ModelProto) -> None:
    first, grouped, third, last = (each.rounded_up(8) for each in script.distinct_convolutions(model))
    assert (first.input_shape, first.weight_shape) == ((8, 32, 32), (16, 8, 3, 3))
    assert grouped is None
    assert (third.input_shape, third.weight_shape) == ((16, 16, 16), (16, 16, 3, 3))
    assert last.weight_shape == (24, 16, 3, 3) and last.rounded_up(8) is None
    assert features_of(script.model_of(last, 1)).shape == (1, 24, 8, 8)


def test_rows_are_printed_as_they_come_and_kept(
    script: ModuleType, model: onnx.ModelProto, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    script.main([str(path), "--device", "cpu", "--json", str(tmp_path / "out.json")])
    out = capfd.readouterr().out.splitlines()
    assert out[0] == "model.onnx: 4 distinct convolutions, batch 1"
    assert out[2].startswith("2 x 12x16x16 -> 12, 3x3, group 12: as it is: plan ") and out[2].endswith("padded: -")
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == 4
    script.main([str(path), "--device", "cpu", "--seconds", "-1"])
    assert "4 were not measured: -1 s are over" in capfd.readouterr().out


def test_what_a_library_prints_is_told_from_what_works(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = script.open_session

    def printing(*arguments: object) -> object:
        """A fake of the CUDA provider, which writes past Python."""
        os.write(2, b"[cudnn_frontend] Error: No execution plans support the graph.\n")
        return opened(*arguments)

    monkeypatch.setattr(script, "open_session", printing)
    result = script.measure(script.FIRST, 1, ["CPUExecutionProvider"])
    assert not result["has_plan"] and result["error"] is None and result["ms"] > 0
    assert script.cell(result).startswith("NO PLAN ")
    assert capfd.readouterr().err == ""


def test_without_cuda_it_says_so_in_one_sentence(script: ModuleType, model: onnx.ModelProto, tmp_path: Path) -> None:
    if probe_onnxruntime("cuda").works:
        pytest.skip("CUDA works here")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(SystemExit, match=r"^nothing was measured: CUDAExecutionProvider"):
        script.main([str(tmp_path / "model.onnx")])
