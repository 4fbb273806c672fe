"""A detector of three nodes, written in milliseconds: each of its five boxes scores by the mean of a channel."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ssd_train.spec import DetectorSpec, PostprocessSettings

CLASSES = ("cell", "bacterium", "dust")
SIZE = (24, 32)
KEPT = 5
SPEC = DetectorSpec(
    network="small",
    class_names=CLASSES,
    input_size=SIZE,
    postprocess=PostprocessSettings(pre_nms_top_k=10, max_detections=KEPT),
)

# Of the five slots, the last of which is padding.
BOXES = np.array([(1, 2, 20, 22), (0, 0, 8, 8), (-3, 4, 30, 20), (5, 5, 9, 9), (-1, -1, -1, -1)], np.float32)
LABELS = np.array([2, 0, 1, 0, -1])
# score = bias + slope * mean of all values of the image, which keeps their order.
BIASES, SLOPE = np.array([0.9, 0.8, 0.5, 0.25, -1], np.float32), np.array([0.02, 0.02, 0.02, 0.02, 0], np.float32)


def write_small(path: Path, *, batch: int | None = None, entries: Mapping[str, str] = {}) -> Path:
    """Write the detector's file.

    Args:
        batch: the only number of images that it takes; None for any.
        entries: more of its metadata.
    """
    count = "N" if batch is None else batch
    constants = {
        "axes": np.array([1, 2, 3]),
        "slope": SLOPE,
        "biases": BIASES,
        "all_boxes": BOXES[None],
        "all_labels": LABELS[None],
        "one": np.array([1, 1]),
        "zero": np.array([0]),
    }
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
            helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
            helper.make_node("Mul", ["column", "slope"], ["scaled"]),
            helper.make_node("Add", ["scaled", "biases"], ["scores"]),
            helper.make_node("Shape", ["images"], ["count"], start=0, end=1),
            helper.make_node("Concat", ["count", "one"], ["repeats"], axis=0),
            helper.make_node("Tile", ["all_boxes", "repeats"], ["boxes"]),
            helper.make_node("Slice", ["repeats", "zero", "two"], ["repeats_2"]),
            helper.make_node("Tile", ["all_labels", "repeats_2"], ["labels"]),
        ],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [count, 3, *SIZE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [count, KEPT, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, [count, KEPT]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, [count, KEPT]),
        ],
        [
            numpy_helper.from_array(value, name)
            for name, value in {**constants, "last": np.array([1]), "two": np.array([2])}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, SPEC.to_metadata() | dict(entries))
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
