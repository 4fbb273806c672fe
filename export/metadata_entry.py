"""A text entry of an ONNX file is replaced, and every other byte stays. No onnx, and no graph is parsed.

Each entry of an ONNX file is a field of its own, of two texts. The order of fields means nothing, so that a new entry
goes to the end.
"""

from pathlib import Path

from export.protobuf import DAMAGED, Field, fields, with_length
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically

# `ModelProto.metadata_props`, and `StringStringEntryProto.key` and `.value`, in onnx.proto3.
METADATA_FIELD, KEY_FIELD, VALUE_FIELD = 14, 1, 2


def write_entry(path: Path, key: str, value: str) -> None:
    """Replace a text entry of an ONNX file, or add it; atomically, and with all other bytes as they were.

    Raises:
        ModelError: the file is damaged, or no ONNX file.
        SSDDeployError: it cannot be written.
    """
    data = memoryview(path.read_bytes())
    try:
        kept = [field for field in fields(data) if not _is_entry(field, key.encode())]
    except DAMAGED as error:
        raise ModelError(f"{path}: is not a usable ONNX file; make one with `ssd-deploy export`") from error
    texts = with_length(KEY_FIELD, key.encode()) + with_length(VALUE_FIELD, value.encode())
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        for field in kept:
            file.write(data[field.start : field.end])
        file.write(with_length(METADATA_FIELD, texts))


def _is_entry(field: Field, key: bytes) -> bool:
    if field.number != METADATA_FIELD:
        return False
    return any(each.number == KEY_FIELD and each.content == key for each in fields(field.content))
