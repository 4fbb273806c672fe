"""Somebody else's ONNX file, read and cut to the raw outputs of a detector: `foreign_outputs` says what they mean.

input -> ... -> scores, boxes -> (their decode and NMS, which are cut off)
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.adopt_options import AdoptOptions
from export.file_metadata import LEAST_OPSET
from export.session import open_session
from ssd_train.errors import ModelError, first_line
from ssd_train.escaped_text import escaped
from ssd_train.json_input import quoted
from ssd_train.spec import MAX_INPUT_SIDE

# Operators whose results' shapes depend on values: nothing that a network of fixed shapes has.
_UNSHAPED = {
    "NonMaxSuppression",
    "NonZero",
    "Unique",
    "Compress",
    "Loop",
    "If",
    "Scan",
    "SequenceAt",
    "SplitToSequence",
}

# A protocol buffer has no more, and a file of ours is one.
MOST_BYTES = 2**31 - 1

# A longer name of a program is cut.
MOST_PRODUCER = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignGraph:
    """A file that was read.

    Attributes:
        path: the file.
        model: from its one input to `scores` and `boxes`, its outputs, in opset 17 or later.
        input_name: of its input.
        input_size: (height, width) in pixels.
        batch_size: the only number of images that it takes; None for any.
        is_channels_last: its input is (N, H, W, 3).
        scores, boxes: names of its outputs.
        producer: the program that wrote the file, for people.
    """

    path: Path
    model: onnx.ModelProto
    input_name: str
    input_size: tuple[int, int]
    batch_size: int | None
    is_channels_last: bool
    scores: str
    boxes: str
    producer: str

    def noise(self, count: int | None = None) -> NDArray[np.float32]:
        """Return images (N, 3, H, W) that are normalised noise, the same each time."""
        shape = (count or self.batch_size or 2, 3, *self.input_size)
        return np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def run(self, images: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return scores and boxes as their file gives them, in ONNX Runtime on the CPU."""
        taken = np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if self.is_channels_last else images
        scores, boxes = _run(self.model, self.path, self.input_name, [self.scores, self.boxes], taken)
        return scores, boxes


def read_foreign(path: Path, options: AdoptOptions) -> ForeignGraph:
    """Read an ONNX file of any origin, and cut it to its raw outputs.

    Raises:
        ModelError: it is missing, damaged, or no detector's: another input than one picture tensor, no such values,
            shapes that depend on what is in a picture.
    """
    try:
        return _read(path, options)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        # onnx's helpers raise them at values that the checker lets through.
        raise ModelError(f"{path}: is not a usable ONNX file ({first_line(error)}); export it again") from error


def _read(path: Path, options: AdoptOptions) -> ForeignGraph:
    model = _loaded(path)
    source = _only_input(model, path)
    size, batch_size, is_channels_last = _input_form(source, path, options)
    scores, boxes = _named_outputs(model, path, options)
    written_by = escaped(" ".join(filter(None, map(_text, (model.producer_name, model.producer_version)))))
    model = _cut(model, path, source.name, (scores, boxes))
    graph = ForeignGraph(
        path=path, model=model, input_name=source.name, input_size=size, batch_size=batch_size,
        is_channels_last=is_channels_last, scores=scores, boxes=boxes,
        producer=written_by[:MOST_PRODUCER] or "an unknown program",
    )  # fmt: skip
    free = dataclasses.replace(graph, model=_with_free_batch(model, batch_size or 0), batch_size=None)
    return free if batch_size is None or _takes_any_batch(free, graph) else graph


def _text(value: str | bytes) -> str:
    """Return a string of a file, which Protocol Buffers give as bytes where it is no UTF-8."""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _loaded(path: Path) -> onnx.ModelProto:
    """Return a file with what it keeps in files beside it, checked, in opset 17 or later."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path}: has {path.stat().st_size:,} bytes, more than an ONNX file may have")
        model = onnx.load(path)
        onnx.checker.check_model(model)
        size = model.ByteSize()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); name an ONNX file") from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{path}: is not a usable ONNX file ({first_line(error)}); export it again") from error
    if size > MOST_BYTES:
        raise ModelError(f"{path}: has {size:,} bytes with the files beside it, more than one ONNX file may have")
    version = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if version < LEAST_OPSET:
        try:
            model = onnx.version_converter.convert_version(model, LEAST_OPSET)
        except Exception as error:  # the converter's exceptions share no narrower base
            raise ModelError(
                f"{path}: is of opset {version}, which onnx {onnx.__version__} cannot make {LEAST_OPSET} of "
                f"({first_line(error)}); export it again with opset {LEAST_OPSET}"
            ) from error
    return model


def _only_input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    constants = {each.name for each in model.graph.initializer}
    # Old exporters list weights among the inputs.
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(quoted(value.name) for value in inputs[:5])
        raise ModelError(
            f"{path}: takes {len(inputs)} inputs ({names}); a detector of one picture tensor can be adopted, so export "
            "it without the others"
        )
    return inputs[0]


def _input_form(
    value: onnx.ValueInfoProto, path: Path, options: AdoptOptions
) -> tuple[tuple[int, int], int | None, bool]:
    """Return (height, width), the fixed number of images if there is one, and whether channels come last."""
    tensor = value.type.tensor_type
    sides = [dimension.dim_value for dimension in tensor.shape.dim]  # 0 where it is open
    if tensor.elem_type != TensorProto.FLOAT or len(sides) != 4 or 3 not in (sides[1], sides[3]):
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        shown = " x ".join(str(side or "?") for side in sides) or "unknown shape"
        raise ModelError(
            f"{path}: its input {quoted(value.name)} is {kind} of {shown}, but float of N x 3 x height x width or "
            "N x height x width x 3 was expected; export it so"
        )
    is_channels_last = sides[1] != 3
    own = (sides[1], sides[2]) if is_channels_last else (sides[2], sides[3])
    given = options.size()
    if given is not None and any(side not in (0, wanted) for side, wanted in zip(own, given, strict=True)):
        raise ModelError(
            f"{path}: its input has {own[1] or 'any'} x {own[0] or 'any'} pixels, not {given[1]} x {given[0]}; leave "
            "the size out",
            arguments=("input_size",),
        )
    height, width = given or own
    if not (0 < height <= MAX_INPUT_SIDE and 0 < width <= MAX_INPUT_SIDE):
        raise ModelError(f"{path}: leaves its input's size open; name it", arguments=("input_size",))
    return (height, width), sides[0] or None, is_channels_last


def _named_outputs(model: onnx.ModelProto, path: Path, options: AdoptOptions) -> tuple[str, str]:
    """Return the names of scores and boxes; where one is not given it is found if nothing else can be meant."""
    there = {name for node in model.graph.node for name in node.output if name}
    for argument, name in (("scores", options.scores), ("boxes", options.boxes)):
        if name is not None and name not in there:
            raise ModelError(f"{path}: has no value {quoted(name)}; {_candidates(model, path)}", arguments=(argument,))
    if options.scores is not None and options.boxes is not None:
        if options.scores == options.boxes:
            raise ModelError(
                f"{path}: {quoted(options.scores)} cannot be scores and boxes; {_candidates(model, path)}",
                arguments=("scores", "boxes"),
            )
        return options.scores, options.boxes
    pairs = [
        (scores, boxes)
        for scores in model.graph.output
        for boxes in model.graph.output
        if _sides(boxes)[2:] == [4] and len(_sides(scores)) == 3 and scores.name != boxes.name
        and _sides(scores)[1] == _sides(boxes)[1]
        and options.scores in (None, scores.name) and options.boxes in (None, boxes.name)
    ]  # fmt: skip
    if len(pairs) > 1:
        # With three classes and a background both have four columns; jetson-inference calls its outputs so.
        pairs = [pair for pair in pairs if (pair[0].name, pair[1].name) == ("scores", "boxes")]
    if len(pairs) != 1:
        raise ModelError(
            f"{path}: does not tell which of its values are scores and boxes; {_candidates(model, path)}",
            arguments=("scores", "boxes"),
        )
    return pairs[0][0].name, pairs[0][1].name


def _sides(value: onnx.ValueInfoProto) -> list[int]:
    return [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def _candidates(model: onnx.ModelProto, path: Path) -> str:
    """Say what a file has that could be meant."""
    with contextlib.suppress(Exception):  # its exceptions share no base, and shapes are only for a sentence
        model = onnx.shape_inference.infer_shapes(model)
    outputs = {value.name for value in model.graph.output}
    values = [value for value in (*model.graph.output, *model.graph.value_info) if len(_sides(value)) == 3]
    values.sort(key=lambda value: (value.name not in outputs, _sides(value)[2] != 4))
    listed = ", ".join(
        f"{quoted(value.name, 40)} ({' x '.join(str(side or '?') for side in _sides(value))})" for value in values[:8]
    )
    return f"values of three dimensions are {listed}" if listed else "no value of it has three dimensions"


def _cut(model: onnx.ModelProto, path: Path, source: str, outputs: tuple[str, str]) -> onnx.ModelProto:
    """Return the nodes that lead from the input to the outputs, with constants as initializers and names for nodes."""
    producers = {name: node for node in model.graph.node for name in node.output if name}
    kept: dict[int, onnx.NodeProto] = {}
    waiting = list(outputs)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and id(node) not in kept:
            kept[id(node)] = node
            waiting += [name for name in node.input if name]
    nodes = [node for node in model.graph.node if id(node) in kept]
    for node in nodes:
        if node.op_type in _UNSHAPED:
            raise ModelError(
                f"{path}: {quoted(outputs[0])} and {quoted(outputs[1])} come behind {node.op_type}, whose result "
                "depends on the picture; name the raw values in front of it",
                arguments=("scores", "boxes"),
            )
        if node.domain not in ("", "ai.onnx"):
            raise ModelError(
                f"{path}: needs the operator {quoted(node.op_type)} of {quoted(node.domain)}, which is none of ONNX's; "
                "export it with standard operators"
            )
    used = {name for node in nodes for name in node.input}
    if source not in used:
        raise ModelError(
            f"{path}: {quoted(outputs[0])} and {quoted(outputs[1])} do not depend on the input {quoted(source)}; name "
            "the raw outputs",
            arguments=("scores", "boxes"),
        )
    constants = [each for each in model.graph.initializer if each.name in used]
    layers = []
    for index, node in enumerate(nodes):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constant = onnx.TensorProto()
            constant.CopyFrom(node.attribute[0].t)
            constant.name = node.output[0]
            constants.append(constant)
        else:
            layers.append(onnx.NodeProto())
            layers[-1].CopyFrom(node)
            # Steps tell nodes apart by their names, which exporters may leave out or repeat.
            layers[-1].name = f"{index}/{node.op_type}"
    (images,) = [value for value in model.graph.input if value.name == source]
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(layers, "adopted", [images], given, constants)
    # Once, whatever a file or the converter repeats.
    version = max(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    cut = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    cut.ir_version = helper.find_min_ir_version_for(cut.opset_import)
    return cut


def _with_free_batch(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Return a copy whose input takes any number of images.

    Args:
        count: how many it took; 0 for any. Exporters write it into the shapes of Reshape, where 0 stands for as many as
            there are.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    (value,) = copy.graph.input
    value.type.tensor_type.shape.dim[0].dim_param = "N"
    constants = {each.name: each for each in copy.graph.initializer if each.data_type == TensorProto.INT64}
    for node in copy.graph.node if count else ():
        if node.op_type == "Reshape" and node.input[1] in constants:
            shape = numpy_helper.to_array(constants[node.input[1]]).copy()
            if shape.ndim == 1 and len(shape) > 1 and shape[0] == count and 0 not in shape:
                shape[0] = 0
                for attribute in [each for each in node.attribute if each.name == "allowzero"]:
                    # With it 0 would stand for none; PyTorch writes it wherever it makes no difference.
                    node.attribute.remove(attribute)
                node.input[1] = f"{node.name}/shape"
                copy.graph.initializer.append(numpy_helper.from_array(shape, node.input[1]))
    return copy


def _takes_any_batch(free: ForeignGraph, fixed: ForeignGraph) -> bool:
    """Whether a graph that was made for one number of images gives the same for each of several."""
    assert fixed.batch_size is not None
    images = free.noise(2 * fixed.batch_size)
    try:
        together = free.run(images)
        apart = [fixed.run(part) for part in np.split(images, 2)]
    except ModelError:
        return False
    return all(
        whole.shape[:1] == images.shape[:1]
        and whole.shape == (joined := np.concatenate(parts)).shape
        and np.allclose(whole, joined, rtol=1e-4, atol=1e-5)
        for whole, parts in zip(together, zip(*apart, strict=True), strict=True)
    )


def _run(model: onnx.ModelProto, path: Path, source: str, outputs: Sequence[str], images: NDArray[Any]) -> list[Any]:
    session = open_session(model.SerializeToString(), str(path))
    try:
        return session.run(list(outputs), {source: images})
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        raise ModelError(f"{path}: ONNX Runtime failed to run it ({first_line(error)}); export it again") from error
