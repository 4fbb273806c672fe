"""The order of equal values in OpenVINO's TopK. No torch, no onnx.

ONNX says that the lower index comes first, which decides what NMS keeps. OpenVINO's TopK takes equal values in any
order; told to be stable it compares every value with every place, which takes longer than the rest of decode and NMS.
So the values that belong to the result are found without it, and only they are sorted so.
"""

from typing import Any

import numpy as np
import openvino
from openvino import opset13 as ops


def keep_order_of_ties(model: Any) -> None:
    """Make each TopK of a model choose and order equal values as ONNX says.

    Args:
        model: its TopK that leave values out take the largest along axis 1 of (N, count, 1).
    """
    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            count, kept = (int(each.get_partial_shape()[1].get_length()) for each in (node.input(0), node.output(0)))
            if kept < count:
                _replace(node, count, kept)
            else:
                node.set_attribute("stable", True)


def _replace(node: Any, count: int, kept: int) -> None:
    """
    values -> largest, unstable -> the least of them -+-> above it, and the first of those that equal it -> chosen
    chosen -> their indices, ascending -> their values -> largest, stable -> values, and indices through both
    """
    values = ops.squeeze(node.input_value(0), _COLUMN)
    places = ops.constant(kept, openvino.Type.i64)
    least = ops.reduce_min(ops.topk(values, places, -1, "max", "value").output(0), _LAST, keep_dims=True)
    above, level = ops.greater(values, least), ops.equal(values, least)
    room = ops.subtract(_float(kept), ops.reduce_sum(_as_float(above), _LAST, keep_dims=True))
    is_early = ops.less_equal(ops.cum_sum(_as_float(level), ops.constant(1, openvino.Type.i64)), room)
    chosen = ops.logical_or(above, ops.logical_and(level, is_early))
    # Whole numbers below 2^24, each once, so that no order is left open.
    from_the_end = ops.constant(np.arange(count, 0, -1, dtype=np.float32)[None])
    keys = ops.select(chosen, from_the_end, _float(0))
    indices = ops.topk(keys, places, -1, "max", "value", "i64").output(1)
    ordered = ops.topk(ops.gather_elements(values, indices, 1), places, -1, "max", "value", "i64", stable=True)
    results = (ordered.output(0), ops.gather_elements(indices, ordered.output(1), 1).output(0))
    for old, new in zip(node.outputs(), results, strict=True):
        column = ops.unsqueeze(new, _COLUMN).output(0)
        for target in old.get_target_inputs():
            target.replace_source_output(column)


_COLUMN = np.array([2], np.int64)
_LAST = np.array([-1], np.int64)


def _float(value: float) -> Any:
    return ops.constant(value, openvino.Type.f32)


def _as_float(value: Any) -> Any:
    return ops.convert(value, "f32")
