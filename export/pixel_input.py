"""A file that takes 8-bit pixels as decoders give them, and normalises them itself.

    images_uint8 (N, H, W, 3) -> Cast -> Transpose -> (Gather) -> Div 255 -> Sub mean -> Div std -> images (N, 3, H, W)

The order of operations is that of `ssd_train.preprocess`, so that the network gets the same float32. TensorRT asks for
the Cast right behind an input of 8 bits.
"""

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.file_metadata import INPUT_KEY
from export.graph import ExportedGraph, some_images
from export.step import OnProgress, Rewritten
from ssd_train.input_kinds import INPUT_KINDS
from ssd_train.preprocess import network_input
from ssd_train.spec import INPUT_NAME, DetectorSpec


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`; settings are a row of `INPUT_KINDS`."""
    spec = dataclasses.replace(source.spec, input_kind=settings)
    pixels = some_images(spec)
    return Rewritten(
        model=with_pixel_input(source.model, spec),
        metadata={INPUT_KEY: settings},
        images=np.stack([network_input(image, spec) for image in pixels]),
        images_of_made=pixels,
    )


def with_pixel_input(model: onnx.ModelProto, spec: DetectorSpec) -> onnx.ModelProto:
    """Return a copy of a graph of float32 images that takes what `spec` says; its old input is an inner value."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, kind = copy.graph, INPUT_KINDS[spec.input_kind]
    (images,) = [value for value in graph.input if value.name == INPUT_NAME]
    batch = images.type.tensor_type.shape.dim[0]
    taken = helper.make_tensor_value_info(
        kind.tensor, TensorProto.UINT8, [batch.dim_param or batch.dim_value or "N", *spec.image_shape]
    )
    graph.value_info.append(images)
    graph.input.remove(images)
    graph.input.append(taken)
    # Operator, constant beside its input, attributes.
    steps: list[tuple[str, Any, dict[str, Any]]] = [
        ("Cast", None, {"to": TensorProto.FLOAT}),
        ("Transpose", None, {"perm": [0, 3, 1, 2]}),
        ("Gather", np.array([2, 1, 0]), {"axis": 1}),
        ("Div", np.float32(255), {}),
        ("Sub", np.array(spec.mean, np.float32).reshape(1, 3, 1, 1), {}),
        ("Div", np.array(spec.std, np.float32).reshape(1, 3, 1, 1), {}),
    ]
    if kind.order == "RGB":
        del steps[2]
    nodes, value = [], kind.tensor
    for index, (operator, constant, attributes) in enumerate(steps):
        name = f"{kind.tensor}/{index}/{operator}"
        inputs = [value]
        if constant is not None:
            inputs.append(f"{name}/constant")
            graph.initializer.append(numpy_helper.from_array(np.asarray(constant), inputs[-1]))
        value = INPUT_NAME if index == len(steps) - 1 else name
        nodes.append(helper.make_node(operator, inputs, [value], name=f"{name}/node", **attributes))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return copy
