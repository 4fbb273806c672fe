"""A file that ends where the network does: `cls_logits` and `box_offsets`, for whoever decodes them elsewhere.

What that takes is in the metadata, as JSON: `anchors`, A rows of cx, cy, w, h in input pixels, and `variances`, four
numbers. With offsets dx, dy, dw, dh of one anchor its box has

    cx + dx * variances[0] * w,  cy + dy * variances[1] * h      as its centre
    w * exp(dw * variances[2]),  h * exp(dh * variances[3])      as its size

and a softmax over the columns of `cls_logits` gives the scores, the first column being the background.
"""

import json
from typing import Any

from onnx import numpy_helper

from export.file_metadata import OUTPUTS_KEY
from export.graph import ExportedGraph, network_only
from export.step import OnProgress, Rewritten
from ssd_train.errors import ModelError
from ssd_train.networks.anchors import CENTER_VARIANCE, SIZE_VARIANCE
from ssd_train.spec import RAW

# The constant of an exported graph; its name is that of the PyTorch module's buffer.
ANCHORS = "network.anchors"


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`."""
    constant = next((each for each in source.model.graph.initializer if each.name == ANCHORS), None)
    if constant is None:
        raise ModelError(
            f"{source.path}: has no anchors to decode with, since its network decodes boxes itself; use its detections"
        )
    model = network_only(source.model)
    model.producer_name, model.producer_version = source.model.producer_name, source.model.producer_version
    return Rewritten(
        model=model,
        metadata={
            OUTPUTS_KEY: RAW,
            # The shortest decimals that give the same float32.
            "anchors": json.dumps([[float(str(side)) for side in row] for row in numpy_helper.to_array(constant)]),
            "variances": json.dumps([CENTER_VARIANCE, CENTER_VARIANCE, SIZE_VARIANCE, SIZE_VARIANCE]),
        },
    )
