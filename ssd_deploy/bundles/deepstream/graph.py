"""The graph that Gst-nvinfer can feed and read: pixels as float32 in, labels as int32 out.

nvinfer writes `net-scale-factor * (pixel - offset)` as float32 into its input, whatever type that has: one factor for
all channels, where a detector has a standard deviation for each. So the normalisation moves into the graph:

    pixels (N, 3, H, W) -> Div 255 -> Sub mean -> Div std -> images -> the detector -> boxes, scores
                                                                                       labels -> Cast -> labels

TensorRT 10 keeps int64 outputs as int64, which the nvinfer of the releases before DeepStream 9 has no name for.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.graph import Difference, ExportedGraph, open_graph, with_raw_outputs
from export.session import open_session
from ssd_train.errors import ModelError
from ssd_train.json_input import quoted
from ssd_train.preprocess import preprocess
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES, DetectorSpec

# Another name than that of normalised images, so that no runner of ours normalises twice.
PIXELS_NAME = "pixels"
LABELS_NAME = OUTPUT_NAMES[2]

# The largest difference from the source, as a share of the spread. None is seen: the three operations are exact.
ALLOWED = 1e-5


def pixel_graph(source: ExportedGraph) -> onnx.ModelProto:
    """Return a copy of an exported graph that takes float32 pixels, checked against its source.

    Returns:
        a graph from `pixels` (N, 3, H, W) float32 RGB, 0 to 255, to `boxes` (N, D, 4) and `scores` (N, D) as they were,
        and `labels` (N, D) int32. It has none of the source's metadata.

    Raises:
        ModelError: the source takes something else than normalised images, or the graph does not compute what it does.
    """
    names = [value.name for value in source.model.graph.input]
    if names != [INPUT_NAME]:
        raise ModelError(
            f"{source.path}: takes {', '.join(map(quoted, names))} instead of {INPUT_NAME}, of which a bundle for "
            "DeepStream is made; name the file that it was made of"
        )
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    model.ClearField("metadata_props")
    _take_pixels(model.graph, source.spec)
    _give_int32_labels(model.graph)
    onnx.checker.check_model(model, full_check=True)
    _check(model, source)
    return model


def _take_pixels(graph: onnx.GraphProto, spec: DetectorSpec) -> None:
    (images,) = graph.input
    graph.value_info.append(images)
    pixels = onnx.ValueInfoProto()
    pixels.CopyFrom(images)
    pixels.name = PIXELS_NAME
    graph.input.remove(images)
    graph.input.append(pixels)
    value, nodes = PIXELS_NAME, []
    # The order of `preprocess`, which decides the last bits.
    for operator, name, numbers in (("Div", "most", (255.0,)), ("Sub", "mean", spec.mean), ("Div", "std", spec.std)):
        constant = np.array(numbers, np.float32).reshape(1, -1, 1, 1)
        graph.initializer.append(numpy_helper.from_array(constant, f"{PIXELS_NAME}/{name}"))
        result = INPUT_NAME if name == "std" else f"{PIXELS_NAME}/by_{name}"
        nodes.append(helper.make_node(operator, [value, f"{PIXELS_NAME}/{name}"], [result], name=result))
        value = result
    _put_first(graph, nodes)


def _put_first(graph: onnx.GraphProto, nodes: list[NodeProto]) -> None:
    rest = list(graph.node)
    graph.ClearField("node")
    graph.node.extend([*nodes, *rest])


def _give_int32_labels(graph: onnx.GraphProto) -> None:
    wide = f"{LABELS_NAME}/int64"
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == LABELS_NAME:
                    names[index] = wide
    cast = helper.make_node("Cast", [wide], [LABELS_NAME], name=f"{LABELS_NAME}/cast", to=TensorProto.INT32)
    graph.node.append(cast)
    output = next(value for value in graph.output if value.name == LABELS_NAME)
    output.type.tensor_type.elem_type = TensorProto.INT32


def _check(model: onnx.ModelProto, source: ExportedGraph) -> None:
    """Run both on the same pixels: raw predictions too, since noise may have no detections."""
    names = [*OUTPUT_NAMES, *RAW_NAMES]
    height, width = source.spec.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    images = np.stack([preprocess(image, source.spec) for image in pixels])
    expected = open_graph(with_raw_outputs(source.model, str(source.path)), names)(images)
    session = open_session(with_raw_outputs(model, str(source.path)).SerializeToString(), str(source.path))
    got = session.run(names, {PIXELS_NAME: pixels.transpose(0, 3, 1, 2).astype(np.float32)})
    for name, theirs, ours in zip(names, expected, got, strict=True):
        difference = Difference.between(theirs, ours).largest
        if not difference <= ALLOWED:
            raise ModelError(
                f"{source.path}: with its normalisation in the graph it gives other {name} ({difference:.1e} of their "
                f"spread, at most {ALLOWED:g} is allowed); nothing was written"
            )
