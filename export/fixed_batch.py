"""A file that takes one number of images a call, for runtimes that know fixed shapes only."""

import dataclasses
from typing import Any

import onnx

from export.file_metadata import BATCH_KEY
from export.graph import ExportedGraph, some_images
from export.step import OnProgress, Rewritten
from ssd_train.spec import RAW_NAMES


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`; settings are the number of images."""
    return Rewritten(
        model=with_batch(source.model, settings),
        metadata={BATCH_KEY: str(settings)},
        images=some_images(dataclasses.replace(source.spec, batch_size=settings)),
    )


def with_batch(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Return a copy of a graph whose first dimension is `count` in every input and output."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    # Shapes of the other inner values are inferred anew, since some are formulas of the batch.
    raw = [value for value in graph.value_info if value.name in RAW_NAMES]
    del graph.value_info[:]
    graph.value_info.extend(raw)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.type.tensor_type.shape.dim[0].dim_value = count
    return onnx.shape_inference.infer_shapes(copy)
