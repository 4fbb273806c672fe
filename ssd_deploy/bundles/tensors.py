"""What goes into and comes out of an exported file or an engine, read from the file itself. No onnx, no torch."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from export.engine.file import is_engine, read_info
from export.session import describe_exported, open_session, quiet_options
from ssd_train.errors import ModelError
from ssd_train.spec import DetectorSpec

# What ONNX Runtime and TensorRT call a type -> what servers do.
SERVED_TYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(uint8)": "UINT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "FLOAT": "FP32",
    "HALF": "FP16",
    "UINT8": "UINT8",
    "INT32": "INT32",
    "INT64": "INT64",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output.

    Attributes:
        name: in the file.
        datatype: as Triton's configuration calls it behind `TYPE_`, and the KServe protocol too: `FP32` for instance.
        shape: with the batch in front; -1 for what is open.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """A file's detector and its tensors.

    Attributes:
        spec: what the detector expects and means.
        metadata: all text entries of an ONNX file; those of the spec for an engine.
        inputs, outputs: in the file's order.
    """

    spec: DetectorSpec
    metadata: dict[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def takes_any_batch(self) -> bool:
        """Whether the number of images is open in every tensor."""
        return all(tensor.shape[:1] == (-1,) for tensor in (*self.inputs, *self.outputs))


def read_contents(model: Path) -> Contents:
    """Read a file of ours; raise ModelError where it is none."""
    if is_engine(model):
        info = read_info(model)
        sides = [
            tuple(_tensor(model, name, each.dtype, each.shape) for name, each in side.items())
            for side in (info.inputs, info.outputs)
        ]
        return Contents(spec=info.spec, metadata=info.spec.to_metadata(), inputs=sides[0], outputs=sides[1])
    exported = describe_exported(model)
    session = open_session(model, str(model), quiet_options())
    inputs, outputs = (
        tuple(_tensor(model, value.name, value.type, value.shape) for value in side)
        for side in (session.get_inputs(), session.get_outputs())
    )
    return Contents(spec=exported.spec, metadata=exported.metadata, inputs=inputs, outputs=outputs)


def _tensor(model: Path, name: str, dtype: str, shape: Iterable[Any]) -> Tensor:
    if dtype not in SERVED_TYPES:
        raise ModelError(f"{model}: {name} is of the type {dtype}, which no server takes; export the model again")
    # An open dimension is a name or nothing in ONNX.
    sizes = tuple(size if isinstance(size, int) else -1 for size in shape)
    return Tensor(name=name, datatype=SERVED_TYPES[dtype], shape=sizes)
