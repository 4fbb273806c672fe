"""What an exported file says of itself, held against its graph. No onnx: the file's bytes are looked through.

Every reader of an ONNX file comes through `read_exported`, so that each refuses the same files in the same words.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from export.metadata_entry import KEY_FIELD, METADATA_FIELD, VALUE_FIELD
from export.protobuf import DAMAGED, Field, fields
from ssd_train.errors import ModelError
from ssd_train.input_kinds import INPUT_KINDS
from ssd_train.json_input import quoted
from ssd_train.spec import RAW_NAMES, DetectorSpec

AGAIN = "export the model again with `ssd-deploy export`"

# Fields of onnx.proto3: of `ModelProto`, `GraphProto` and `ValueInfoProto`, and from its type down to a dimension.
_GRAPH = 7
_INPUTS, _OUTPUTS, _VALUES = 11, 12, 13
_NAME, _TYPE = 1, 2
_TENSOR, _ELEMENT, _SHAPE, _DIMENSION, _SIZE = 1, 1, 2, 1, 1

# Inputs by their names, with what onnx.proto3 calls their types.
_ELEMENTS = {"float32": 1, "uint8": 2}
_DTYPES = {kind.tensor: kind.dtype for kind in INPUT_KINDS.values()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What is known of a file before it runs: its text entries, and the detector that they describe."""

    metadata: dict[str, str]
    spec: DetectorSpec


def read_exported(model: Path | bytes, name: str) -> Exported:
    """Read what a file of `export_onnx` or of a step says of itself.

    Args:
        model: a file, or what is in one.
        name: what errors call it.

    Raises:
        ModelError: it cannot be read, is damaged, says nothing or nonsense of itself, or something else than its graph.
    """
    try:
        data = memoryview(model if isinstance(model, bytes) else model.read_bytes())
        found = list(fields(data))
        entries = [_texts(field) for field in found if field.number == METADATA_FIELD]
        values = [value for field in found if field.number == _GRAPH for value in _values(field)]
    except OSError as error:
        raise ModelError(f"{name}: cannot be read ({error.strerror}); check the file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{name}: its metadata cannot be used (no text in UTF-8: {error}); {AGAIN}") from error
    except DAMAGED as error:
        raise ModelError(f"{name}: is not a usable ONNX file ({error}); make one with `ssd-deploy export`") from error
    metadata = as_metadata(entries, name)
    spec = DetectorSpec.from_metadata(metadata, name)
    _check_graph(spec, values, name)
    return Exported(metadata=metadata, spec=spec)


def as_metadata(entries: Iterable[tuple[str, str]], name: str) -> dict[str, str]:
    """Return text entries by their names, or raise ModelError where there are two of one name."""
    metadata: dict[str, str] = {}
    for key, value in entries:
        if key in metadata:
            raise ModelError(f"{name}: its metadata has two entries {quoted(key)}; {AGAIN}")
        metadata[key] = value
    return metadata


class _Value(NamedTuple):
    """An input, an output or an inner value: its type by number, its shape with 0 for an open dimension."""

    name: str
    is_input: bool
    element: int
    shape: tuple[int, ...]


def _check_graph(spec: DetectorSpec, values: Sequence[_Value], name: str) -> None:
    wanted = spec.input
    for value in values:
        if not value.is_input or value.name not in _DTYPES:
            continue
        if value.name != wanted.tensor or value.element not in (0, _ELEMENTS[wanted.dtype]):
            raise ModelError(
                f"{name}: says that it takes {wanted.tensor} of {wanted.dtype}, but its graph takes {value.name} of "
                f"{_called(value.element)}; {AGAIN}"
            )
        if len(value.shape) == 4 and value.shape[1:] != spec.image_shape:
            raise ModelError(
                f"{name}: says that its input is {' x '.join(map(str, spec.image_shape))}, but its graph takes "
                f"{' x '.join(map(str, value.shape[1:]))}; {AGAIN}"
            )
        if spec.batch_size is not None and value.shape[:1] not in ((), (spec.batch_size,)):
            raise ModelError(
                f"{name}: says that it takes {spec.batch_size} images a call, but its graph takes "
                f"{value.shape[0] or 'any number'}; {AGAIN}"
            )
    logits = next((value.shape for value in values if value.name == RAW_NAMES[0]), ())
    # The raw predictions have a column for the background too.
    if len(logits) == 3 and logits[2] > 0 and logits[2] != len(spec.class_names) + 1:
        raise ModelError(
            f"{name}: names {len(spec.class_names)} classes, but its graph tells {logits[2] - 1} apart; {AGAIN}"
        )


def _texts(entry: Field) -> tuple[str, str]:
    texts = {field.number: bytes(field.content).decode() for field in fields(entry.content)}
    return texts.get(KEY_FIELD, ""), texts.get(VALUE_FIELD, "")


def _called(element: int) -> str:
    return next((name for name, number in _ELEMENTS.items() if number == element), f"type {element}")


def _values(graph: Field) -> Iterable[_Value]:
    """Yield inputs, outputs and inner values that are looked at."""
    for value in fields(graph.content):
        if value.number in (_INPUTS, _OUTPUTS, _VALUES):
            parts = {field.number: field.content for field in fields(value.content)}
            name = bytes(parts.get(_NAME, b"")).decode(errors="replace")
            if name in (*_DTYPES, *RAW_NAMES):
                tensor = _inner(parts.get(_TYPE, memoryview(b"")), _TENSOR)
                element = next((field.value for field in fields(tensor) if field.number == _ELEMENT), 0)
                yield _Value(name, value.number == _INPUTS, element, tuple(_sizes(_inner(tensor, _SHAPE))))


def _inner(message: memoryview, number: int) -> memoryview:
    return next((field.content for field in fields(message) if field.number == number), memoryview(b""))


def _sizes(message: memoryview) -> Iterable[int]:
    for dimension in fields(message):
        if dimension.number == _DIMENSION:
            yield next((field.value for field in fields(dimension.content) if field.number == _SIZE), 0)
