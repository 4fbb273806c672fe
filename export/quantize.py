"""A float ONNX graph -> the same graph with explicit int8 quantization, through ONNX Runtime's quantizer.

The network from its first convolution to the predictors is quantized; channel norm, softmax, decode and NMS stay
in float32. Weights are symmetric int8, a scale for each output channel. Activations have one scale each:

- `portable`: symmetric int8 with zero point 0, which TensorRT takes as well as ONNX Runtime.
- `cpu`: uint8 with a zero point, which ONNX Runtime computes faster, as the zero point takes the place of Relu.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Collection

import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData

from export.calibration import MEASURED_OPERATORS, Calibration
from export.int8_metadata import Int8Target
from ssd_train.captured_stdout import captured_stdout
from ssd_train.errors import ModelError
from ssd_train.spec import INPUT_NAME, RAW_NAMES


def network_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph from images to raw predictions, without decode and NMS."""
    return onnx.utils.Extractor(model).extract_model([INPUT_NAME], list(RAW_NAMES))


def network_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes that lead to the raw predictions; unlike `network_only`, no weight is copied."""
    producers = {output: node for node in model.graph.node for output in node.output}
    names: set[str] = set()
    waiting = list(RAW_NAMES)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            waiting += node.input
    return names


def layer_names(model: onnx.ModelProto) -> dict[str, str]:
    """Return layer -> node of every convolution, in the order of the data flow; a layer is called as its weight is."""
    return {
        node.input[1].removeprefix("network.").removesuffix(".weight"): node.name
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def quantize(
    model: onnx.ModelProto,
    calibration: Calibration,
    target: Int8Target,
    *,
    float_layers: Collection[str] = (),
    only_layer: str | None = None,
) -> onnx.ModelProto:
    """Return a quantized copy of an exported float graph.

    Args:
        float_layers: layers (see `layer_names`) that stay float32.
        only_layer: quantize this one alone.

    Raises:
        ModelError: a layer does not exist, or one was left in float that should not have been.
    """
    layers = layer_names(model)
    unknown = [layer for layer in (*float_layers, *([only_layer] if only_layer else [])) if layer not in layers]
    if unknown:
        raise ModelError(f"there is no layer {unknown[0]}; the first ones are {', '.join(list(layers)[:3])}")
    kept = {layers[layer] for layer in float_layers}
    if only_layer is not None:
        nodes = [layers[only_layer]]
    else:
        nodes = [node for node in _integer_nodes(model) if node not in kept]
    is_symmetric = target == Int8Target.PORTABLE
    # TensorRT takes no int32 biases and no pair of Q and DQ that two layers share; ONNX Runtime makes its own biases.
    portable = {"ActivationSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True} if is_symmetric else {}
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if is_symmetric else QuantType.QUInt8,
        tensors_range=_ranges_after_relu(model, calibration.ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(MEASURED_OPERATORS),
        extra_options={"WeightSymmetric": True, **portable},
    )
    log = logging.getLogger()
    level = log.level
    # It warns on the root logger of every bias whose scale it adjusts.
    log.setLevel(logging.ERROR)
    try:
        with captured_stdout():
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    finally:
        log.setLevel(level)
    quantized: onnx.ModelProto = quantizer.model.model
    _keep_pairs_apart(quantized)
    expected = {only_layer} if only_layer is not None else set(layers) - set(float_layers)
    _check_quantized(quantized, {layers[layer]: layer for layer in expected})
    return quantized


def _integer_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the network's nodes that can compute in integers; a sum with a constant, in the channel norm, cannot."""
    inside = network_nodes(model)
    constants = {initializer.name for initializer in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.name in inside
        and node.op_type in MEASURED_OPERATORS
        and not (node.op_type == "Add" and constants.intersection(node.input))
    ]


def _ranges_after_relu(model: onnx.ModelProto, ranges: TensorsData) -> TensorsData:
    """Give what goes into a Relu the range of what comes out: all steps for the values that go on."""
    after = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    narrowed = copy.copy(ranges)
    narrowed.data = {name: ranges.data[after.get(name, name)] for name in ranges.data}
    return narrowed


def _keep_pairs_apart(model: onnx.ModelProto) -> None:
    """Tell equal QuantizeLinear nodes of one value apart by their axis, which means nothing for a single scale.

    ONNX Runtime would merge them, and then computes every layer behind a branch in float, since it turns int8 to
    the uint8 of its kernels only where one DequantizeLinear follows.
    """
    pairs = defaultdict(list)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            pairs[node.input[0]].append(node)
    for nodes in pairs.values():
        for axis, node in enumerate(nodes):
            if len(nodes) > 1:
                node.attribute.append(onnx.helper.make_attribute("axis", axis))


def _check_quantized(model: onnx.ModelProto, expected: dict[str, str]) -> None:
    """Raise ModelError unless just the expected convolutions take int8 weights and 8-bit activations."""
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type == "Conv":
            activation, weight = (producers.get(name) for name in node.input[:2])
            if activation is None or weight is None:
                continue
            constant = constants.get(weight.input[0])
            is_dequantized = activation.op_type == weight.op_type == "DequantizeLinear"
            if is_dequantized and constant is not None and constant.data_type == onnx.TensorProto.INT8:
                found.add(node.name)
    wrong = found.symmetric_difference(expected)
    if wrong:
        names = ", ".join(sorted(expected.get(node, node) for node in wrong)[:5])
        raise ModelError(
            f"{len(wrong)} of {len(expected)} layers are not quantized as they should be ({names}); nothing was "
            "written; install another version of onnxruntime"
        )
    network = network_nodes(model)
    strays = [node.name for node in model.graph.node if node.op_type.endswith("eLinear") and node.name not in network]
    if strays:
        raise ModelError(f"the post-processing was quantized at {strays[0]}; nothing was written")
