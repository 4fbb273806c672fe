"""3x3 convolutions by Winograd's algorithm, in plain ONNX operators: faster on a CPU, for more memory.

A tile of 4x4 outputs takes 16 * 9 = 144 products for each channel and filter. Of polynomials that are evaluated at
six points along either axis it takes 36 (F(4x4, 3x3) in Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", 2016, section 4.3):

    outputs = A^T [(G filter G^T) * (B^T inputs B)] A

The product in the middle, summed over channels, is a matrix product for each of the 36 points. B^T inputs B is a
convolution of each channel with 36 filters and a stride of 4, G filter G^T is a constant:

    (N, C, H, W)    Conv, Reshape, Transpose    (N, 36, C, h * w)   h * w tiles
                    MatMul with the filters     (N, 36, K, h * w)
                    MatMul with A               (N, 16, K * h * w)
                    DepthToSpace, Slice, Add    (N, K, H, W)

Four times the weights are kept, and activations of more than twice the size while such a layer runs. The sums are
float32 in another order with larger intermediate values: an error of 1.3e-6 of a layer's spread instead of 2e-7.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.polynomial import polynomial
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.file_metadata import WINOGRAD_KEY
from export.graph import ExportedGraph
from export.step import OnProgress, Rewritten

# The constant that all such layers share: from the values at 36 points to the 16 outputs of a tile, (16, 36).
OUTPUT_TRANSFORM = "winograd/A"

# Outputs along a side of a tile, and inputs that they depend on.
TILE = 4
PATCH = TILE + 2

# Infinity is the sixth. Of the usual choices these lose least: 1.3e-6 where 0, 1, -1, 2, -2 lose 1.9e-6.
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)

# What a convolution costs either way, in products of a direct one, as measured in ONNX Runtime with 512-bit vectors:
# a product of a batch of matrices; a weight that comes from memory; a value on its way to or from the 36 points.
MATRIX_PRODUCT = 1.4
WEIGHT = 25
TRANSFORMED_VALUE = 120
# A channel's inputs are transformed by themselves, which takes as long as this many tiles more.
CHANNEL_TILES = 50
# Columns of a matrix product are filled up to a multiple of this.
COLUMNS = 16
# Less than this gain is not worth the weights.
LEAST_GAIN = 1.1


def rewrite(source: ExportedGraph, settings: Any, on_progress: OnProgress | None) -> Rewritten:
    """The step of `export.steps`: a file that runs on any CPU, or none where no convolution gains by it."""
    model = with_winograd(source.model)
    if len(model.graph.node) == len(source.model.graph.node):
        return Rewritten(model=None, notes=(f"{source.path}: none of its convolutions gains by Winograd's algorithm",))
    return Rewritten(model=model, metadata={WINOGRAD_KEY: f"F({TILE}x{TILE}, 3x3)"})


def with_winograd(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a float32 graph in which every convolution that gains by it is computed by Winograd's algorithm.

    Those are convolutions of 3x3 with stride and dilation 1 whose input has a known height and width. Convolutions of
    one input share its transform. The graph is one of `export_onnx`: without subgraphs.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    given = {value.name for value in graph.input}
    constants = {value.name: value for value in graph.initializer if value.name not in given}
    sizes = _image_sizes(model)
    sharing = defaultdict(list)
    for node in graph.node:
        if _is_plain_3x3(node, constants) and node.input[0] in sizes:
            sharing[node.input[0], tuple(_attribute(node, "pads", [0] * 4))].append(node)
    # By the name of what a convolution gives, since nodes need no names.
    nodes_of: dict[str, list[NodeProto]] = {}
    for (source, pads), nodes in sharing.items():
        channels = constants[nodes[0].input[1]].dims[1]
        top, left, bottom, right = pads
        height, width = sizes[source]
        size = height + top + bottom - 2, width + left + right - 2
        if not _gains(channels, sum(constants[node.input[1]].dims[0] for node in nodes), *size):
            continue
        grid = tiles(size[0]), tiles(size[1])
        to_full_tiles = top, left, grid[0] * TILE + 2 - top - height, grid[1] * TILE + 2 - left - width
        inputs = _input_nodes(graph, nodes[0], channels, to_full_tiles, grid)
        nodes_of[nodes[0].output[0]] = list(inputs)
        for node in nodes:
            weight, *biases = (numpy_helper.to_array(constants[name]) for name in node.input[1:] if name)
            products = _filter_nodes(graph, node.output[0], inputs[-1].output[0], weight, biases, size)
            nodes_of.setdefault(node.output[0], []).extend(products)
    if nodes_of:
        outputs, _, _ = _transforms()
        graph.initializer.append(_constant(OUTPUT_TRANSFORM, np.kron(outputs, outputs)))
    ordered = [new for node in graph.node for new in nodes_of.get(node.output[0], [node])]
    del graph.node[:]
    graph.node.extend(ordered)
    used = {name for node in graph.node for name in node.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return rewritten


def tiles(side: int) -> int:
    """Return how many tiles cover a side of an image."""
    return -(-side // TILE)


def _gains(channels: int, filters: int, height: int, width: int) -> bool:
    """Return whether the transforms cost clearly less than the products that they save."""
    count = tiles(height) * tiles(width)
    columns = -(-count // COLUMNS) * COLUMNS
    direct = 9 * channels * filters * (height * width + WEIGHT)
    products = PATCH**2 * channels * filters * (MATRIX_PRODUCT * columns + WEIGHT)
    transforms = PATCH**2 * (channels * (count + CHANNEL_TILES) + filters * count) * TRANSFORMED_VALUE
    return bool(direct > LEAST_GAIN * (products + transforms))


def _is_plain_3x3(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    return (
        node.op_type == "Conv"
        and all(name in constants for name in node.input[1:] if name)
        and constants[node.input[1]].data_type == TensorProto.FLOAT
        and list(constants[node.input[1]].dims[2:]) == [3, 3]
        and _attribute(node, "group", 1) == 1
        and _attribute(node, "strides", [1, 1]) == _attribute(node, "dilations", [1, 1]) == [1, 1]
        and _attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    )


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _image_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Return height and width of every value (N, C, H, W) whose own are known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {}
    for value in [*graph.value_info, *graph.input]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 4 and dims[2].dim_value > 0 and dims[3].dim_value > 0:
            sizes[value.name] = dims[2].dim_value, dims[3].dim_value
    return sizes


def _transforms() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return A^T (4, 6), G (6, 3) and B^T (6, 6) for `POINTS` and infinity, as Toom and Cook have them."""
    outputs, filters, inputs = np.zeros((TILE, PATCH)), np.zeros((PATCH, 3)), np.zeros((PATCH, PATCH))
    for index, point in enumerate(POINTS):
        others = [other for other in POINTS if other != point]
        outputs[:, index] = point ** np.arange(TILE)
        filters[index] = point ** np.arange(3) / np.prod([point - other for other in others])
        inputs[index, : PATCH - 1] = polynomial.polyfromroots(others)
    outputs[-1, -1] = filters[-1, -1] = 1
    inputs[-1] = polynomial.polyfromroots(POINTS)
    return outputs, filters, inputs


def _input_nodes(
    graph: onnx.GraphProto, node: NodeProto, channels: int, pads: Sequence[int], grid: tuple[int, int]
) -> list[NodeProto]:
    """Nodes from a convolution's input (N, C, H, W) to the values at the points, (N, 36, C, h * w)."""
    _, _, inputs = _transforms()
    weight = np.tile(np.kron(inputs, inputs).reshape(PATCH**2, 1, PATCH, PATCH), (channels, 1, 1, 1))
    by_channel = [0, channels, PATCH**2, grid[0] * grid[1]]
    name = f"{node.output[0]}/winograd/inputs"
    graph.initializer.extend([_constant(f"{name}/B", weight), _constant(f"{name}/by_channel", by_channel)])
    return [
        _node(
            "Conv",
            [node.input[0], f"{name}/B"],
            f"{name}/patches",
            group=channels,
            kernel_shape=[PATCH, PATCH],
            strides=[TILE, TILE],
            pads=pads,
        ),
        _node("Reshape", [f"{name}/patches", f"{name}/by_channel"], f"{name}/channels"),
        _node("Transpose", [f"{name}/channels"], f"{name}/points", perm=[0, 2, 1, 3]),
    ]


def _filter_nodes(
    graph: onnx.GraphProto,
    output: str,
    points: str,
    weight: NDArray[np.float32],
    biases: Sequence[NDArray[np.float32]],
    size: tuple[int, int],
) -> list[NodeProto]:
    """Nodes from the values at the points, (N, 36, C, h * w), to what a convolution gives, (N, K, H, W)."""
    _, filters, _ = _transforms()
    count = len(weight)
    grid = tiles(size[0]), tiles(size[1])
    name = f"{output}/winograd"
    at_points = np.einsum("ai,kcij,bj->abkc", filters, weight, filters).reshape(PATCH**2, *weight.shape[:2])
    graph.initializer.extend(
        [
            _constant(f"{name}/filters", at_points),
            _constant(f"{name}/flat", [0, PATCH**2, count * grid[0] * grid[1]]),
            _constant(f"{name}/as_image", [0, TILE**2 * count, *grid]),
        ]
    )
    nodes = [
        _node("MatMul", [f"{name}/filters", points], f"{name}/products"),
        _node("Reshape", [f"{name}/products", f"{name}/flat"], f"{name}/products_flat"),
        _node("MatMul", [OUTPUT_TRANSFORM, f"{name}/products_flat"], f"{name}/tiles"),
        _node("Reshape", [f"{name}/tiles", f"{name}/as_image"], f"{name}/tiles_as_image"),
        _node("DepthToSpace", [f"{name}/tiles_as_image"], f"{name}/image", blocksize=TILE, mode="DCR"),
    ]
    if size != (grid[0] * TILE, grid[1] * TILE):
        for what, values in (("from", [0, 0]), ("to", size), ("axes", [2, 3])):
            graph.initializer.append(_constant(f"{name}/{what}", values))
        names = [f"{name}/{what}" for what in ("image", "from", "to", "axes")]
        nodes.append(_node("Slice", names, f"{name}/cropped"))
    for bias in biases:
        graph.initializer.append(_constant(f"{name}/bias", bias.reshape(1, -1, 1, 1)))
        nodes.append(_node("Add", [nodes[-1].output[0], f"{name}/bias"], f"{name}/sum"))
    nodes[-1].output[0] = output
    return nodes


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes)


def _constant(name: str, values: Any) -> TensorProto:
    """Return shapes as int64 and everything else as float32."""
    array = np.asarray(values)
    return numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)
