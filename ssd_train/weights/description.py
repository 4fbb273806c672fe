"""What a weight file is, and what it says about itself: its kind, network, classes and origin. No torch for most."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from ssd_train.errors import WeightsError
from ssd_train.requirements import require

Format = Literal["params", "safetensors", "torch"]

EXPECTED = "a safetensors file, a PyTorch checkpoint (torch.save) or an MXNet .params file"

# The format's own limit, in bytes.
MAX_HEADER = 100_000_000

# Whose arithmetic the batch norms of the added levels get from a checkpoint of pytorch-cv; see `pytorch_cv`.
BatchNorm = Literal["auto", "gluoncv", "own"]
BATCH_NORMS: tuple[BatchNorm, ...] = get_args(BatchNorm)

# Tensors that no training changes by a gradient, under any of the naming schemes.
_NO_PARAMETER = r"anchor|(running|moving)_(mean|var)$|num_batches_tracked$|init_scale$"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsDescription:
    """A weight file in a few words.

    Attributes:
        path: the file.
        format: what its bytes are, whatever it is called.
        network: which network it is for; None where the file does not say, as foreign ones do not.
        class_names: likewise.
        provenance: what the weights were made from, as far as the file says.
        sha256: of the file's bytes.
        tensors: how many; a packed kernel and its scales count as one.
        parameters: values in them, without anchors and batch norm statistics.
        packed: the kernels are stored in 8 bits.
    """

    path: Path
    format: Format
    network: str | None
    class_names: tuple[str, ...] | None
    provenance: str | None
    sha256: str
    tensors: int
    parameters: int
    packed: bool


def describe_weights(path: Path) -> WeightsDescription:
    """Say what a weight file is.

    Raises:
        WeightsError: the file is missing, damaged, or no weight file.
        BackendError: it is a PyTorch checkpoint, and torch, which reads it, is not installed.
    """
    from ssd_train.weights.params_file import parse_params, read_bytes

    file_format = format_of(path)
    if file_format == "torch":
        require("torch", "export", f"{path}: a PyTorch checkpoint")
        require("safetensors", "export", "A weight file")
        from ssd_train.weights.weight_file import read_tensors

        file = read_tensors(path)
        metadata, sha256 = file.metadata, file.sha256
        shapes: dict[str, tuple[int, ...]] = {name: tuple(tensor.shape) for name, tensor in file.tensors.items()}
    else:
        data = read_bytes(path)
        sha256 = hashlib.sha256(data).hexdigest()
        if file_format == "params":
            metadata, shapes = {}, {name: array.shape for name, array in parse_params(data, path).items()}
        else:
            metadata, entries = safetensors_header(data, path)
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
            if len(data) != 8 + int.from_bytes(data[:8], "little") + end:
                raise damaged_safetensors(path, "length")
            scales = {f"{name}.scale" for name in entries}
            shapes = {name: tuple(entry["shape"]) for name, entry in entries.items() if name not in scales}
    return WeightsDescription(
        path=path,
        format=file_format,
        network=metadata.get("network"),
        class_names=stored_classes(metadata, path),
        provenance=metadata.get("source"),
        sha256=sha256,
        tensors=len(shapes),
        parameters=sum(math.prod(shape) for name, shape in shapes.items() if not re.search(_NO_PARAMETER, name)),
        packed="packed" in metadata,
    )


def network_of(path: Path) -> str:
    """Return the name of the network that a weight file says it is for.

    Raises:
        WeightsError: it says none, as foreign files do, or it cannot be read.
        BackendError: it is a PyTorch checkpoint, and torch is not installed.
    """
    network = describe_weights(path).network
    if network is None:
        raise WeightsError(
            f"{path}: does not say which network it is for; name the network too", arguments=("network",)
        )
    return network


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
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "torch"
    raise WeightsError(f"{path}: is no weight file, since it begins with {head!r}; expected {EXPECTED}, so name one")


def safetensors_header(data: bytes, path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Return the text metadata of a safetensors file and its entry for each tensor; `path` is only named in errors.

    Raises:
        WeightsError: the header is cut off or damaged.
    """
    try:
        entries = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = entries.pop("__metadata__", None) or {}
        valid = all(isinstance(entry["shape"], list) and len(entry["data_offsets"]) == 2 for entry in entries.values())
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise damaged_safetensors(path, type(error).__name__) from error
    if not valid or not isinstance(metadata, dict):
        raise damaged_safetensors(path, "header")
    return metadata, entries


def damaged_safetensors(path: Path, what: object) -> WeightsError:
    """Return the error for a safetensors file that is not whole."""
    return WeightsError(
        f"{path}: looks like a safetensors file, but is cut off or damaged ({what}); copy or download it again"
    )


def stored_classes(metadata: Mapping[str, str], path: Path) -> tuple[str, ...] | None:
    """Return the class list that one of this project's own files carries; None for the other kinds."""
    text = metadata.get("class_names")
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its class list cannot be read ({error}); convert it again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{path}: its class list is no list of names; convert it again")
    return tuple(names)
