"""Name and weights -> a network that knows where its weights came from."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ssd_train.errors import WeightsError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import NetworkConfig, find_network, network_config
from ssd_train.weights import store
from ssd_train.weights.checkpoint import read_tensors
from ssd_train.weights.convert import check_made_for, save_network, state_for, stored_classes
from ssd_train.weights.random_weights import randomise, state_sha256

# `--weights shapes`: the detector that comes with this package, trained on the pictures of `datasets/generated.py`.
SHAPES_WEIGHTS = Path(__file__).with_name("shapes.safetensors")
SHAPES_NETWORK = "ssd_300_mobilenet0.25_custom"


def load_network(name: str, weights: str | Path | None, classes: Sequence[str] | None) -> SSD:
    """Build a network with weights; see `ssd_train.build_network`, which is this without its imports."""
    seed = random_seed(weights)
    if weights is None or seed is not None:
        network = build_ssd(network_config(name, classes))
        origin = "initial, untrained"
        if seed is not None:
            randomise(network, seed)
            origin = f"random, seed {seed}"
        sha256 = state_sha256(network)
    else:
        file = read_tensors(_shapes_weights(name) if str(weights) == "shapes" else Path(weights))
        check_made_for(find_network(name).name, file)
        config = network_config(name, stored_classes(file) if classes is None else classes)
        # On the meta device nothing is initialised that the file replaces anyway.
        with torch.device("meta"):
            network = build_ssd(config)
        network.load_state_dict(state_for(network, file), assign=True)
        # A converted file still says what it was made from.
        source = file.metadata.get("source")
        origin = f"{file.path.name}, from {source}" if source else file.path.name
        sha256 = file.sha256
    network.spec = dataclasses.replace(network.spec, weights=origin, weights_sha256=sha256)
    return network


def random_seed(weights: str | Path | None) -> int | None:
    """Return the seed of `random` (0) or `random:SEED`, None where `weights` names no random weights.

    Raises:
        WeightsError: the seed is not a whole number.
    """
    match = re.fullmatch(r"random(?::(.*))?", str(weights))
    if match is None:
        return None
    seed = match[1] or "0"
    if not seed.isdecimal():
        raise WeightsError(f"--weights {weights}: the seed {seed!r} is not a whole number; write random:0")
    # What PyTorch's generators take.
    if int(seed) >= 2**63:
        raise WeightsError(f"--weights {weights}: the seed {seed} is not below 2**63; write a smaller one")
    return int(seed)


def _shapes_weights(name: str) -> Path:
    """Return the packaged weights; raise WeightsError for a network that they are not of."""
    if find_network(name).name != SHAPES_NETWORK:
        raise WeightsError(
            f"--weights shapes: are weights of {SHAPES_NETWORK}, not of {name}; name that network, or a weight file"
        )
    return SHAPES_WEIGHTS


def published_weights(config: NetworkConfig, root: Path, on_progress: store.Progress = store.silent) -> Path:
    """Return a network's published weights, converted; downloads and converts them where `root` lacks them.

    Raises:
        WeightsError: none were published, or they cannot be had; the message says where to put them by hand.
    """
    cached = store.cached_weights(config, root)
    if cached is not None:
        return cached
    params = store.fetch_params(config, root, on_progress)
    path = store.weights_path(config, root)
    save_network(load_network(config.name, params, None), path)
    return path
