"""Somebody else's ONNX file -> one of this project's: its raw outputs, and our decode + NMS behind them.

    their graph, cut to its raw outputs -> cls_logits, box_offsets -> Postprocess -> boxes, scores, labels

The result describes itself as an exported file does, and what takes an exported file takes it.
"""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.adopt_options import AdoptOptions
from export.foreign_graph import ForeignGraph, read_foreign
from export.foreign_outputs import Meaning, in_our_form, meaning_of
from export.graph import Difference, open_graph, with_raw_outputs
from export.onnx import TRACED_BATCH, check_detections, strip_traces, traced
from export.opset import lowered
from ssd_train.errors import ModelError, first_line
from ssd_train.escaped_text import escaped
from ssd_train.files import sha256_of_file, written_atomically
from ssd_train.networks.anchors import CENTER_VARIANCE, SIZE_VARIANCE
from ssd_train.networks.postprocess import Postprocess
from ssd_train.resize_rules import RESIZE_RULES
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES, DetectorSpec, PostprocessSettings, first_names

log = logging.getLogger(__name__)

OWN_VARIANCES = (CENTER_VARIANCE, CENTER_VARIANCE, SIZE_VARIANCE, SIZE_VARIANCE)

# The most that raw predictions may differ from what their file gives, as a share of the spread: both run the same
# kernels of ONNX Runtime, and the logarithm of a probability is rounded.
TOLERANCE = 1e-5

# Batch sizes of the check, where a graph takes any.
CHECKED_BATCHES = (1, 3)

# Of a probability below it only its being small counts; its logarithm is rounded as coarsely as it was itself.
_LEAST_COMPARED = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adopted:
    """A file that was written.

    Attributes:
        path: the file.
        spec: what it says of itself.
        notes: what was found of the file that it was made of, a sentence each.
        checked: what was compared, and the difference that was found.
    """

    path: Path
    spec: DetectorSpec
    notes: tuple[str, ...]
    checked: str


def adopt_onnx(
    path: Path,
    out_dir: Path,
    class_names: Sequence[str],
    options: AdoptOptions,
    *,
    name: str | None = None,
    settings: PostprocessSettings = PostprocessSettings(),
) -> Adopted:
    """Write `out_dir/<name>.fp32.onnx` with this project's decode and NMS behind the raw outputs of another file.

    Args:
        path: an ONNX file of any origin with one float input of pictures and raw outputs; see `AdoptOptions`.
        out_dir: made if missing; a file of that name is replaced.
        class_names: in the order of its columns, without the background.
        name: what the network is called; None for what the file is.
        settings: thresholds and counts that become part of the graph.

    Raises:
        ModelError: the file cannot be read or is not meant so, or the result does not compute what it does.
        SpecError: class names or statistics that make no sense.
        SSDDeployError: the folder cannot be written.
    """
    mean, std = options.statistics()
    graph = read_foreign(path, options)
    meaning = meaning_of(graph, options, OWN_VARIANCES)
    if meaning.num_classes != len(class_names):
        raise ModelError(
            f"{path}: tells {meaning.num_classes} classes and a background apart, but {len(class_names)} names were "
            f"given ({first_names(class_names)}); give one for each class, in the order of its columns",
            arguments=("classes",),
        )
    spec = DetectorSpec(
        network=name or _network_name(path),
        class_names=tuple(class_names),
        input_size=graph.input_size,
        mean=mean,
        std=std,
        resize=RESIZE_RULES.find(options.resize).text,
        postprocess=settings,
        weights=escaped(path.name),
        weights_sha256=sha256_of_file(path),
        versions={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__},
        batch_size=graph.batch_size,
        adopted_from=graph.producer,
    )
    log.info("%s: tracing the post-processing", spec.network)
    tail = _Tail(settings, graph.input_size, meaning.anchors).eval()
    model = _joined(in_our_form(graph, meaning, options), tail, meaning, spec, path)
    result = out_dir / f"{spec.file_stem}.onnx"
    log.info("%s: checking it against %s", result.name, path.name)
    checked = _check(model, tail, graph, meaning, options, spec)
    with written_atomically(result) as temporary:
        onnx.save(model, temporary)
    return Adopted(path=result, spec=spec, notes=_notes(graph, meaning, options, spec), checked=checked)


class _Tail(nn.Module):
    """The post-processing with its anchors, which are called in a graph as those of an exported network are."""

    def __init__(
        self, settings: PostprocessSettings, input_size: tuple[int, int], anchors: NDArray[np.float32] | None
    ) -> None:
        super().__init__()
        self.postprocess = Postprocess(settings, input_size)
        self.network = nn.Module()
        self.network.register_buffer("anchors", None if anchors is None else torch.from_numpy(anchors))

    @property
    def anchors(self) -> Tensor | None:
        """(A, 4) cx, cy, w, h in input pixels; None for boxes that are decoded."""
        return cast(Tensor | None, self.network.anchors)

    def forward(self, cls_logits: Tensor, box_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = self.postprocess(cls_logits, box_offsets, self.anchors)
        return found


def _joined(network: onnx.ModelProto, tail: _Tail, meaning: Meaning, spec: DetectorSpec, path: Path) -> onnx.ModelProto:
    """Put the post-processing behind a network; raise ModelError where that is no graph."""
    columns = meaning.num_classes + 1
    count = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    raw = {RAW_NAMES[0]: torch.zeros(TRACED_BATCH, count, columns), RAW_NAMES[1]: torch.zeros(TRACED_BATCH, count, 4)}
    behind = lowered(traced(tail, raw, OUTPUT_NAMES, spec.network))
    strip_traces(behind)
    version = next(each.version for each in network.opset_import if each.domain in ("", "ai.onnx"))
    try:
        if version != next(each.version for each in behind.opset_import if each.domain == ""):
            behind = onnx.version_converter.convert_version(behind, version)
        behind.ir_version = network.ir_version
        model = onnx.compose.merge_models(network, behind, io_map=[(name, name) for name in RAW_NAMES])
        # The composer lists the operators' release once for each part.
        del model.opset_import[:]
        model.opset_import.extend(network.opset_import)
        if spec.batch_size is not None:
            for value in (*model.graph.input, *model.graph.output):
                value.type.tensor_type.shape.dim[0].dim_value = spec.batch_size
        model.graph.value_info.extend(
            value for value in network.graph.output if value.name not in {each.name for each in model.graph.value_info}
        )
        model.producer_name = "ssd-deploy"
        onnx.helper.set_model_props(model, spec.to_metadata())
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's, the converter's and the composer's exceptions share no narrower base
        raise ModelError(
            f"{path}: no post-processing can be put behind its graph ({first_line(error)}); export it again, with "
            "opset 17 and standard operators"
        ) from error
    return model


def _check(
    model: onnx.ModelProto,
    tail: _Tail,
    graph: ForeignGraph,
    meaning: Meaning,
    options: AdoptOptions,
    spec: DetectorSpec,
) -> str:
    """Compare a graph with the file that it was made of, and its detections with PyTorch's; returns what was found."""
    names = [*OUTPUT_NAMES, *RAW_NAMES]
    run = open_graph(with_raw_outputs(model, spec.network), names)
    worst = dict.fromkeys(RAW_NAMES, 0.0)
    batches = CHECKED_BATCHES if graph.batch_size is None else (graph.batch_size,)
    for batch in batches:
        images = graph.noise(batch)
        got = dict(zip(names, run(images), strict=True))
        theirs = graph.run(images[:, ::-1] if options.channel_order == "bgr" else images)
        expected = dict(zip(RAW_NAMES, _as_ours(*theirs, meaning, options), strict=True))
        for name in RAW_NAMES:
            if name == RAW_NAMES[0] and meaning.are_probabilities:
                counts = expected[name] > np.log(_LEAST_COMPARED)
                expected[name], got_values = expected[name][counts], got[name][counts]
            else:
                got_values = got[name]
            difference = Difference.between(expected[name], got_values).largest
            worst[name] = max(worst[name], difference)
            if not difference <= TOLERANCE:
                raise ModelError(
                    f"{graph.path}: the adopted graph gives other {name} ({difference:.1e} of their spread, at most "
                    f"{TOLERANCE:.0e} is allowed) for a batch of {batch}; nothing was written"
                )
        check_detections(tail.postprocess, tail.anchors, got, spec.network)
    listed = ", ".join(f"{name} {difference:.2g}" for name, difference in worst.items())
    return (
        f"largest difference as a share of the spread: {listed} ({TOLERANCE:g} allowed), beside {graph.path.name} in "
        f"batches of {' and '.join(map(str, batches))} of noise"
    )


def _as_ours(
    scores: NDArray[Any], boxes: NDArray[Any], meaning: Meaning, options: AdoptOptions
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what raw predictions of theirs are in our form, in NumPy and not by the graph that is checked."""
    if options.background == "last":
        scores = np.roll(scores, 1, axis=2)
    if meaning.are_probabilities:
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    boxes = boxes * np.array(meaning.scale, np.float32)
    if meaning.anchors is None and options.box_format == "cxcywh":
        boxes = np.concatenate([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], axis=2)
    elif meaning.anchors is None and options.box_format == "yxyx":
        boxes = boxes[..., [1, 0, 3, 2]]
    return scores, boxes


def _notes(graph: ForeignGraph, meaning: Meaning, options: AdoptOptions, spec: DetectorSpec) -> tuple[str, ...]:
    kind = "probabilities" if meaning.are_probabilities else "logits"
    boxes = "decoded boxes" if meaning.anchors is None else "offsets from anchors"
    boxes += " in shares of the input's sides" if meaning.in_sides else " in pixels"
    scale = ", ".join(f"{value:.4g}" for value in (*spec.mean, *spec.std))
    notes = [
        f"{graph.scores} are {kind} of {meaning.num_classes} classes and a background, {graph.boxes} are {boxes}",
        f"mean and std are {scale} (RGB, for values in 0 to 1); pictures are resized by the rule {options.resize}",
    ]
    if graph.batch_size is not None:
        notes.append(
            f"it takes {graph.batch_size} image{'s' if graph.batch_size > 1 else ''} a call, since its graph does not "
            "compute the same with more; export it with a dynamic batch"
        )
    return tuple(escaped(note) for note in notes)


def _network_name(path: Path) -> str:
    """Return a name for what is in a file: its own without what no name of a network has."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem)[:80].strip("._") or "adopted"
