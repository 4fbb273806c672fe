"""A detector of a few nodes, whose answers are whole numbers that NumPy computes by itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssd_train.detections import PaddedDetections
from ssd_train.spec import DetectorSpec, PostprocessSettings

SIZE = (16, 16)
PATCH = 8
BOXES = 4
SPEC = DetectorSpec(
    network="tiny",
    class_names=("dot",),
    input_size=SIZE,
    postprocess=PostprocessSettings(pre_nms_top_k=10, max_detections=BOXES),
)
WEIGHTS = np.random.default_rng(0).integers(-2, 3, (BOXES, 3, PATCH, PATCH)).astype(np.float32)


def batch(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Return images of small whole numbers, of which float32 makes exact sums in any order."""
    return np.random.default_rng(seed).integers(-3, 4, (count, 3, *SIZE)).astype(np.float32)


def answer(images: NDArray[np.float32], weights: NDArray[np.float32] = WEIGHTS) -> PaddedDetections:
    """Compute what the detector answers: each channel of a convolution of patches is a box, its sum the score."""
    count, side = len(images), SIZE[0] // PATCH
    patches = images.reshape(count, 3, side, PATCH, side, PATCH)
    boxes = np.einsum("ncypxq,kcpq->nkyx", patches, weights).reshape(count, BOXES, side * side).astype(np.float32)
    scores = boxes.sum(axis=2)
    return PaddedDetections(boxes, scores, scores.astype(np.int64))


def write_tiny(
    path: Path, change: Callable[[onnx.ModelProto], Any] = lambda model: None, weights: NDArray[np.float32] = WEIGHTS
) -> Path:
    """Write the detector's file, after `change` has changed it."""
    values = {"weights": weights, "shape": np.array([-1, BOXES, 4]), "axis": np.array([2])}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["features"], name="node_conv2d", strides=[PATCH, PATCH]),
            helper.make_node("Reshape", ["features", "shape"], ["boxes"], name="node_view"),
            helper.make_node("ReduceSum", ["boxes", "axis"], ["scores"], name="node_sum", keepdims=0),
            helper.make_node("Cast", ["scores"], ["labels"], name="node_labels", to=TensorProto.INT64),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, *SIZE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", BOXES, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", BOXES]),
            helper.make_tensor_value_info("labels", TensorProto.INT64, ["N", BOXES]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, SPEC.to_metadata())
    change(model)
    onnx.save(model, path)
    return path
