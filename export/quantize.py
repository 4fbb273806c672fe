"""A float ONNX graph and images -> the same graph with explicit int8 quantization, through ONNX Runtime's quantizer.

    images -> calibration -> (sensitivity: which layers stay float) -> quantized graph

The network from its first convolution to the predictors is quantized; channel norm, softmax, decode and NMS stay
in float32. Weights are symmetric int8, a scale for each output channel. Activations have one scale each:

- `portable`: symmetric int8 with zero point 0, which TensorRT takes as well as ONNX Runtime.
- `cpu`: uint8 with a zero point, which ONNX Runtime computes faster, as the zero point takes the place of Relu.
"""

import contextlib
import copy
import functools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData

from export.calibration import MEASURED_OPERATORS, calibrate, find_calibration_images
from export.file_metadata import Int8Target, Quantization
from export.graph import ExportedGraph, layer_names, network_nodes, network_only
from export.quantize_options import QuantizeOptions
from export.sensitivity import find_float_layers, write_sensitivity
from export.step import OnProgress, Rewritten
from ssd_train.errors import ModelError
from ssd_train.preprocess import load_image, preprocess

# Calibration images that layers are judged on, and those that the written graph is looked at on.
SENSITIVITY_IMAGES = 32
CHECKED_IMAGES = 4


def rewrite(source: ExportedGraph, settings: QuantizeOptions, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`: it takes and gives what the float file does, whose batch norms are folded already.

    Raises:
        ModelError: the graph was not quantized as it should be.
        DatasetError, ImageError: calibration images cannot be used.
    """
    assert settings.calibration_data is not None  # see `check_quantizable`
    paths, images_sha256 = find_calibration_images(settings.calibration_data, settings.calibration_images)

    def report(stage: str, done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(stage, done, total)

    ranges = calibrate(
        network_only(source.model),
        source.spec,
        paths,
        method=settings.method,
        on_progress=functools.partial(report, "calibrating"),
    )
    quantized = functools.partial(quantize_graph, source.model, ranges, settings.target)
    notes = [f"calibrated on {len(paths)} images ({settings.method})"]
    sensitivity = None
    if settings.sensitivity:
        sensitivity = find_float_layers(
            source.model,
            source.spec,
            paths[:SENSITIVITY_IMAGES],
            quantized,
            # All may be lost where no limit is set, so that no layer has to stay float.
            max_drop=100.0 if settings.max_drop is None else settings.max_drop,
            on_progress=functools.partial(report, "judging layers"),
        )
        notes += sensitivity.lines()
    quantization = Quantization(
        target=settings.target,
        method=settings.method,
        images=len(paths),
        images_sha256=images_sha256,
        float_layers=sensitivity.float_layers if sensitivity else (),
    )
    return Rewritten(
        model=quantized(float_layers=quantization.float_layers),
        metadata=quantization.to_metadata(),
        images=np.stack([preprocess(load_image(path), source.spec) for path in paths[:CHECKED_IMAGES]]),
        notes=tuple(notes),
        report=functools.partial(write_sensitivity, sensitivity) if sensitivity else None,
    )


def quantize_graph(
    model: onnx.ModelProto,
    ranges: TensorsData,
    target: Int8Target,
    *,
    float_layers: Collection[str] = (),
    only_layer: str | None = None,
) -> onnx.ModelProto:
    """Return a quantized copy of an exported float graph.

    Args:
        ranges: as `calibrate` returns.
        float_layers: layers (see `layer_names`) that stay float32.
        only_layer: quantize this one alone.

    Raises:
        ModelError: a layer does not exist, or one was left in float that should not have been.
    """
    layers = layer_names(model)
    for layer in float_layers:
        if layer not in layers:
            raise ModelError(f"there is no layer {layer}; the first ones are {', '.join(list(layers)[:3])}")
    kept = {layers[layer] for layer in float_layers}
    nodes = [layers[only_layer]] if only_layer else [node for node in _integer_nodes(model) if node not in kept]
    is_symmetric = target == Int8Target.PORTABLE
    # TensorRT takes no int32 biases and no pair of Q and DQ that two layers share; ONNX Runtime makes its own biases.
    portable = {"ActivationSymmetric": True, "QuantizeBias": False, "DedicatedQDQPair": True} if is_symmetric else {}
    quantizer = QDQQuantizer(
        copy.deepcopy(model),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if is_symmetric else QuantType.QUInt8,
        tensors_range=_ranges_after_relu(model, ranges),
        nodes_to_quantize=nodes,
        nodes_to_exclude=[],
        op_types_to_quantize=list(MEASURED_OPERATORS),
        extra_options={"WeightSymmetric": True, **portable},
    )
    with _silent_root_logger():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    _keep_pairs_apart(quantized)
    expected = {only_layer} if only_layer else set(layers) - set(float_layers)
    _check_quantized(quantized, {layers[layer]: layer for layer in expected})
    return quantized


@contextlib.contextmanager
def _silent_root_logger() -> Iterator[None]:
    """Drop what is logged on the root logger itself: ONNX Runtime warns there of every bias whose scale it adjusts.

    Without a handler such a call would also set up the caller's logging.
    """

    def drop(record: logging.LogRecord) -> bool:
        return False

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addFilter(drop)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.removeFilter(drop)


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
        if len(nodes) > 1:
            for axis, node in enumerate(nodes):
                node.attribute.append(onnx.helper.make_attribute("axis", axis))


def _check_quantized(model: onnx.ModelProto, expected: dict[str, str]) -> None:
    """Raise ModelError unless just the expected convolutions take int8 weights and 8-bit activations."""
    producers = {output: node for node in model.graph.node for output in node.output}
    integers = {value.name for value in model.graph.initializer if value.data_type == onnx.TensorProto.INT8}
    found = set()
    for node in model.graph.node:
        if node.op_type == "Conv":
            inputs = [producers[name] for name in node.input[:2] if name in producers]
            kinds = [each.op_type for each in inputs]
            if kinds == ["DequantizeLinear"] * 2 and inputs[1].input[0] in integers:
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
