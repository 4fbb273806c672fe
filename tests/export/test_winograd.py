"""Winograd's convolutions: against PyTorch's in float64, in a whole network, and refused where they do not belong."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from export.engine.build import build_engine
from export.engine.file import BuildOptions
from export.engine.flavours import TENSORRT_RTX
from export.file_metadata import WINOGRAD_KEY, check_runs_here
from export.onnx import export_onnx
from export.steps import STEPS
from export.winograd import with_winograd
from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner
from ssd_train import build_network
from ssd_train.errors import ModelError

NETWORK = "ssd_160x96_vgg16_atrous_custom"


def convolution(
    channels: int, filters: int, size: tuple[int, int], *, bias: bool = True, kernel: int = 3, **attributes: Any
) -> onnx.ModelProto:
    """A graph of one convolution with random weights."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(filters, channels // attributes.get("group", 1), kernel, kernel))
    constants = {"weight": weight / np.sqrt(weight[0].size), "bias": generator.normal(size=filters)}
    if not bias:
        del constants["bias"]
    values = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    node = helper.make_node("Conv", ["images", *constants], ["out"], name="conv", **attributes)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", channels, *size])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", filters, None, None])
    graph = helper.make_graph([node], "graph", [images], [out], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def is_rewritten(model: onnx.ModelProto) -> bool:
    return "DepthToSpace" in {node.op_type for node in with_winograd(model).graph.node}


@pytest.mark.parametrize("size", [(32, 32), (37, 30), (29, 43)])
@pytest.mark.parametrize(("pads", "bias"), [((1, 1, 1, 1), True), ((0, 0, 0, 0), False), ((2, 0, 1, 3), True)])
def test_it_is_the_same_convolution(size: tuple[int, int], pads: tuple[int, int, int, int], bias: bool) -> None:
    model = convolution(256, 384, size, bias=bias, pads=pads)
    assert is_rewritten(model)
    rewritten = with_winograd(model)
    onnx.checker.check_model(rewritten, full_check=True)
    session = onnxruntime.InferenceSession(rewritten.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(1).normal(size=(3, 256, *size)).astype(np.float32)
    weight, *biases = (
        torch.from_numpy(numpy_helper.to_array(each).copy()).double() for each in model.graph.initializer
    )
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(images).double(), (left, right, top, bottom))
    expected = torch.nn.functional.conv2d(padded, weight, biases[0] if biases else None).numpy()
    (got,) = session.run(None, {"images": images})
    assert got.shape == expected.shape
    # Relative to the spread; float32's own rounding in this many sums is 2e-7.
    assert np.sqrt(np.mean((got - expected) ** 2)) / expected.std() < 3e-6


@pytest.mark.parametrize(
    "other",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 2},
        {"kernel": 1},
        {"kernel": 5},
        {"auto_pad": "SAME_UPPER"},
    ],
)
def test_other_convolutions_stay(other: dict[str, Any]) -> None:
    assert is_rewritten(convolution(256, 256, (64, 64)))
    assert not is_rewritten(convolution(256, 256, (64, 64), **other))


def test_a_convolution_that_would_not_gain_stays() -> None:
    assert not is_rewritten(convolution(64, 64, (300, 300), pads=[1, 1, 1, 1])), "transforms cost more than they save"
    assert not is_rewritten(convolution(1024, 512, (5, 5), pads=[1, 1, 1, 1])), "its weights cost more than they save"


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Another test traces this network too.
    return export_onnx(build_network(NETWORK, "random", classes=["a", "b", "c"]), tmp_path_factory.mktemp("direct"))


@pytest.fixture(scope="module")
def winograd(direct: Path) -> Path:
    result = STEPS["winograd"].apply(direct, direct.parent)
    path = result.path
    assert result.checked.startswith("largest difference as a share of the spread: cls_logits ")
    assert path is not None
    return path


def test_a_detector_finds_the_same(direct: Path, winograd: Path) -> None:
    assert winograd.name == f"{NETWORK}.fp32.winograd.onnx"
    runner, original = OnnxRuntimeRunner(winograd), OnnxRuntimeRunner(direct)
    assert runner.spec == original.spec
    images = np.random.default_rng(1).normal(size=(2, 3, 96, 160)).astype(np.float32)
    for raw, original_raw in zip(runner.run_raw(images), original.run_raw(images), strict=True):
        assert 0 < np.abs(raw - original_raw).max() < 1e-4 * original_raw.std()
    got, expected = runner.run(images), original.run(images)
    np.testing.assert_allclose(got.scores, expected.scores, atol=1e-5)
    # Candidates of nearly one score may change places.
    assert np.isclose(got.boxes, expected.boxes, atol=0.01).all(axis=2).mean() > 0.95


def test_conv2_2_to_conv4_3_of_vgg16_are_rewritten(vgg: Path) -> None:
    graph = with_winograd(onnx.load(vgg)).graph
    filters = [tuple(value.dims[1:]) for value in graph.initializer if value.name.endswith("/filters")]
    assert filters == [(128, 128), (256, 128), (256, 256), (256, 256), (512, 256), (512, 512), (512, 512)]
    assert {node.op_type for node in graph.node} >= {"Conv", "MatMul", "DepthToSpace", "Slice"}


def two_convolutions(pads: list[int]) -> onnx.ModelProto:
    """Predictors of classes and of boxes on one input; the second one has these pads, and neither node has a name."""
    model = convolution(512, 324, (38, 38), pads=[1, 1, 1, 1])
    model.graph.node[0].ClearField("name")
    weight = np.random.default_rng(5).normal(size=(324, 512, 3, 3)).astype(np.float32) / 70
    model.graph.initializer.append(numpy_helper.from_array(weight, "box_weight"))
    model.graph.node.append(helper.make_node("Conv", ["images", "box_weight", ""], ["boxes"], pads=pads))
    model.graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 324, None, None]))
    return model


@pytest.mark.parametrize(("pads", "transforms"), [([1, 1, 1, 1], 1), ([0, 0, 0, 0], 2)])
def test_convolutions_of_one_input_share_its_transform(pads: list[int], transforms: int) -> None:
    model = two_convolutions(pads)
    rewritten = with_winograd(model)
    operators = [node.op_type for node in rewritten.graph.node]
    assert (operators.count("Conv"), operators.count("DepthToSpace")) == (transforms, 2)
    images = np.random.default_rng(1).normal(size=(2, 512, 38, 38)).astype(np.float32)
    expected, got = (
        onnxruntime.InferenceSession(each.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )
        for each in (model, rewritten)
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_convolution_that_would_not_gain_alone_shares_too() -> None:
    assert not is_rewritten(convolution(512, 16, (38, 38), pads=[1, 1, 1, 1]))
    model = two_convolutions([1, 1, 1, 1])
    weight = next(value for value in model.graph.initializer if value.name == "box_weight")
    weight.CopyFrom(numpy_helper.from_array(np.ones((16, 512, 3, 3), np.float32), "box_weight"))
    model.graph.output[1].type.tensor_type.shape.dim[1].dim_value = 16
    assert [node.op_type for node in with_winograd(model).graph.node].count("DepthToSpace") == 2


def test_weights_that_are_given_at_run_time_stay() -> None:
    model = convolution(256, 256, (64, 64))
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [256, 256, 3, 3]))
    assert not is_rewritten(model)


def test_a_graph_is_not_rewritten_twice(winograd: Path) -> None:
    model = onnx.load(winograd)
    assert with_winograd(model) == model


def test_it_can_be_rewritten_for_this_cpu_too(winograd: Path) -> None:
    for_cpu = STEPS["cpu"].apply(winograd, winograd.parent).path
    assert for_cpu is not None and for_cpu.name == f"{NETWORK}.fp32.winograd.cpu.onnx"
    images = np.random.default_rng(2).normal(size=(1, 3, 96, 160)).astype(np.float32)
    for got, expected in zip(
        OnnxRuntimeRunner(for_cpu).run(images), OnnxRuntimeRunner(winograd).run(images), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_wrong_transform_is_noticed(direct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / direct.name
    copy.write_bytes(direct.read_bytes())
    monkeypatch.setattr("export.winograd.POINTS", (0.0, 1.0, -1.0, 100.0, -200.0))
    with pytest.raises(ModelError, match="winograd gives other cls_logits .* nothing was written"):
        STEPS["winograd"].apply(copy, tmp_path)
    assert list(tmp_path.iterdir()) == [copy]


def test_where_nothing_gains_nothing_is_written(winograd: Path, tmp_path: Path) -> None:
    small = export_onnx(build_network("ssd_300_mobilenet0.25_custom", "shapes"), tmp_path)
    for path in (small, winograd):
        result = STEPS["winograd"].apply(path, path.parent)
        assert result.path is None and result.notes == (
            f"{path}: none of its convolutions gains by Winograd's algorithm",
        )
    assert list(tmp_path.iterdir()) == [small] and not winograd.with_suffix(".winograd.onnx").exists()


def test_another_precision_is_refused(direct: Path, tmp_path: Path) -> None:
    model = onnx.load(direct)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | {"precision": "fp16"})
    onnx.save(model, tmp_path / "half.onnx")
    with pytest.raises(ModelError, match="computes in fp16, but winograd takes fp32"):
        STEPS["winograd"].apply(tmp_path / "half.onnx", tmp_path)


def test_gpus_and_tensorrt_refuse_it(winograd: Path, tmp_path: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(winograd).metadata_props}
    assert WINOGRAD_KEY in metadata
    with pytest.raises(ModelError, match="Winograd's convolutions for a CPU"):
        check_runs_here(metadata, "file", onnxruntime.__version__, on_cpu=False)
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    with pytest.raises(ModelError, match="Winograd's convolutions for a CPU"):
        build_engine(winograd, BuildOptions(), flavour=TENSORRT_RTX, gpu=None, cache=tmp_path)
