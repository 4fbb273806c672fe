"""Seeded changes of files that hold trees of values: safetensors, ONNX, and what `torch.save` writes."""

import io
import json
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

from mutations import BYTES, ODD_TEXTS, ODD_VALUES, RAW, RAW_TEXTS, change_tree, encoded, to_json


def change_safetensors(data: bytes, random: Random) -> bytes:
    """Change the header, whose length is told anew."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    if "__metadata__" in header:
        header["__metadata__"] = {key: _parsed(value) for key, value in header["__metadata__"].items()}
    header = change_tree(header, random)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict) and random.random() < 0.9:
        texts = {key: as_text(value) for key, value in header["__metadata__"].items()}
        header["__metadata__"] = texts
    text = encoded(to_json(header))
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _parsed(text: str) -> Any:
    """Return what JSON in a text entry holds; other text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def as_text(value: Any) -> str:
    """Return an entry's text, the opposite of `_parsed`."""
    for index, raw in enumerate(RAW_TEXTS):
        if value == RAW.format(index):
            return raw
    return value if isinstance(value, str) else to_json(value)


# Of ONNX's `ModelProto` and `StringStringEntryProto` (onnx.proto): the field of metadata, and the two in it.
_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2


def change_onnx_metadata(data: bytes, random: Random) -> bytes:
    """Change text entries; their bytes may be no UTF-8, which the onnx package itself does not write."""
    import onnx

    model = onnx.load_from_string(data)
    entries = {entry.key: _parsed(entry.value) for entry in model.metadata_props}
    del model.metadata_props[:]
    changed = change_tree(entries, random)
    entries = changed if isinstance(changed, dict) else {"class_names": changed}
    parts = [model.SerializeToString()]
    for key, value in entries.items():
        key = key.replace(RAW.format("twice"), "")
        texts = [(_KEY_FIELD, encoded(key)), (_VALUE_FIELD, encoded(as_text(value)))]
        parts.append(_field(_METADATA_FIELD, b"".join(_field(*text) for text in texts)))
    if random.random() < 0.03:
        parts.append(_field(_METADATA_FIELD, _field(_KEY_FIELD, b"class_names") + _field(_VALUE_FIELD, b'["\xff"]')))
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def change_torch(data: bytes, random: Random) -> bytes:
    """Change a value of what `torch.save` wrote, or the kind of file that it is written as."""
    import torch

    sizes = (0, 1, 3)
    odd_tensors = [torch.zeros(size) for size in sizes] + [
        torch.tensor(float("nan")),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2, dtype=torch.bool),
        torch.zeros(3, 3).to_sparse(),
        torch.empty(3, device="meta"),
        # A few bytes in the file.
        torch.zeros(1).expand(1_000_000_000),
        torch.zeros(1).expand(64, 64, 1000, 1000),
    ]
    tree = torch.load(io.BytesIO(data), weights_only=True)
    tree = change_tree(tree, random, (*(value for value in ODD_VALUES), *odd_tensors * 3, {0: 1}, (), b"", 1 + 2j))
    saved = io.BytesIO()
    torch.save(tree, saved, _use_new_zipfile_serialization=random.random() < 0.8)
    return saved.getvalue()


def change_onnx_graph(data: bytes, random: Random) -> bytes:
    """Change a field anywhere in a model: a number, a name, a shape, where external data lie."""
    import onnx

    model = onnx.load_from_string(data)
    message, field = random.choice([place for place in _fields(model) if place[1].name != "metadata_props"])
    value = getattr(message, field.name)
    if field.is_repeated:
        index = random.randrange(len(value))
        if field.message_type is not None:
            copy = value[index].SerializeToString()
            times = random.choice((0, 2, 50))
            del value[index]
            for _ in range(times):
                value.add().ParseFromString(copy)
        elif random.random() < 0.5:
            del value[index]
        else:
            value[index] = _odd_field(value[index], random)
    elif field.message_type is not None:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _odd_field(value, random))
    return model.SerializeToString()


def _fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every field that is set, with the message that has it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                yield from _fields(each)


def _odd_field(value: Any, random: Random) -> Any:
    if isinstance(value, bytes):
        return random.choice(BYTES)(value, random)
    if isinstance(value, str):
        return random.choice([text for text in ODD_TEXTS if text.isprintable()])
    if isinstance(value, float):
        return random.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    return random.choice((0, 1, -1, 2, 100, 2**31 - 1, -(2**31)))
