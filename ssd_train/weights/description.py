"""What a weight file is, and what it says about itself: its kind, network, classes and origin. No torch for most."""

import dataclasses
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from ssd_train.errors import SpecError, WeightsError
from ssd_train.json_input import JSONError, parse_json
from ssd_train.requirements import require
from ssd_train.spec import check_class_names
from ssd_train.weights.file_format import Format, damaged_safetensors, format_of, safetensors_header
from ssd_train.weights.foreign import layout_of

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
        network: which network it is for; None where neither the file nor its layout says.
        class_names: None where the file does not say, as foreign ones do not.
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
        WeightsError: the file is missing, damaged, or no weight file, or another project's that is not read.
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
    layout = None if "network" in metadata or file_format == "params" else layout_of(shapes, path)
    return WeightsDescription(
        path=path,
        format=file_format,
        network=layout.network_of(shapes) if layout and layout.network_of else metadata.get("network"),
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


def stored_classes(metadata: Mapping[str, str], path: Path) -> tuple[str, ...] | None:
    """Return the class list that one of this project's own files carries; None for the other kinds."""
    text = metadata.get("class_names")
    if text is None:
        return None
    try:
        return check_class_names(parse_json(text, tuple[str, ...]))
    except (JSONError, SpecError) as error:
        raise WeightsError(f"{path}: its class list cannot be used ({error}); convert it again") from error
