"""The graph that Gst-nvinfer can feed and read: pixels as float32 in, labels as int32 out.

nvinfer writes `net-scale-factor * (pixel - offset)` as float32 into its input, whatever type that has: one factor for
all channels, where a detector has a standard deviation for each. So the normalisation moves into the graph:

    pixels (N, 3, H, W) -> Div 255 -> Sub mean -> Div std -> images -> the detector -> boxes, scores
                                                                                       labels -> Cast -> labels

TensorRT 10 keeps int64 outputs as int64, for which earlier releases of nvinfer have no name.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.file_metadata import steps_behind
from export.graph import Difference, ExportedGraph, open_graph, with_raw_outputs
from export.pixel_input import normalisation, put_in_front
from ssd_train.errors import ModelError
from ssd_train.preprocess import preprocess
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES, DetectorSpec

# Another name than that of normalised images, so that no runner of ours normalises twice.
PIXELS_NAME = "pixels"
LABELS_NAME = OUTPUT_NAMES[2]

# Steps of `export.steps` whose results it takes: any number of normalised images, and detections.
FOLLOWS = ("int8", "opset")

# The largest difference from the source, as a share of the spread. None is seen: the three operations are exact.
ALLOWED = 1e-5


def pixel_graph(source: ExportedGraph) -> onnx.ModelProto:
    """Return a copy of an exported graph that takes float32 pixels, checked against its source.

    Returns:
        a graph from `pixels` (N, 3, H, W) float32 RGB, 0 to 255, to `boxes` (N, D, 4) and `scores` (N, D) as they were,
        and `labels` (N, D) int32. It has none of the source's metadata.

    Raises:
        ModelError: the source is a result of another step, or the graph does not compute what it does.
    """
    for step in steps_behind(source.metadata):
        if step not in FOLLOWS:
            raise ModelError(
                f"{source.path}: is a result of {step}, of which no bundle for DeepStream is made; "
                "name the file that it was made of"
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
    images.name = PIXELS_NAME
    put_in_front(graph, PIXELS_NAME, normalisation(spec))


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
    expected, got = (
        open_graph(with_raw_outputs(each, str(source.path)), names)(batch)
        for each, batch in ((source.model, images), (model, pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    )
    for name, theirs, ours in zip(names, expected, got, strict=True):
        difference = Difference.between(theirs, ours).largest
        if not difference <= ALLOWED:
            raise ModelError(
                f"{source.path}: with its normalisation in the graph it gives other {name} ({difference:.1e} of their "
                f"spread, at most {ALLOWED:g} is allowed); nothing was written"
            )
