"""Which release of ONNX's operators a file is written in: the oldest that its graph allows, or a newer one.

PyTorch's exporter writes opset 18. Of what is new there a graph uses another spelling of two kinds of operator, so that
opset 17 says the same, and more runtimes read that.
"""

from typing import Any

import onnx
import onnxruntime
from onnx import helper, numpy_helper

from export.file_metadata import LEAST_OPSET, OPSET_KEY
from export.graph import ExportedGraph
from export.session import open_session
from export.step import OnProgress, Rewritten
from ssd_train.errors import BackendError, ModelError, first_line

# What the exporter writes by itself, and `lowered` makes `LEAST_OPSET` of.
TRACED_OPSET = 18

# Reductions whose axes were attributes until opset 18 made them inputs.
_REDUCTIONS = frozenset({"ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL2"})


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`; settings are the opset's number."""
    has = next(each.version for each in source.model.opset_import if each.domain == "")
    if settings < has:
        raise BackendError(
            f"{source.path}: opset {settings} lacks what its graph needs; the least is {has}", arguments=("opset",)
        )
    try:
        model = onnx.version_converter.convert_version(source.model, settings)
    except Exception as error:  # the converter's exceptions share no narrower base
        raise BackendError(
            f"{source.path}: onnx {onnx.__version__} cannot convert it to opset {settings} ({first_line(error)}); "
            f"use {has}",
            arguments=("opset",),
        ) from error
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    try:
        open_session(model.SerializeToString(), str(source.path))
    except ModelError as error:
        raise BackendError(
            f"{source.path}: ONNX Runtime {onnxruntime.__version__} does not run opset {settings}, so that the file "
            "could not be checked; use a lower one",
            arguments=("opset",),
        ) from error
    return Rewritten(model=model, metadata={OPSET_KEY: str(settings)})


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a graph that the exporter wrote, with the operators of opset 17 and the IR version they need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {each.name: each for each in copy.graph.initializer}
    for node in copy.graph.node:
        if node.op_type in _REDUCTIONS:
            _remove_attribute(node, "noop_with_empty_axes")
            if len(node.input) > 1:
                axes = numpy_helper.to_array(constants[node.input.pop()])
                node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes.flat]))
        elif node.op_type == "Split":
            # Without it the parts are as many as the outputs, and equal.
            _remove_attribute(node, "num_outputs")
    used = {name for node in copy.graph.node for name in node.input}
    kept = [each for each in copy.graph.initializer if each.name in used]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    for each in copy.opset_import:
        each.version = LEAST_OPSET if each.domain == "" else each.version
    copy.ir_version = helper.find_min_ir_version_for(copy.opset_import)
    return copy


def _remove_attribute(node: onnx.NodeProto, name: str) -> None:
    for attribute in [each for each in node.attribute if each.name == name]:
        node.attribute.remove(attribute)
