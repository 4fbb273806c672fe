"""Network + decode + NMS -> one self-describing ONNX file, checked before it exists.

    images (N, 3, H, W) -> network -> cls_logits, box_offsets -> Postprocess -> boxes, scores, labels

The raw predictions keep the names `cls_logits` and `box_offsets` inside the graph, so that a parity
check can look at them; they are no outputs.
"""

import dataclasses
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.graph import Difference, open_graph, with_raw_outputs
from export.opset import TRACED_OPSET, lowered
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.networks.detector import Detector
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import INPUT_NAME, OUTPUT_NAMES, RAW_NAMES, DetectorSpec, PostprocessSettings

log = logging.getLogger(__name__)

# The largest difference between PyTorch's detections and the file's, in pixels and in score; and the share of them that
# may have another partner, since softmax differs in its last bit and the last bit decides which of two equal candidates
# stays. That of the raw predictions is the precision's (`Precision.onnx_tolerance`).
BOX_TOLERANCE = 1e-2
SCORE_TOLERANCE = 1e-5
TIED_SHARE = 0.02

# Batch sizes of the check; the trace itself uses 2.
TRACED_BATCH = 2
CHECKED_BATCHES = (1, 3)


def export_onnx(network: SSD, out_dir: Path, *, settings: PostprocessSettings | None = None) -> Path:
    """Export a network with decode and NMS to `out_dir/<network>.<precision>.onnx`.

    The file takes `images` (N, 3, H, W) float32, normalised, any N, and gives `boxes` (N, D, 4) xyxy
    in input pixels, `scores` (N, D) and `labels` (N, D) int64, padded with -1. Its metadata holds
    the whole `DetectorSpec`. It is written only after ONNX's checker passed it with full shape
    inference and ONNX Runtime gave PyTorch's values for it on batches other than the traced one.

    Args:
        network: in evaluation mode, on the CPU; float32, or `precision.in_precision(..., "fp16")`.
        out_dir: made if missing; a file of that name is replaced.
        settings: thresholds and counts that become part of the graph; None for the network's own.

    Raises:
        ModelError: the exported graph does not compute what the network does.
        SSDDeployError: the folder cannot be written.
    """
    settings = settings or network.spec.postprocess
    detector = Detector(network, settings).eval()
    versions = {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    spec = dataclasses.replace(network.spec, postprocess=settings, versions=versions)
    tolerance = PRECISIONS.find(spec.precision).onnx_tolerance
    if tolerance is None:
        exported = " or ".join(row.name for row in PRECISIONS.values() if row.onnx_tolerance is not None)
        raise ModelError(
            f"{spec.network}: cannot be exported in {spec.precision}; use {exported}", arguments=("precision",)
        )
    log.info("%s: tracing it in %s", spec.network, spec.precision)
    model = lowered(_traced(detector, spec))
    # The raw predictions become inner values, whose names and shapes stay known.
    for output in [output for output in model.graph.output if output.name in RAW_NAMES]:
        model.graph.value_info.append(output)
        model.graph.output.remove(output)
    strip_traces(model)
    onnx.helper.set_model_props(model, spec.to_metadata())
    onnx.checker.check_model(model, full_check=True)
    path = out_dir / f"{network.config.name}.{spec.precision}.onnx"
    log.info("%s: checking it against PyTorch", path.name)
    _check_values(detector, model, spec, tolerance)
    with written_atomically(path) as temporary:
        onnx.save(model, temporary)
    return path


def _traced(detector: Detector, spec: DetectorSpec) -> onnx.ModelProto:
    images = torch.zeros(TRACED_BATCH, 3, *spec.input_size)
    return traced(detector, {INPUT_NAME: images}, [*OUTPUT_NAMES, *RAW_NAMES], spec.network)


def traced(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], called: str) -> onnx.ModelProto:
    """Return PyTorch's own export of a module, whose inputs have any number of images; `called` is for errors.

    Raises:
        ModelError: there is none.
    """
    exporter_log = logging.getLogger("torch.onnx")
    level = exporter_log.level
    # The exporter logs optional packages that it does without and prints counts of rewrites: nothing for a user.
    exporter_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            count = torch.export.Dim("N", min=1)
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                opset_version=TRACED_OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: count} for _ in inputs),
            )
    finally:
        exporter_log.setLevel(level)
    if program is None:
        raise ModelError(f"{called}: PyTorch exported no graph; check the installed torch version")
    return program.model_proto


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove the Python stack traces that the exporter leaves on every node: size, and paths of the machine."""
    model.graph.ClearField("metadata_props")
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.ClearField("metadata_props")


def _check_values(detector: Detector, model: onnx.ModelProto, spec: DetectorSpec, tolerance: float) -> None:
    """Compare the graph with PyTorch on inputs that were not traced, raw predictions included."""
    names = [*OUTPUT_NAMES, *RAW_NAMES]
    run = open_graph(with_raw_outputs(model, spec.network), names)
    generator = torch.Generator().manual_seed(0)
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, 3, *spec.input_size, generator=generator)
        with torch.inference_mode():
            expected = dict(zip(names, (value.numpy() for value in detector(images)), strict=True))
        got = dict(zip(names, run(images.numpy()), strict=True))
        for name in RAW_NAMES:
            if not np.isfinite(expected[name]).all():
                raise ModelError(
                    f"{spec.network}: its {name} are not finite in {spec.precision}, so its activations leave that "
                    "range; nothing was written, use the precision fp32",
                    arguments=("precision",),
                )
            difference = Difference.between(expected[name], got[name]).largest
            if not difference <= tolerance:
                raise ModelError(
                    f"{spec.network}: the exported graph gives other {name} than PyTorch for a batch of {batch} "
                    f"({difference:.1e} of their spread, at most {tolerance:.0e} is allowed); nothing was written"
                )
        check_detections(detector.postprocess, detector.network.anchors, got, spec.network)


def check_detections(
    postprocess: Postprocess, anchors: Tensor | None, got: Mapping[str, NDArray[Any]], called: str
) -> None:
    """Compare a graph's decode and NMS with PyTorch's, both on the graph's own raw predictions.

    Args:
        got: detections and raw predictions of the graph by their names.
        called: what an error calls the network.

    Raises:
        ModelError: too many detections have no partner.
    """
    with torch.inference_mode():
        raw = [torch.from_numpy(got[name]) for name in RAW_NAMES]
        outputs = postprocess(*raw, anchors)
    expected = dict(zip(OUTPUT_NAMES, (value.numpy() for value in outputs), strict=True))
    shapes = [
        (got[name].shape, got[name].dtype) == (expected[name].shape, expected[name].dtype) for name in OUTPUT_NAMES
    ]
    alone = _rows_alone(got, expected) + _rows_alone(expected, got) if all(shapes) else 2 * got["labels"].size
    if alone > TIED_SHARE * 2 * got["labels"].size:
        raise ModelError(
            f"{called}: {alone} of {2 * got['labels'].size} detections of the exported graph and of PyTorch have no "
            f"partner on the other side for a batch of {len(got['labels'])}; nothing was written"
        )


def _rows_alone(rows: Mapping[str, NDArray[Any]], others: Mapping[str, NDArray[Any]]) -> int:
    """Count detections and padding rows that are not among the other side's of the same image, in any order."""
    boxes, other_boxes = rows["boxes"][:, :, None], others["boxes"][:, None]
    near = np.isclose(boxes, other_boxes, rtol=1e-5, atol=BOX_TOLERANCE).all(axis=-1)
    near &= np.abs(rows["scores"][:, :, None] - others["scores"][:, None]) < SCORE_TOLERANCE
    near &= rows["labels"][:, :, None] == others["labels"][:, None]
    return int((~near.any(axis=2)).sum())
