"""What an exported file says of itself, held against its graph. No onnx: the file's bytes are looked through.

Every reader of an ONNX file comes through `read_exported`, so that each refuses the same files in the same words.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from export.metadata_entry import KEY_FIELD, METADATA_FIELD, VALUE_FIELD
from export.protobuf import DAMAGED, Field, fields
from ssd_train.errors import ModelError
from ssd_train.json_input import quoted
from ssd_train.spec import INPUT_NAME, RAW_NAMES, DetectorSpec

AGAIN = "export the model again with `ssd-deploy export`"

# Fields of onnx.proto3: of `ModelProto`, `GraphProto` and `ValueInfoProto`, and from its type down to a dimension.
_GRAPH = 7
_INPUTS, _OUTPUTS, _VALUES = 11, 12, 13
_NAME, _TYPE = 1, 2
_TENSOR, _SHAPE, _DIMENSION, _SIZE = 1, 2, 1, 1


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
        shapes = {name: shape for field in found if field.number == _GRAPH for name, shape in _shapes(field)}
    except OSError as error:
        raise ModelError(f"{name}: cannot be read ({error.strerror}); check the file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{name}: its metadata cannot be used (no text in UTF-8: {error}); {AGAIN}") from error
    except DAMAGED as error:
        raise ModelError(f"{name}: is not a usable ONNX file ({error}); make one with `ssd-deploy export`") from error
    metadata = as_metadata(entries, name)
    spec = DetectorSpec.from_metadata(metadata, name)
    _check_graph(spec, shapes, name)
    return Exported(metadata=metadata, spec=spec)


def as_metadata(entries: Iterable[tuple[str, str]], name: str) -> dict[str, str]:
    """Return text entries by their names, or raise ModelError where there are two of one name."""
    metadata: dict[str, str] = {}
    for key, value in entries:
        if key in metadata:
            raise ModelError(f"{name}: its metadata has two entries {quoted(key)}; {AGAIN}")
        metadata[key] = value
    return metadata


def _check_graph(spec: DetectorSpec, shapes: dict[str, tuple[int, ...]], name: str) -> None:
    images, logits = shapes.get(INPUT_NAME, ()), shapes.get(RAW_NAMES[0], ())
    if len(images) == 4 and images[1:] != (3, *spec.input_size):
        raise ModelError(
            f"{name}: says that its input is 3 x {' x '.join(map(str, spec.input_size))}, but its graph takes "
            f"{' x '.join(map(str, images[1:]))}; {AGAIN}"
        )
    # The raw predictions have a column for the background too.
    if len(logits) == 3 and logits[2] > 0 and logits[2] != len(spec.class_names) + 1:
        raise ModelError(
            f"{name}: names {len(spec.class_names)} classes, but its graph tells {logits[2] - 1} apart; {AGAIN}"
        )


def _texts(entry: Field) -> tuple[str, str]:
    texts = {field.number: bytes(field.content).decode() for field in fields(entry.content)}
    return texts.get(KEY_FIELD, ""), texts.get(VALUE_FIELD, "")


def _shapes(graph: Field) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of inputs, outputs and inner values that are looked at; an open dimension is 0."""
    for value in fields(graph.content):
        if value.number in (_INPUTS, _OUTPUTS, _VALUES):
            parts = {field.number: field.content for field in fields(value.content)}
            name = bytes(parts.get(_NAME, b"")).decode(errors="replace")
            if name in (INPUT_NAME, *RAW_NAMES):
                yield name, tuple(_sizes(parts.get(_TYPE, memoryview(b""))))


def _sizes(kind: memoryview) -> Iterable[int]:
    message = kind
    for number in (_TENSOR, _SHAPE):
        message = next((field.content for field in fields(message) if field.number == number), memoryview(b""))
    for dimension in fields(message):
        if dimension.number == _DIMENSION:
            yield next((field.value for field in fields(dimension.content) if field.number == _SIZE), 0)
