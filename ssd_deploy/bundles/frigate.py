"""A detector for Frigate, the video recorder: an ONNX file in the form that its detectors `onnx` and `openvino` take.

    frames (1, H, W, 3) uint8 -> [cast, NHWC to NCHW, /255, -mean, /std] -> images -> the exported graph
    boxes, scores, labels -> [a row each] -> (K, 7): 0, x1, y1, x2, y2, score, label

That is what Frigate calls `yolonas`: rows in pixels of the input, best first, and a label below 0 ends them (its
`frigate/detectors/plugins/onnx.py`). It is the one form of finished detections that both of its detectors read, and has
nothing of that network beside it. Frigate cuts and resizes the frames itself.
"""

from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from export.engine.file import is_engine
from export.file_metadata import CPU_GRAPH_KEY
from export.graph import ExportedGraph, load_exported
from export.pixel_input import normalisation, put_in_front
from ssd_deploy.bundles.names import model_name
from ssd_train.errors import ModelError
from ssd_train.spec import INPUT_NAME, DetectorSpec

FRAMES, ROWS = "frames", "detections"

# The folder of Frigate's container that a user's files are in.
CONFIG_FOLDER = "/config"


def write_frigate(model: Path, folder: Path) -> list[Path]:
    """Write the file, its classes and a part of Frigate's configuration; see `Bundle.write`.

    Raises:
        ModelError: no ONNX file of ours that takes single images, or a name that is not plain.
    """
    if is_engine(model):
        raise ModelError(f"{model}: is an engine, which Frigate does not run; name the .onnx file that it was built of")
    name = model_name(model)
    exported = load_exported(model)
    if CPU_GRAPH_KEY in exported.metadata:
        raise ModelError(f"{model}: was rewritten for one CPU and cannot be changed; name the file that it was made of")
    file, labels, settings = (folder / f"{name}.{end}" for end in ("onnx", "labels.txt", "frigate.yml"))
    onnx.save(frigate_graph(exported), file)
    # With numbers, or Frigate would take a first class that begins with one for a number.
    labels.write_text("".join(f"{n}  {each}\n" for n, each in enumerate(exported.spec.class_names)), encoding="utf-8")
    settings.write_text(yaml.safe_dump(frigate_config(exported.spec, file, labels), sort_keys=False), encoding="utf-8")
    return [file, labels, settings]


def frigate_config(spec: DetectorSpec, file: Path, labels: Path) -> dict[str, object]:
    """Return the part of Frigate's configuration that is about the detector."""
    height, width = spec.input_size
    return {
        "detectors": {"ssd": {"type": "onnx"}},
        "model": {
            "model_type": "yolonas",
            "width": width,
            "height": height,
            "input_tensor": "nhwc",
            "input_pixel_format": "rgb",
            "input_dtype": "int",
            "path": f"{CONFIG_FOLDER}/{file.name}",
            "labelmap_path": f"{CONFIG_FOLDER}/{labels.name}",
        },
        "objects": {"track": list(spec.class_names)},
    }


def frigate_graph(exported: ExportedGraph) -> onnx.ModelProto:
    """Return the graph for one image of 8 bits, with pre-processing in front and rows behind."""
    model, spec = onnx.ModelProto(), exported.spec
    model.CopyFrom(exported.model)
    graph = model.graph
    (images,) = graph.input
    shape = images.type.tensor_type.shape.dim
    if images.name != INPUT_NAME or images.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ModelError(f"{exported.path}: takes {images.name} instead of {INPUT_NAME} in float32; name another file")
    if shape[0].dim_value > 1:
        raise ModelError(f"{exported.path}: takes {shape[0].dim_value} images a call, and Frigate sends one")
    height, width = spec.input_size
    rows = f"{ROWS}_"
    constants = {
        f"{rows}first": np.array([0]),
        f"{rows}last": np.array([1]),
        f"{rows}image": np.zeros((spec.postprocess.max_detections, 1), np.float32),
    }
    behind = [helper.make_node("Cast", ["labels"], [f"{rows}labels_"], to=TensorProto.FLOAT)]
    for value, source in (("boxes", "boxes"), ("scores", "scores"), ("labels", f"{rows}labels_")):
        behind.append(helper.make_node("Squeeze", [source, f"{rows}first"], [f"{rows}one_{value}"]))
    for value in ("scores", "labels"):
        behind.append(helper.make_node("Unsqueeze", [f"{rows}one_{value}", f"{rows}last"], [f"{rows}{value}"]))
    columns = [f"{rows}image", f"{rows}one_boxes", f"{rows}scores", f"{rows}labels"]
    behind.append(helper.make_node("Concat", columns, [ROWS], axis=1))
    graph.node.extend(behind)
    pixels = (("Cast", None, {"to": TensorProto.FLOAT}), ("Transpose", None, {"perm": (0, 3, 1, 2)}))
    put_in_front(graph, FRAMES, [*pixels, *normalisation(spec)])
    # Inner values of any batch, too, which this graph no longer takes.
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info(FRAMES, TensorProto.UINT8, [1, height, width, 3]))
    kept = spec.postprocess.max_detections
    graph.output.append(helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, [kept, 2 + 4 + 1]))
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    return model
