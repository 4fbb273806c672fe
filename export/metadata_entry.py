"""A text entry of an ONNX file is replaced, and every other byte stays. No onnx, and no graph is parsed.

An ONNX file is a `ModelProto` of protocol buffers (onnx.proto3): a sequence of fields, each a key, which holds its
number and how it is encoded, and a value. One field is the graph, and each text entry is a field of its own, of two
texts. The order of fields means nothing, so that a new entry goes to the end.
"""

from collections.abc import Iterator
from pathlib import Path

from ssd_train.errors import ModelError
from ssd_train.files import written_atomically

# `ModelProto.metadata_props`, and `StringStringEntryProto.key` and `.value`, in onnx.proto3.
METADATA_FIELD, KEY_FIELD, VALUE_FIELD = 14, 1, 2

# How values are encoded (protobuf.dev, "Encoding"): of these kinds there is a length in front, or a fixed size.
_VARINT, _WITH_LENGTH = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}


def write_entry(path: Path, key: str, value: str) -> None:
    """Replace a text entry of an ONNX file, or add it; atomically, and with all other bytes as they were.

    Raises:
        ModelError: the file is damaged, or no ONNX file.
        SSDDeployError: it cannot be written.
    """
    data = memoryview(path.read_bytes())
    try:
        kept = [span for span in _spans(data) if not _is_entry(data[slice(*span)], key)]
    except (IndexError, ValueError) as error:
        raise ModelError(f"{path}: is not a usable ONNX file; make one with `ssd-deploy export`") from error
    texts = b"".join(_text(number, text) for number, text in ((KEY_FIELD, key), (VALUE_FIELD, value)))
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        for start, end in kept:
            file.write(data[start:end])
        file.write(_with_length(METADATA_FIELD, texts))


def _spans(data: memoryview) -> Iterator[tuple[int, int]]:
    """Yield start and end of each field, key included; raise where they do not end with the data."""
    start = 0
    while start < len(data):
        key, end = _varint(data, start)
        if key & 7 == _VARINT:
            _, end = _varint(data, end)
        elif key & 7 == _WITH_LENGTH:
            length, end = _varint(data, end)
            end += length
        elif key & 7 in _FIXED_BYTES:
            end += _FIXED_BYTES[key & 7]
        else:
            raise ValueError(f"a field of kind {key & 7}")
        if end > len(data):
            raise ValueError("a field is cut off")
        yield start, end
        start = end


def _is_entry(field: memoryview, key: str) -> bool:
    number_and_kind, start = _varint(field, 0)
    if number_and_kind != METADATA_FIELD << 3 | _WITH_LENGTH:
        return False
    _, start = _varint(field, start)
    parts = field[start:]
    return any(parts[slice(*span)] == _text(KEY_FIELD, key) for span in _spans(parts))


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """Read a number, seven bits a byte and the lowest first; returns it and where it ends."""
    number = shift = 0
    while True:
        byte = data[start]
        number |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return number, start


def _text(number: int, text: str) -> bytes:
    return _with_length(number, text.encode())


def _with_length(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | _WITH_LENGTH) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
