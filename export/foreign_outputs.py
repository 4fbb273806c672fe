"""What the raw outputs of somebody else's graph mean, and the graph with those of this project's form.

theirs:  input -> ... -> scores, boxes
ours:    images -> (order, layout) -> ... -> scores, boxes -> (background first, Log, scales)
         -> cls_logits, box_offsets
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.adopt_options import AUTO, AdoptOptions
from export.anchor_file import read_anchors
from export.foreign_graph import ForeignGraph
from ssd_train.errors import ModelError
from ssd_train.json_input import quoted
from ssd_train.spec import INPUT_NAME, RAW_NAMES

# In front of all names of theirs, so that none is one of ours; layers are called without the first part.
PREFIX = "network.adopted."

# Most coordinates of boxes that are shares of the input are below it, and most in pixels are far above. A few are past
# any limit, since what is looked at are answers to noise.
MOST_SIDES = 2.0

# Softmax of float32, or of float16, summed.
SUM_TOLERANCE = 1e-2

# The least probability whose logarithm is taken: float32's least normal number.
_TINY = float(np.finfo(np.float32).tiny)

# Operator, attributes, constant beside its input.
Step = tuple[str, dict[str, Any], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meaning:
    """What raw outputs turned out to be.

    Attributes:
        num_classes: without the background.
        are_probabilities: scores are probabilities and not logits.
        anchors: (A, 4) float32 cx, cy, w, h in input pixels; None for decoded boxes.
        scale: what offsets or boxes are multiplied by, four numbers: variances by ours, or pixels a unit.
        in_sides: anchors or decoded boxes are shares of the input's sides in their file, not pixels.
    """

    num_classes: int
    are_probabilities: bool
    anchors: NDArray[np.float32] | None
    scale: tuple[float, float, float, float]
    in_sides: bool


def meaning_of(graph: ForeignGraph, options: AdoptOptions, own_variances: Sequence[float]) -> Meaning:
    """Run a graph and look at what it gives.

    Args:
        own_variances: those that this project's post-processing decodes with.

    Raises:
        ModelError: shapes or values are not those of raw outputs.
    """
    images = graph.noise()
    scores, boxes = graph.run(images)
    named = f"{quoted(graph.scores)} has shape {scores.shape} and {quoted(graph.boxes)} {boxes.shape}"
    if (
        scores.ndim != 3 or boxes.ndim != 3 or scores.shape[:2] != boxes.shape[:2] or boxes.shape[2] != 4
        or scores.shape[0] != len(images) or scores.dtype != np.float32 or boxes.dtype != np.float32
    ):  # fmt: skip
        raise ModelError(
            f"{graph.path}: {named} ({scores.dtype}, {boxes.dtype}), but float32 of (N, A, classes and background) and "
            f"(N, A, 4) were expected for {len(images)} images; name other values",
            arguments=("scores", "boxes"),
        )
    if scores.shape[2] < 2:
        raise ModelError(
            f"{graph.path}: {named}; scores of a background and at least one class were expected, so detectors that "
            "tell one class by a sigmoid are not supported",
            arguments=("scores",),
        )
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        raise ModelError(f"{graph.path}: gives values that are not finite for noise; use another copy")
    height, width = graph.input_size
    sides = (float(width), float(height), float(width), float(height))
    rows = None if options.anchors is None else _anchor_rows(options.anchors, scores.shape[1])
    in_sides = _in_sides(boxes if rows is None else rows, options)
    if rows is None:
        factor = sides if in_sides else (1.0,) * 4
        order = (1, 0, 3, 2) if options.box_format == "yxyx" else (0, 1, 2, 3)
        # In the order of the file's own values, which are put in ours behind it.
        scale, anchors = tuple(factor[axis] for axis in order), None
    else:
        anchors = _anchors(rows * np.array(sides if in_sides else (1.0,) * 4), options)
        scale = tuple(theirs / ours for theirs, ours in zip(options.four_variances(), own_variances, strict=True))
    return Meaning(
        num_classes=scores.shape[2] - 1,
        are_probabilities=_are_probabilities(scores, graph, options),
        anchors=anchors,
        scale=(scale[0], scale[1], scale[2], scale[3]),
        in_sides=in_sides,
    )


def _are_probabilities(scores: NDArray[Any], graph: ForeignGraph, options: AdoptOptions) -> bool:
    is_unit = bool(scores.min() >= 0 and scores.max() <= 1 + SUM_TOLERANCE)
    sums_to_1 = is_unit and bool(np.abs(scores.sum(axis=2) - 1).max() <= SUM_TOLERANCE)
    if options.score_kind == AUTO and is_unit and not sums_to_1:
        raise ModelError(
            f"{graph.path}: {quoted(graph.scores)} has values from 0 to 1 whose rows do not add up to 1, as a sigmoid "
            "gives them, but a softmax over classes and background was expected; name the logits in front of it if "
            "there is one, or say that these are logits",
            arguments=("scores", "score_kind"),
        )
    if options.score_kind == "probabilities" and not sums_to_1:
        raise ModelError(
            f"{graph.path}: {quoted(graph.scores)} has values from {scores.min():.3g} to {scores.max():.3g}, which are "
            "no probabilities whose rows add up to 1; leave the kind of scores out",
            arguments=("score_kind",),
        )
    return sums_to_1 if options.score_kind == AUTO else options.score_kind == "probabilities"


def _in_sides(values: NDArray[Any], options: AdoptOptions) -> bool:
    if options.box_units == AUTO:
        return bool(np.median(np.abs(values)) <= MOST_SIDES)
    return options.box_units == "sides"


def _anchor_rows(path: Path, count: int) -> NDArray[np.float64]:
    rows = read_anchors(path)
    if len(rows) != count:
        raise ModelError(
            f"{path}: has {len(rows)} anchors, but the network has {count}; give its own", arguments=("anchors",)
        )
    return rows


def _anchors(rows: NDArray[np.float64], options: AdoptOptions) -> NDArray[np.float32]:
    """Return cx, cy, w, h of rows in pixels."""
    if options.anchor_format == "xyxy":
        low, high = rows[:, :2], rows[:, 2:]
        rows = np.concatenate([(low + high) / 2, high - low], axis=1)
    if rows[:, 2:].min() <= 0:
        raise ModelError(
            f"{options.anchors}: has an anchor without area; is its order {options.anchor_format}?",
            arguments=("anchors", "anchor_format"),
        )
    return rows.astype(np.float32)


def in_our_form(graph: ForeignGraph, meaning: Meaning, options: AdoptOptions) -> onnx.ModelProto:
    """Return the graph from `images` to `cls_logits` and `box_offsets`, its outputs; its own names have a prefix."""
    model = onnx.compose.add_prefix(graph.model, PREFIX)
    scores, boxes, taken = (f"{PREFIX}{name}" for name in (graph.scores, graph.boxes, graph.input_name))
    building = _Building(model.graph)
    height, width = graph.input_size
    images = helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [graph.batch_size or "N", 3, height, width])
    front: list[Step] = [("Gather", {"axis": 1}, np.array([2, 1, 0]))] if options.channel_order == "bgr" else []
    front += [("Transpose", {"perm": [0, 2, 3, 1]}, None)] if graph.is_channels_last else []
    rows = graph.batch_size or "N"
    columns = meaning.num_classes + 1
    if front:
        building.chain(INPUT_NAME, front, taken, at_front=True)
    else:
        building.rename(taken, INPUT_NAME)
    behind: list[Step] = []
    if options.background == "last":
        behind.append(("Gather", {"axis": 2}, np.array([columns - 1, *range(columns - 1)])))
    if meaning.are_probabilities:
        # A softmax of logarithms gives the probabilities back.
        behind += [("Max", {}, np.float32(_TINY)), ("Log", {}, None)]
    building.chain(scores, behind, RAW_NAMES[0])
    steps: list[Step] = [] if meaning.scale == (1.0,) * 4 else [("Mul", {}, np.array(meaning.scale, np.float32))]
    if meaning.anchors is None and options.box_format == "yxyx":
        steps.append(("Gather", {"axis": 2}, np.array([1, 0, 3, 2])))
    if meaning.anchors is None and options.box_format == "cxcywh":
        building.chain(boxes, steps, f"{RAW_NAMES[1]}/cxcywh")
        building.corners(f"{RAW_NAMES[1]}/cxcywh", RAW_NAMES[1])
    else:
        building.chain(boxes, steps, RAW_NAMES[1])
    count = len(meaning.anchors) if meaning.anchors is not None else _anchor_count(graph)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, count, last])
        for name, last in zip(RAW_NAMES, (columns, 4), strict=True)
    ]
    del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.input.append(images)
    model.graph.output.extend(outputs)
    return model


def _anchor_count(graph: ForeignGraph) -> int:
    return int(graph.run(graph.noise())[1].shape[1])


@dataclasses.dataclass(frozen=True)
class _Building:
    """Adds nodes to a graph in place."""

    graph: onnx.GraphProto

    def chain(self, value: str, steps: Sequence[Step], result: str, *, at_front: bool = False) -> None:
        """Lead from a value to another by operators with a constant each, or none; without operators it is renamed."""
        if not steps:
            # An operator that does nothing is left out by ONNX Runtime, and the name that follows it with it.
            self.rename(value, result)
        nodes = []
        for index, (operator, attributes, constant) in enumerate(steps):
            name = f"{result}/{index}/{operator}"
            inputs = [value]
            if constant is not None:
                inputs.append(f"{name}/constant")
                self.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), inputs[-1]))
            value = result if index == len(steps) - 1 else name
            nodes.append(helper.make_node(operator, inputs, [value], name=f"{name}/node", **attributes))
        for index, node in enumerate(nodes):
            self.graph.node.insert(index if at_front else len(self.graph.node), node)

    def rename(self, value: str, name: str) -> None:
        """Give a value another name wherever it is made or used."""
        for node in self.graph.node:
            for names in (node.input, node.output):
                for index, each in enumerate(names):
                    if each == value:
                        names[index] = name

    def corners(self, value: str, result: str) -> None:
        """Make xyxy of cxcywh."""
        names = {part: f"{result}/{part}" for part in ("centre", "size", "half", "low", "high", "split", "two")}
        self.graph.initializer.append(numpy_helper.from_array(np.array([2, 2]), names["split"]))
        self.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), names["two"]))
        nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
            ("Split", [value, names["split"]], [names["centre"], names["size"]], {"axis": 2}),
            ("Mul", [names["size"], names["two"]], [names["half"]], {}),
            ("Sub", [names["centre"], names["half"]], [names["low"]], {}),
            ("Add", [names["centre"], names["half"]], [names["high"]], {}),
            ("Concat", [names["low"], names["high"]], [result], {"axis": 2}),
        ]
        for operator, inputs, outputs, attributes in nodes:
            self.graph.node.append(
                helper.make_node(operator, inputs, outputs, name=f"{result}/{operator}/node", **attributes)
            )
