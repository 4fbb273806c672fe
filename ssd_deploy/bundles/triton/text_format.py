"""Messages in the text format of protocol buffers, as `config.pbtxt` is written (protobuf.dev, "Text Format")."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class EnumName(str):
    """A value that stands without quotes."""


def to_text(message: Mapping[str, Any]) -> str:
    """Return a message as text.

    Args:
        message: fields by name: whole numbers, text, `EnumName`, messages, or sequences of these for a repeated field.
    """
    return "\n".join(_lines(message)) + "\n"


def _lines(message: Mapping[str, Any]) -> Iterator[str]:
    for name, value in message.items():
        repeated = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if all(isinstance(each, int) for each in repeated) and repeated is value:
            yield f"{name}: [{', '.join(map(str, repeated))}]"
            continue
        for each in repeated:
            if isinstance(each, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(each))
                yield "}"
            else:
                yield f"{name}: {_scalar(each)}"


def _scalar(value: int | str) -> str:
    # JSON escapes as the text format does, and leaves all other letters.
    return json.dumps(value, ensure_ascii=False) if type(value) is str else str(value)
