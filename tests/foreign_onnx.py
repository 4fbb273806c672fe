"""Somebody else's detector as an ONNX file, written in milliseconds: two layers, two anchors in each of 24 places."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HEIGHT, WIDTH, STEP, COLUMNS = 32, 48, 8, 3
COUNT = 2 * (HEIGHT // STEP) * (WIDTH // STEP)

# Width and height of the two anchors of a place.
SHAPES = ((10.0, 12.0), (20.0, 16.0))


def anchors() -> NDArray[np.float32]:
    """(A, 4) cx, cy, w, h in pixels, in the order of the outputs."""
    rows = [
        (x * STEP + STEP / 2, y * STEP + STEP / 2, *shape)
        for y in range(HEIGHT // STEP)
        for x in range(WIDTH // STEP)
        for shape in SHAPES
    ]
    return np.array(rows, np.float32)


def write_foreign(
    path: Path,
    *,
    opset: int = 17,
    batch: int | str = "N",
    shape_batch: int = 0,
    channels_last: bool = False,
    scores: str | None = None,
    behind: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[str] = ("cls", "reg"),
    columns: int = COLUMNS,
    side: int | str = HEIGHT,
) -> Path:
    """Write a file with the values `logits`, `cls` (N, A, columns) and `reg` (N, A, 4), from `input_0`.

    Args:
        batch: of its input; a number is fixed.
        shape_batch: what its Reshapes begin with; 0 for as many images as come in.
        scores: operator between `logits` and `cls`; None for none.
        behind: more nodes.
        outputs: names of the graph's outputs.
        side: height of its input; a word leaves it open.
    """
    random = np.random.default_rng(5)
    constants = {
        "cls.weight": random.normal(size=(2 * columns, 3, STEP, STEP)).astype(np.float32) * 0.3,
        "reg.weight": random.normal(size=(8, 3, STEP, STEP)).astype(np.float32) * 0.05,
        "cls.shape": np.array([shape_batch, -1, columns]),
        "reg.shape": np.array([shape_batch, -1, 4]),
    }
    shape = [batch, side, WIDTH, 3] if channels_last else [batch, 3, side, WIDTH]
    image = "input_0"
    nodes = []
    if channels_last:
        nodes.append(helper.make_node("Transpose", [image], ["planes"], perm=[0, 3, 1, 2]))
        image = "planes"
    for name, result in (("cls", "logits"), ("reg", "reg")):
        nodes += [
            helper.make_node("Conv", [image, f"{name}.weight"], [f"{name}.map"], strides=[STEP, STEP]),
            helper.make_node("Transpose", [f"{name}.map"], [f"{name}.rows"], perm=[0, 2, 3, 1]),
            helper.make_node("Reshape", [f"{name}.rows", f"{name}.shape"], [result]),
        ]
    attributes = {"axis": 2} if scores == "Softmax" else {}
    nodes += [helper.make_node(scores or "Identity", ["logits"], ["cls"], **attributes), *behind]
    known = {"cls": [batch, COUNT, columns], "reg": [batch, COUNT, 4]}
    known |= {"scores": known["cls"], "boxes": known["reg"]}
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info("input_0", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, known.get(name, ["K", 3])) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="their\x1b[31mtool"
    )
    onnx.save(model, path)
    return path
