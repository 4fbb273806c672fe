"""A name and what to fill it with -> a network that knows where its weights came from. The one way there is.

Importing this needs no torch; its functions do, and say so where it is missing.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.errors import WeightsError
from ssd_train.networks.zoo import find_network, network_config
from ssd_train.paths import user_path
from ssd_train.requirements import require
from ssd_train.shared_folder import make_way
from ssd_train.weights.description import BATCH_NORMS, BatchNorm
from ssd_train.weights.store import (
    MOST_CHECKPOINT_BYTES,
    Progress,
    converted_path,
    default_root,
    published_file,
    run_weights,
    silent,
)

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

_log = logging.getLogger(__name__)

# What `weights` may say instead of a file's path: what the network's project published for it, ...
PUBLISHED = "published"
# ... and the detector that comes with this package, trained on the pictures of `datasets/generated.py`.
SHAPES = "shapes"
SHAPES_WEIGHTS = Path(__file__).with_name("shapes.safetensors")
SHAPES_NETWORK = "ssd_300_mobilenet0.25_custom"


def load_network(
    name: str,
    weights: str | Path | None = PUBLISHED,
    classes: Sequence[str] | None = None,
    *,
    root: Path | None = None,
    on_progress: Progress = silent,
    batch_norm: BatchNorm = "auto",
) -> "SSD":
    """Build a network with weights.

    Args:
        name, weights, classes, batch_norm: as for `ssd_train.build_network`; `published` weights are downloaded and
            converted where they are not here yet.
        root: folder of fetched weights; None for `store.default_root`.
        on_progress: told the bytes of a download, done and in all.

    Raises:
        BackendError: torch is not installed.
        NetworkError, WeightsError: as `ssd_train.build_network`, or the published weights cannot be had.
    """
    _require_torch()
    from ssd_train.weights.network_file import read_network
    from ssd_train.weights.random_weights import untrained_network

    if batch_norm not in BATCH_NORMS:
        raise WeightsError(
            f"batch_norm {batch_norm!r} does not exist; choose {', '.join(BATCH_NORMS)}", arguments=("batch_norm",)
        )
    seed = random_seed(weights)
    if weights is None or seed is not None:
        if batch_norm != "auto":
            raise WeightsError(
                f"batch_norm {batch_norm!r} is for checkpoints of pytorch-cv; leave it out", arguments=("batch_norm",)
            )
        return untrained_network(network_config(name, classes), seed)
    weights_path = stored_weights(name, weights) or fetch_weights(name, root, on_progress)
    return read_network(name, weights_path, classes, batch_norm=batch_norm)


def stored_weights(name: str, weights: str | Path | None) -> Path | None:
    """Return the file that `weights` of `load_network` stand for; None where they come from none, or are fetched.

    Raises:
        WeightsError: they are not of this network, or a run folder has none.
    """
    if weights is None or str(weights) == PUBLISHED or random_seed(weights) is not None:
        return None
    if str(weights) == SHAPES:
        if find_network(name).name != SHAPES_NETWORK:
            raise WeightsError(
                f"weights {SHAPES}: are weights of {SHAPES_NETWORK}, not of {name}; name that one, or a weight file",
                arguments=("weights", "network"),
            )
        return SHAPES_WEIGHTS
    path = user_path(weights, WeightsError, arguments=("weights",))
    return run_weights(path) if path.is_dir() else path


def fetch_weights(name: str, root: Path | None = None, on_progress: Progress = silent) -> Path:
    """Return a network's published weights, converted; downloads and converts them where `root` lacks them.

    Raises:
        BackendError: torch, which converts them, is not installed.
        NetworkError: no such network.
        WeightsError: none were published, or they cannot be had; the message says where to put them by hand.
    """
    _require_torch()
    require("requests", "export", "A download")
    require("filelock", "export", "A download")
    from ssd_train.weights.download import fetch_hashed, fetch_published
    from ssd_train.weights.network_file import read_network, save_network

    config = find_network(name)
    folder = root or default_root()
    path = converted_path(config, folder)
    if path.is_file():
        return path
    if config.checkpoint_url is not None:
        published = fetch_hashed(
            config.checkpoint_url, folder, max_bytes=MOST_CHECKPOINT_BYTES, on_progress=on_progress
        )
    else:
        published = fetch_published(published_file(config), folder, on_progress)
    _log.info("converting %s to %s", published.name, path)
    network = read_network(config.name, published)
    make_way(path)
    save_network(network, path)
    return path


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
        raise WeightsError(
            f"weights {weights}: the seed {seed!r} is not a whole number; write random:0", arguments=("weights",)
        )
    if int(seed) >= 2**63:  # more than PyTorch's generators take
        raise WeightsError(
            f"weights {weights}: the seed {seed} is not below 2**63; write a smaller one", arguments=("weights",)
        )
    return int(seed)


def _require_torch() -> None:
    require("torch", "export", "A PyTorch network")
    require("safetensors", "export", "A weight file")
