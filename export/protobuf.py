"""The wire format of protocol buffers, as far as an ONNX file is looked through without its package. No onnx.

A message is a sequence of fields, each a key, which holds its number and how it is encoded, and a value
(protobuf.dev, "Encoding").
"""

from collections.abc import Iterator
from typing import NamedTuple

# How values are encoded: of these kinds there is a length in front, or a fixed size.
_VARINT, _WITH_LENGTH = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}
# Of the longest number there is, 64 bits.
_MOST_VARINT = 10

# What a damaged message raises.
DAMAGED = (IndexError, ValueError)


class Field(NamedTuple):
    """One field.

    Attributes:
        number: which one of its message.
        start, end: where it lies, key included.
        content: of a field with a length: text, bytes or a message; else nothing.
        value: of a number; else 0.
    """

    number: int
    start: int
    end: int
    content: memoryview
    value: int


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields in their order; raise one of `DAMAGED` where they do not end with the message."""
    start = 0
    while start < len(message):
        key, inner = _varint(message, start)
        value, end = 0, inner
        if key & 7 == _VARINT:
            value, inner = _varint(message, inner)
            end = inner
        elif key & 7 == _WITH_LENGTH:
            length, inner = _varint(message, inner)
            end = inner + length
        elif key & 7 in _FIXED_BYTES:
            end = inner + _FIXED_BYTES[key & 7]
        else:
            raise ValueError(f"a field of kind {key & 7}")
        if end > len(message):
            raise ValueError("a field is cut off")
        yield Field(key >> 3, start, end, message[inner:end] if key & 7 == _WITH_LENGTH else message[:0], value)
        start = end


def with_length(number: int, content: bytes) -> bytes:
    """Return a field of text, bytes or a message."""
    return _encoded(number << 3 | _WITH_LENGTH) + _encoded(len(content)) + content


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """Read a number, seven bits a byte and the lowest first; returns it and where it ends."""
    number = 0
    for place in range(_MOST_VARINT):
        byte = data[start + place]
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, start + place + 1
    raise ValueError("a number is too long")


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
