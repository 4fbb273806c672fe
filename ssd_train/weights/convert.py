"""Any weight file -> a network with those weights -> this project's own safetensors file."""

import json
from pathlib import Path

from torch import Tensor

from ssd_train.errors import WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.weights.checkpoint import WeightFile, write_safetensors
from ssd_train.weights.mapping import is_pytorch_cv, mxnet_state, own_state, pytorch_cv_state
from ssd_train.weights.packed import PACKED, pack


def state_for(network: SSD, file: WeightFile) -> dict[str, Tensor]:
    """Rename and check a weight file's tensors for a network.

    Raises:
        WeightsError: the file is for another network, or parameters are missing, unexpected or misshapen.
    """
    if file.format == "params":
        return mxnet_state(file.tensors, network, file.path)
    if is_pytorch_cv(file.tensors):
        return pytorch_cv_state(file.tensors, network, file.path)
    stored = stored_classes(file)
    if stored is not None and stored != network.config.class_names:
        raise WeightsError(
            f"{file.path}: was saved for the classes {', '.join(stored)}, which is not the class list given; "
            "leave --classes out to use the file's own"
        )
    return own_state(file.tensors, network, file.path)


def check_made_for(name: str, file: WeightFile) -> None:
    """Raise WeightsError where one of this project's own files says that it is for another network."""
    made_for = file.metadata.get("network", name)
    if made_for != name:
        raise WeightsError(f"{file.path}: holds weights of {made_for}, not of {name}; name that network")


def stored_classes(file: WeightFile) -> tuple[str, ...] | None:
    """Return the class list that one of this project's own files carries; None for the other kinds."""
    text = file.metadata.get("class_names")
    if text is None:
        return None
    try:
        names = json.loads(text)
    except ValueError as error:
        raise WeightsError(f"{file.path}: its class list cannot be read ({error}); convert it again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{file.path}: its class list is no list of names; convert it again")
    return tuple(names)


def save_network(network: SSD, path: Path, packed: bool = False) -> None:
    """Write a network as safetensors, with its name, class list and the origin of its weights.

    Args:
        network: anything but its tensors and description stays behind.
        path: replaced if it exists; its folder is made.
        packed: write kernels in 8 bits, a quarter of the size. What is read back then differs from `network`,
            so measure what was read.

    Raises:
        WeightsError: `packed`, and a kernel has NaN or infinite values.
        SSDDeployError: the file cannot be written; an existing one then stays.
    """
    metadata = {
        "network": network.config.name,
        "class_names": json.dumps(network.config.class_names),
        "source": network.spec.weights,
        "source_sha256": network.spec.weights_sha256,
    }
    tensors = network.state_dict()
    if packed:
        tensors, metadata = pack(tensors), {**metadata, "packed": PACKED}
    write_safetensors(path, tensors, metadata)
