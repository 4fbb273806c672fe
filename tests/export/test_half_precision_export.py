"""The half-precision ONNX file: which node computes in what, read back from the types of its values."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from export import onnx as onnx_export
from export.graph import network_nodes
from export.onnx import export_onnx
from ssd_train import build_network
from ssd_train.errors import ModelError
from ssd_train.networks.detector import Detector
from ssd_train.networks.postprocess import SUPPRESSION_ROUNDS
from ssd_train.precisions import in_precision
from ssd_train.spec import RAW_NAMES, DetectorSpec

NAME = "ssd_300_mobilenet0.25_voc"
HALF, FLOAT, INT64 = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64

# What decode and NMS are made of, and half-precision convolutional networks are not.
FLOAT32_OPERATORS = ("Softmax", "TopK", "Exp", "Div", "GatherElements", "ReduceMax", "Max", "Min", "Greater", "Where")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Several threads that wait for each other are many times slower where other jobs share the cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def network():
    return build_network(NAME, weights="random")


@pytest.fixture(scope="module")
def path(network, tmp_path_factory):
    return export_onnx(in_precision(network, "fp16"), tmp_path_factory.mktemp("half"))


@pytest.fixture(scope="module")
def model(path):
    return onnx.load(path)


@pytest.fixture(scope="module")
def types(model):
    return types_of(model)


def types_of(model):
    """Element type of every value, as ONNX infers it from the types of inputs and weights."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    # Without what the exporter claims, so that only inference speaks.
    bare.graph.ClearField("value_info")
    graph = onnx.shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        weight.name: weight.data_type for weight in graph.initializer
    }


def nodes_of(model, *operators):
    return [node for node in model.graph.node if node.op_type in operators]


def floats_of(node, types):
    """Types of a node's floating-point inputs and outputs."""
    found = {types[name] for name in (*node.input, *node.output) if name}
    return found & {FLOAT, HALF, TensorProto.DOUBLE, TensorProto.BFLOAT16}


def test_the_file_says_what_it_computes_in(path, model):
    assert path.name == f"{NAME}.fp16.onnx"
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["precision"] == "fp16"
    assert DetectorSpec.from_metadata(metadata, "the file").precision == "fp16"


def test_what_comes_in_and_goes_out_is_float32(model):
    def typed(values):
        return {value.name: value.type.tensor_type.elem_type for value in values}

    assert typed(model.graph.input) == {"images": FLOAT}
    assert typed(model.graph.output) == {"boxes": FLOAT, "scores": FLOAT, "labels": INT64}


def test_every_convolution_computes_in_half_precision(model, types):
    convolutions = nodes_of(model, "Conv")
    # MobileNet's first and 13 pairs, 4 levels of two, and two predictors for each of 6 maps.
    assert len(convolutions) == 1 + 2 * 13 + 2 * 4 + 2 * 6
    for node in convolutions:
        assert {types[name] for name in (*node.input, *node.output)} == {HALF}, node.name


def test_no_weight_is_multiplied_in_float32(model, types):
    """ONNX Runtime's CUDA provider has one switch for TF32 and for tensor cores: such a file may have both."""
    weights = {value.name for value in model.graph.initializer}
    for node in nodes_of(model, "MatMul", "Gemm", "Einsum", "ConvTranspose"):
        assert not weights & {*node.input} or types[node.output[0]] == HALF, node.name


def test_activations_and_pooling_stay_in_half_precision(model, types):
    inside = network_nodes(model)
    activations = [node for node in nodes_of(model, "Relu") if node.name in inside]
    assert len(activations) == 1 + 2 * 13 + 2 * 4
    assert all(floats_of(node, types) == {HALF} for node in activations)


def test_softmax_decode_and_nms_compute_in_float32(model, types):
    used = {node.op_type for node in model.graph.node}
    assert {"Softmax", "TopK", "Exp", "ReduceMax"} <= used
    for node in nodes_of(model, *FLOAT32_OPERATORS):
        assert HALF not in floats_of(node, types), (node.name, node.op_type)
    assert {types["cls_logits"], types["box_offsets"]} == {FLOAT}
    assert not {TensorProto.DOUBLE, TensorProto.BFLOAT16} & set(types.values())


def test_batch_norms_are_in_the_convolutions(model):
    assert not nodes_of(model, "BatchNormalization")


def test_only_the_rounds_of_suppression_are_half_behind_the_raw_predictions(model, types):
    """Walk forward from the raw predictions: everything else that depends on them is float32, integer or bool."""
    reached = {"cls_logits", "box_offsets"}
    for node in model.graph.node:
        if reached & set(node.input):
            reached |= set(node.output)
    assert {"boxes", "scores", "labels"} <= reached and len(reached) > 100
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    half = [producers[name] for name in reached if types[name] == HALF]
    # Whole numbers of which only the sign matters.
    assert {*half} == {"Cast", "Sub", "ReduceSum", "MatMul", "Relu"}
    assert len(half) == 3 + 2 * (SUPPRESSION_ROUNDS - 1)


def test_images_are_rounded_once_and_predictions_widened_once(model, types):
    inside = network_nodes(model)
    casts = [node for node in nodes_of(model, "Cast") if node.name in inside]
    narrowing = [node for node in casts if (types[node.input[0]], types[node.output[0]]) == (FLOAT, HALF)]
    widening = [node for node in casts if (types[node.input[0]], types[node.output[0]]) == (HALF, FLOAT)]
    assert [list(node.input) for node in narrowing] == [["images"]]
    # Two predictors for each of 6 maps; what they give is widened before its bias is added.
    producers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert len(widening) == 12 and {producers[node.input[0]] for node in widening} == {"Conv"}
    consumers = [node for node in model.graph.node for cast in widening if cast.output[0] in node.input]
    assert [node.op_type for node in consumers] == ["Add"] * 12


def test_the_weights_take_half_the_space(network, path, model, tmp_path):
    weights = [value for value in model.graph.initializer if value.data_type == HALF]
    count = sum(parameter.numel() for parameter in network.parameters())
    halves = sum(int(np.prod(value.dims)) for value in weights)
    # Folded norms leave a bias of one value a channel where there were a factor, a mean and the like.
    assert 0.99 * count < halves <= count
    # Besides weights there are 2268 anchors of 4 float32, the metadata and some 1000 nodes.
    assert 2 * halves < path.stat().st_size < 2 * halves + 300_000


def test_it_finds_what_the_float32_network_finds(network, path):
    images = np.random.default_rng(1).normal(size=(3, 3, 300, 300)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": images})
    graph = Detector(network).eval()
    with torch.inference_mode():
        expected = [value.numpy() for value in graph(torch.from_numpy(images))[:3]]
    # Rounding moves scores by some 1e-3 (logits of spread 1.6 by 1e-3 of it), so that neighbours in the ranking
    # change places and the last ones of 100 fall off; the best are found by both.
    for image in range(3):
        partners = [
            bool(
                (
                    (labels[image] == label)
                    & (np.abs(scores[image] - score) < 0.02)
                    & (np.abs(boxes[image] - box).max(axis=1) < 3)
                ).any()
            )
            for box, score, label in zip(*(value[image][:20] for value in expected), strict=True)
        ]
        assert len(partners) == 20 and sum(partners) >= 18


def test_bfloat16_is_refused_before_anything_is_traced(network, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_traced", None)
    with pytest.raises(ModelError, match=f"{NAME}: cannot be exported in bf16; use fp32 or fp16"):
        export_onnx(in_precision(network, "bf16"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_whose_activations_leave_the_range_is_not_written(network, model, tmp_path, monkeypatch):
    # PyTorch's own values decide, so the graph of the network as it was will do for another trace.
    traced = onnx.ModelProto()
    traced.CopyFrom(model)
    traced.graph.output.extend(value for value in model.graph.value_info if value.name in RAW_NAMES)
    monkeypatch.setattr(onnx_export, "_traced", lambda graph, spec: traced)
    loud = copy.deepcopy(network)
    with torch.no_grad():
        # Offsets of spread 0.8 become 4e4 and some 1e5, which half precision does not hold.
        loud.box_predictors[0].predictor.weight.mul_(5e4)
    before = tmp_path / f"{NAME}.fp16.onnx"
    before.write_bytes(b"what was here before")
    # Weights above 65504 would be infinite already: these are a matter of the activations alone.
    assert float(loud.box_predictors[0].predictor.weight.detach().abs().max()) < 65504
    with pytest.raises(ModelError) as caught:
        export_onnx(in_precision(loud, "fp16"), tmp_path)
    assert str(caught.value).count("\n") == 0
    assert "box_offsets are not finite in fp16" in str(caught.value) and "use the precision fp32" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == [before.name]
    assert before.read_bytes() == b"what was here before"


def test_the_channel_norm_sums_squares_and_takes_the_root_in_float32(tmp_path, monkeypatch):
    # The types are what is looked at; values of every network are compared where engines are built.
    monkeypatch.setattr(onnx_export, "CHECKED_BATCHES", ())
    network = build_network("ssd_300_vgg16_atrous_voc", weights=None)
    model = onnx.load(export_onnx(in_precision(network, "fp16"), tmp_path))
    types = types_of(model)
    roots = nodes_of(model, "Sqrt")
    assert len(roots) == 1
    producers = {name: node for node in model.graph.node for name in node.output}
    consumers = [node for node in model.graph.node if roots[0].output[0] in node.input]
    chain, node = [], roots[0]
    while node.op_type != "Relu":
        chain.append(node)
        node = producers[node.input[0]]
    operators = [each.op_type for each in chain]
    # From conv4_3: widened, squared, summed over the channels, the epsilon added, and the root.
    assert operators[-1] == "Cast" and operators[:3] == ["Sqrt", "Add", "ReduceSum"] and len(operators) == 5
    assert all(floats_of(each, types) == {FLOAT} for each in chain[:-1])
    assert (types[chain[-1].input[0]], types[chain[-1].output[0]]) == (HALF, FLOAT)
    assert len(consumers) == 1 and floats_of(consumers[0], types) == {FLOAT}
    convolutions = nodes_of(model, "Conv")
    # 13 and two atrous ones, 4 levels of two, two predictors for each of 6 maps.
    assert len(convolutions) == 15 + 8 + 12
    assert all(floats_of(each, types) == {HALF} for each in convolutions)
    # The pixel scale, the learned lengths, and the predictors' biases, whose shape has no batch in front.
    scales = [tuple(value.dims) for value in model.graph.initializer if value.data_type == FLOAT]
    assert sorted(dims for dims in scales if len(dims) == 4) == [(1, 3, 1, 1), (1, 512, 1, 1)]
    assert sorted(dims for dims in scales if len(dims) == 3) == sorted(
        [(boxes * values, 1, 1) for boxes in (4, 6, 6, 6, 4, 4) for values in (4, 21)]
    )
