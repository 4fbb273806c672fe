"""What the tests of shipments share."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

NETWORK = "ssd_300_mobilenet0.25_custom"
INT8 = f"cpu/{NETWORK}.int8.onnx"

# (folder, options; targets) -> exit code and what was printed.
Command = Callable[..., tuple[int, str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shipment:
    """A finished folder, and the stages that it took, in the order in which each was interrupted first."""

    folder: Path
    stages: tuple[str, ...]
    output: str

    @property
    def certificate(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "certificate.json").read_text())
        return loaded


def stages_of(output: str) -> list[str]:
    """Return the lines about stages."""
    return [line for line in output.splitlines() if line.startswith("stage ")]


def spoil(path: Path) -> None:
    """Flip the signs of an int8 file's weights: a quantization that went wrong."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4:
            tensor.raw_data = (-(onnx.numpy_helper.to_array(tensor) // 2)).tobytes()
    onnx.save(model, path)
