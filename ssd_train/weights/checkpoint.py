"""Weight files of every kind that is read, told apart by their first bytes and never by their names."""

import dataclasses
import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.files import written_atomically
from ssd_train.weights.packed import PACKED, unpack
from ssd_train.weights.params_file import MAGIC, parse_params, read_bytes

Format = Literal["params", "safetensors", "torch"]

EXPECTED = "a safetensors file, a PyTorch checkpoint (torch.save) or an MXNet .params file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        path: the file.
        format: what its bytes are, whatever it is called.
        tensors: by name as stored, except that DataParallel's `module.` is gone and packed kernels are float32
            again; on the CPU, not tracked.
        metadata: the text of a safetensors header; empty for the other kinds.
        sha256: of the file's bytes, the very ones that `tensors` were read from.
    """

    path: Path
    format: Format
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read_tensors(path: Path) -> WeightFile:
    """Read a safetensors file, a PyTorch checkpoint or an MXNet `.params` file.

    A checkpoint may be a state dict, or a dict that holds one as `state_dict` or `model` among other things.
    A safetensors file whose metadata says that its kernels are in 8 bits is unpacked. Nothing in a file is
    executed.

    Raises:
        WeightsError: the file is missing, empty, cut off, damaged or of another kind; it is a pickle that
            needs more than tensors; it has entries that are not tensors, or none at all; or it is packed in a way
            that is not known, or without its scales.
    """
    file_format = _format_of(path)
    data = read_bytes(path)
    metadata: dict[str, str] = {}
    if file_format == "params":
        tensors = {name: torch.from_numpy(array) for name, array in parse_params(data, path).items()}
    elif file_format == "safetensors":
        tensors, metadata = _parse_safetensors(data, path)
    else:
        tensors = _parse_torch(data, path)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors, but the weights of a network were expected; save it again")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return WeightFile(
        path=path,
        format=file_format,
        tensors=tensors,
        metadata=metadata,
        sha256=hashlib.sha256(data).hexdigest(),
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as a safetensors file, atomically.

    Args:
        path: replaced if it exists; its folder is made.
        tensors: any device and stride; two may share memory, and are then stored twice.
        metadata: put into the file's header.

    Raises:
        SSDDeployError: the folder cannot be created or written.
    """
    copies = {
        name: torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    # By way of memory: safetensors reports a full disk as an error of its own, and makes the file private.
    data = safetensors.torch.save(copies, metadata=dict(metadata))
    with written_atomically(path) as temporary:
        temporary.write_bytes(data)


def _format_of(path: Path) -> Format:
    head = read_bytes(path, 16)
    if head[:8] == MAGIC:
        return "params"
    # A safetensors file is a u64 length and a JSON header of that length, which the format caps at 100 MB.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:
        return "safetensors"
    # torch.save: a zip archive, or before PyTorch 1.6 a bare pickle, which names its protocol first.
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05"):
        return "torch"
    raise WeightsError(f"{path}: is no weight file, since it begins with {head!r}; expected {EXPECTED}, so name one")


def _parse_safetensors(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that PyTorch lacks
        raise WeightsError(
            f"{path}: looks like a safetensors file, but is cut off or damaged ({error}); copy or download it again"
        ) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    packed = metadata.get("packed")
    if packed not in (None, PACKED):
        raise WeightsError(
            f"{path}: is packed as {packed!r}, but only {PACKED!r} can be read; use a newer ssd-deploy, or a file "
            "that is not packed"
        )
    return unpack(tensors, path) if packed else tensors, metadata


def _parse_torch(data: bytes, path: Path) -> dict[str, Tensor]:
    if data[:2] == b"PK":
        _check_torch_zip(data, path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of pickles that it then refuses; our error says it all.
            warnings.simplefilter("ignore")
            # From memory and not by path, since torch.load looks at the file's name first.
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        code = f"code named in the file ({named[1]})" if named else "code stored in it"
        raise WeightsError(
            f"{path}: is refused, since it is a pickle of more than plain tensors (or damaged) and loading it could "
            f"run {code}; save only the network's state_dict() with torch.save, or use safetensors"
        ) from error
    # The bytes are foreign, and PyTorch's readers fail on damaged ones with whatever the damage leads to
    # (EOFError, KeyError, RuntimeError, struct.error, ...); each means that the file is no use.
    except Exception as error:
        raise WeightsError(
            f"{path}: looks like a PyTorch checkpoint, but is cut off or damaged ({type(error).__name__}); "
            "copy or download it again"
        ) from error
    return _state_dict(loaded, path)


def _check_torch_zip(data: bytes, path: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise WeightsError(
            f"{path}: looks like a PyTorch checkpoint, but is a cut off or damaged zip archive; copy or "
            "download it again"
        ) from error
    if any(name.endswith("/constants.pkl") for name in members):
        raise WeightsError(
            f"{path}: is a TorchScript archive, which holds code; expected {EXPECTED}: save the network's state_dict()"
        )
    if not any(name.endswith("/data.pkl") for name in members):
        raise WeightsError(
            f"{path}: is a zip archive of {', '.join(members[:3]) or 'nothing'}, but expected {EXPECTED}; "
            "if it was downloaded with weights inside, unzip it and name the file"
        )


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
            break
    if not isinstance(loaded, dict):
        raise WeightsError(
            f"{path}: holds a {type(loaded).__name__}, but a state dict was expected; save the network's state_dict()"
        )
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise WeightsError(
                f"{path}: entry {name!r} is of type {_kind_of(value)}, but a state dict has dense tensors with "
                "text names; save the network's state_dict(), alone or as 'state_dict' or 'model' beside other things"
            )
    return {name: value.detach() for name, value in loaded.items()}


def _kind_of(value: Any) -> str:
    return f"tensor ({value.layout})" if isinstance(value, Tensor) else type(value).__name__
