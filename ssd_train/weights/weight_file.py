"""Weight files of every kind -> tensors, and tensors -> our own two kinds.

What is read is told apart by its first bytes and never by its name.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ssd_train.errors import WeightsError, first_line
from ssd_train.files import written_atomically
from ssd_train.weights.file_format import Format, damaged_safetensors, format_of, safetensors_header
from ssd_train.weights.packed import PACKED, unpack
from ssd_train.weights.params_file import parse_params, read_bytes
from ssd_train.weights.torch_file import check_tensors, load_torch

# Under which a checkpoint may have its state dict; where there is a moving average, that is what its training scores.
STATE_KEYS = ("state_dict", "model_ema", "model")
# How often PyTorch's moving average was updated, beside the tensors of the network in it.
AVERAGE_COUNTER = "n_averaged"

# What our own checkpoints carry beside `state_dict` and `class_names`.
OWN_TEXTS = ("network", "source", "source_sha256", "packed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        path: the file.
        format: what its bytes are, whatever it is called.
        tensors: by name as stored, except that DataParallel's `module.` is gone and packed kernels are float32
            again; on the CPU, not tracked.
        metadata: text by name: what a safetensors header holds, and what a checkpoint of this project or of one of
            its trainings says in the same words; empty for foreign files. `class_names` is JSON.
        sha256: of the file's bytes, the very ones that `tensors` were read from.
    """

    path: Path
    format: Format
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    sha256: str


def read_tensors(path: Path) -> WeightFile:
    """Read a safetensors file, a PyTorch checkpoint or an MXNet `.params` file.

    A checkpoint may be a state dict, or a dict that holds one as `state_dict`, `model_ema` or `model` among other
    things, or what a training of this project goes on from, which gives the weights that the training would have saved.
    A file whose metadata says that its kernels are in 8 bits is unpacked. Nothing in a file is executed.

    Raises:
        WeightsError: the file is missing, empty, cut off, damaged or of another kind; it is a pickle that
            needs more than tensors; it has entries that are not tensors, or none at all; it unpacks to far more than
            its size; or it is packed in a way that is not known, or without its scales.
    """
    try:
        return _read(path)
    except MemoryError as error:
        raise WeightsError(f"{path}: there is too little memory to read it; free some") from error


def _read(path: Path) -> WeightFile:
    file_format = format_of(path)
    data = read_bytes(path)
    metadata: dict[str, str] = {}
    if file_format == "params":
        tensors = {name: torch.from_numpy(array) for name, array in parse_params(data, path).items()}
    elif file_format == "safetensors":
        metadata, _ = safetensors_header(data, path)
        try:
            tensors = safetensors.torch.load(data)
        except MemoryError:
            raise
        # SafetensorError; KeyError for a dtype that PyTorch lacks; of shapes that no tensor has, whatever they lead to.
        except Exception as error:
            raise damaged_safetensors(path, first_line(error)) from error
    else:
        tensors, metadata = _parse_torch(data, path)
    check_tensors(tensors.items(), path, len(data))
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    packed = metadata.get("packed")
    if packed not in (None, PACKED):
        raise WeightsError(
            f"{path}: is packed as {packed!r}, but only {PACKED!r} can be read; use a newer ssd-deploy, or a file "
            "that is not packed"
        )
    if packed:
        tensors = unpack(tensors, path)
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors, but the weights of a network were expected; save it again")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    sha256 = hashlib.sha256(data).hexdigest()
    return WeightFile(path=path, format=file_format, tensors=tensors, metadata=metadata, sha256=sha256)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as a safetensors file, atomically; the same ones give the same bytes.

    Args:
        path: replaced if it exists; its folder is made.
        tensors: any device and stride; two may share memory, and are then stored twice.
        metadata: put into the file's header.

    Raises:
        SSDDeployError: the folder cannot be created or written.
    """
    # By way of memory: safetensors reports a full disk as an error of its own, and makes the file private.
    data = memoryview(safetensors.torch.save(_copies(tensors)))
    end = 8 + int.from_bytes(data[:8], "little")
    # The library shuffles metadata anew in each process, which would give equal weights unequal hashes.
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(bytes(data[8:end]))}
    text = json.dumps(header, separators=(",", ":")).encode()
    # To the next multiple of 8, where the format has its tensors begin.
    text += b" " * (-len(text) % 8)
    with written_atomically(path) as temporary:
        temporary.write_bytes(b"".join((len(text).to_bytes(8, "little"), text, data[end:])))


def write_torch(path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, Any]) -> None:
    """Write a PyTorch checkpoint, which `torch.load` reads with `weights_only`: `state_dict`, and `entries` beside it.

    By way of memory, since what `torch.save` writes to a path begins with the file's name.

    Arguments and errors are otherwise those of `write_safetensors`.
    """
    data = io.BytesIO()
    torch.save({"state_dict": _copies(tensors), **entries}, data)
    with written_atomically(path) as temporary:
        temporary.write_bytes(data.getbuffer())


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _parse_torch(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    # From memory and not by path, since torch.load looks at the file's name first.
    loaded = load_torch(io.BytesIO(data), path)
    state, metadata = _of_training(loaded) or (loaded, _own_texts(loaded))
    return _state_dict(state, path), metadata


def _own_texts(loaded: Any) -> dict[str, str]:
    """Return what `write_torch` wrote beside the tensors; nothing for other checkpoints."""
    if not isinstance(loaded, dict) or not _is_list_of_text(loaded.get("class_names")):
        return {}
    texts = {name: loaded[name] for name in OWN_TEXTS if isinstance(loaded.get(name), str)}
    return {**texts, "class_names": json.dumps(loaded["class_names"])} if "network" in texts else {}


def _of_training(loaded: Any) -> tuple[Any, dict[str, str]] | None:
    """Return state dict and texts of the checkpoint that a training goes on from; None for another kind."""
    settings = loaded.get("settings") if isinstance(loaded, dict) else None
    if not isinstance(settings, dict) or not isinstance(loaded.get("network"), dict):
        return None
    name, classes, position = settings.get("network"), settings.get("classes"), loaded.get("position")
    average = loaded.get("average")
    if not isinstance(name, str) or not _is_list_of_text(classes) or not isinstance(position, dict):
        return None
    texts = {
        "network": name.lower(),
        "class_names": json.dumps(classes),
        "source": f"a training, step {step if isinstance(step := position.get('step'), int) else 'unknown'}",
    }
    # Where there is a moving average, that is what the training validates and saves.
    return average if isinstance(average, dict) and average else loaded["network"], texts


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, dict):
        loaded = next((loaded[key] for key in STATE_KEYS if isinstance(loaded.get(key), dict)), loaded)
    if not isinstance(loaded, dict):
        raise WeightsError(
            f"{path}: holds a {type(loaded).__name__}, but a state dict was expected; save the network's state_dict()"
        )
    return {name: value for name, value in loaded.items() if name != AVERAGE_COUNTER}
