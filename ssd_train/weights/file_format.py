"""The kinds of weight files, told by their first bytes, and the header of one of them. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from ssd_train.errors import WeightsError
from ssd_train.json_input import JSONError, convert, parse_json
from ssd_train.weights.other_formats import other_format

Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[Size]
    data_offsets: tuple[Size, Size]


# Name of a tensor in a file -> its shape.
Shapes = Mapping[str, tuple[int, ...]]

Format = Literal["params", "safetensors", "torch"]

EXPECTED = "a safetensors file, a PyTorch checkpoint (torch.save) or an MXNet .params file"

# In bytes: a tensor takes a hundred or two. The format's own limit would let a file of numbers without values be
# gigabytes of Python's objects.
MAX_HEADER = 10_000_000


def format_of(path: Path) -> Format:
    """Tell the kind of a weight file by its first bytes; raise WeightsError where it is none."""
    # NumPy comes along, which the command line's help has no use for.
    from ssd_train.weights.params_file import MAGIC, read_bytes

    head = read_bytes(path, 16)
    if head[:8] == MAGIC:
        return "params"
    # A safetensors file is a u64 length and a JSON header of that length.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return "safetensors"
    # torch.save: a zip archive, or before PyTorch 1.6 a bare pickle, which names its protocol first.
    is_torch = head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05")
    other = other_format(head, path)
    if other is not None and (other.like_torch or not is_torch):
        raise WeightsError(f"{path}: is {other.name}, which is not supported; {other.advice}")
    if is_torch:
        return "torch"
    raise WeightsError(f"{path}: is no weight file, since it begins with {head!r}; expected {EXPECTED}, so name one")


def safetensors_header(data: bytes, path: Path) -> tuple[dict[str, str], dict[str, TensorEntry]]:
    """Return the text metadata of a safetensors file and its entry for each tensor; `path` is only named in errors.

    Raises:
        WeightsError: the header is cut off or damaged.
    """
    try:
        entries = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], dict[str, Any])
        metadata: dict[str, str] = convert(entries.pop("__metadata__", None) or {}, dict[str, str])
        return metadata, convert(entries, dict[str, TensorEntry])
    except JSONError as error:
        raise damaged_safetensors(path, f"its header {error}") from error


def damaged_safetensors(path: Path, what: object) -> WeightsError:
    """Return the error for a safetensors file that is not whole."""
    return WeightsError(
        f"{path}: looks like a safetensors file, but is cut off or damaged ({what}); copy or download it again"
    )
