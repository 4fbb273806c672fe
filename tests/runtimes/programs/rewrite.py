"""An ONNX file through a tool that rewrites it: rewrite.py TOOL SOURCE TARGET."""

import sys
from collections.abc import Callable

import onnx

# From 21 on ONNX Runtime 1.31 moves a transposition in an int8 file so that its own types disagree, and refuses it.
NEWER_OPSET = 20


def slimmed(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim

    result, is_same = onnxsim.simplify(model)
    assert is_same
    return result


def in_a_newer_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnx import version_converter

    return version_converter.convert_version(model, NEWER_OPSET)


TOOLS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxslim": slimmed,
    "onnxsim": simplified,
    "version converter": in_a_newer_opset,
}

tool, source, target = sys.argv[1:]
onnx.save(TOOLS[tool](onnx.load(source)), target)
