"""An exported file as an ONNX graph: read back, cut to its network, run on the CPU."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from export.exported import read_exported
from export.one_file import check_one_file
from export.session import open_session
from ssd_train.errors import ModelError, first_line
from ssd_train.preprocess import Images
from ssd_train.spec import RAW_NAMES, DetectorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedGraph:
    """An exported file that was read: its graph, which is not changed in place, its text entries and what they mean."""

    path: Path
    model: onnx.ModelProto
    metadata: dict[str, str]
    spec: DetectorSpec


def load_exported(path: Path) -> ExportedGraph:
    """Read a file of `export_onnx` or of a step.

    Raises:
        ModelError: the file is missing, no ONNX file, or not one of ours.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file; make one with `ssd-deploy export`")
    return graph_of_bytes(path.read_bytes(), path)


def graph_of_bytes(data: bytes, path: Path) -> ExportedGraph:
    """Read what is in a file; see `load_exported`."""
    try:
        model = onnx.load_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{path}: is not a usable ONNX file ({error}); make one with `ssd-deploy export`") from error
    exported = read_exported(data, str(path))
    check_one_file(data, str(path))
    return ExportedGraph(path=path, model=model, metadata=exported.metadata, spec=exported.spec)


def check_sound(graph: ExportedGraph) -> None:
    """Raise ModelError where a graph is damaged or has no raw predictions, before anything is made of it."""
    raw_values(graph.model, str(graph.path))
    try:
        onnx.checker.check_model(graph.model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(
            f"{graph.path}: its graph is damaged ({first_line(error)}); export the model again with `ssd-deploy export`"
        ) from error


def network_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph from images to raw predictions, without decode and NMS."""
    return onnx.utils.Extractor(model).extract_model([value.name for value in model.graph.input], list(RAW_NAMES))


def network_nodes(model: onnx.ModelProto) -> set[str]:
    """Return the names of the nodes that lead to the raw predictions; unlike `network_only`, no weight is copied."""
    producers = {output: node for node in model.graph.node for output in node.output}
    names: set[str] = set()
    waiting = list(RAW_NAMES)
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            waiting += node.input
    return names


def layer_names(model: onnx.ModelProto) -> dict[str, str]:
    """Return layer -> node of every convolution, in the order of the data flow; a layer is called as its weight is."""
    return {
        node.input[1].removeprefix("network.").removesuffix(".weight"): node.name
        for node in model.graph.node
        if node.op_type == "Conv"
    }


def with_raw_outputs(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return a copy that gives out the raw predictions too, inner values of every exported graph.

    A ModelError calls the graph by `name` where it has none.
    """
    values = raw_values(model, name)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    given = {value.name for value in model.graph.output}
    copy.graph.output.extend(value for value in values if value.name not in given)
    return copy


def raw_values(model: onnx.ModelProto, name: str) -> list[onnx.ValueInfoProto]:
    """Return names and shapes of the raw predictions; a ModelError calls the graph by `name` where they are missing."""
    values = {value.name: value for value in [*model.graph.value_info, *model.graph.output]}
    missing = [raw for raw in RAW_NAMES if raw not in values]
    if missing:
        raise ModelError(f"{name}: has no inner value {', '.join(missing)}; export it again with `ssd-deploy export`")
    return [values[raw] for raw in RAW_NAMES]


def open_graph(model: onnx.ModelProto, outputs: Sequence[str]) -> Callable[[Images], list[Any]]:
    """Return a function from images to values of a graph on the CPU; it raises ModelError where that does not run."""
    name = model.graph.name or "the graph"
    session = open_session(model.SerializeToString(), name)
    (taken,) = (value.name for value in session.get_inputs())

    def run(images: Images) -> list[Any]:
        try:
            return session.run(list(outputs), {taken: images})
        except Exception as error:  # ONNX Runtime's exceptions share no narrower base
            raise ModelError(
                f"{name}: ONNX Runtime failed to run it ({first_line(error)}); export it again with `ssd-deploy export`"
            ) from error

    return run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """How far values are from those that they should be: largest and root mean square, as shares of the spread."""

    largest: float
    rms: float

    @classmethod
    def between(cls, expected: NDArray[Any], got: NDArray[Any]) -> "Difference":
        """Compare values; other shapes are infinitely far apart, and NaN stays NaN, which is within no limit."""
        if expected.shape != got.shape:
            return cls(largest=float("inf"), rms=float("inf"))
        apart = np.abs(got - expected)
        spread = float(expected.std()) + 1e-12
        return cls(largest=float(apart.max()) / spread, rms=float(np.sqrt(np.mean(apart**2))) / spread)


def some_images(spec: DetectorSpec) -> Images:
    """Return noise as a detector takes it, the same each time: two images, or as many as it is fixed to."""
    shape = (spec.batch_size or 2, *spec.image_shape)
    random = np.random.default_rng(0)
    return (
        random.integers(0, 256, shape, np.uint8)
        if spec.input.is_8_bit
        else random.normal(size=shape).astype(np.float32)
    )


def differences(
    made: onnx.ModelProto,
    source: onnx.ModelProto,
    outputs: Sequence[str],
    images: Images,
    images_of_made: Images | None = None,
) -> dict[str, Difference]:
    """Run two graphs on the CPU; returns how far `made` is from `source` in each output.

    Args:
        images_of_made: the same images as `made` takes them; None for as they are.
        outputs: `OUTPUT_NAMES`, or `RAW_NAMES`, for which decode and NMS are not run.
    """
    graphs = [network_only(each) if set(outputs) <= set(RAW_NAMES) else each for each in (source, made)]
    batches = (images, images if images_of_made is None else images_of_made)
    expected, got = (open_graph(graph, outputs)(batch) for graph, batch in zip(graphs, batches, strict=True))
    return {name: Difference.between(theirs, ours) for name, theirs, ours in zip(outputs, expected, got, strict=True)}
