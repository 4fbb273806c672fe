"""Where weights live on this machine, and under which names they were published. No torch, no downloads.

`<root>/<name>-<sha8>.zip` is downloaded and `<root>/<name>-<sha8>.params` taken out of it and checked, `name` being
a network or a backbone. `<root>/<network>.safetensors` is what a network's are converted to. A `.zip` or `.params`
put there by hand will do. `<run>/best.safetensors` and `<run>/last.safetensors` are a training's.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ssd_train.errors import WeightsError
from ssd_train.networks.config import NetworkConfig
from ssd_train.paths import user_path

# Where GluonCV looks (`gluoncv/model_zoo/model_store.py`); MXNET_GLUON_REPO names a mirror of it.
REPOSITORY = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/"

# Of a backbone's files, its own and its networks': the largest with its numbers as float32, and some room.
_MAX_MIB = {
    "vgg16_atrous": 160,
    "resnet18_v1": 64,
    "resnet34_v1b": 128,
    "resnet50_v1": 224,
    "resnet50_v1s": 128,
    "resnet101_v2": 192,
    "mobilenet1.0": 112,
    "mobilenet0.25": 16,
}

# Twice what torchvision's largest SSD of COCO takes.
MOST_CHECKPOINT_BYTES = 256 << 20

# In the folder of a training: of the best validation, and of the end.
BEST_NAME = "best.safetensors"
LAST_NAME = "last.safetensors"

# Bytes there so far, and in all; None where the server does not say.
Progress = Callable[[int, int | None], None]


class PublishedFile(NamedTuple):
    """A `.params` file that GluonCV published in a zip archive of its own.

    Attributes:
        name: of the network or backbone.
        sha1: of the `.params` file, in full.
    """

    name: str
    sha1: str

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.sha1[:8]}"

    @property
    def max_bytes(self) -> int:
        """More than the `.params` file has, or the archive that it is packed in."""
        backbone = re.sub(r"^ssd_\d+_|_(voc|coco)$", "", self.name)
        return _MAX_MIB.get(backbone, 256) << 20

    @property
    def url(self) -> str:
        """The address of the archive; $MXNET_GLUON_REPO names a mirror."""
        repository = os.environ.get("MXNET_GLUON_REPO") or REPOSITORY
        return f"{repository.removesuffix('/')}/gluon/models/{self.stem}.zip"


def silent(done_bytes: int, total_bytes: int | None) -> None:
    """A progress callback that shows nothing."""


def default_root() -> Path:
    """Return the folder of weight files: $SSD_DEPLOY_ROOT, or `~/.torch/models`. Raises WeightsError for no path."""
    return user_path(os.environ.get("SSD_DEPLOY_ROOT") or "~/.torch/models", WeightsError, source="SSD_DEPLOY_ROOT")


def converted_path(config: NetworkConfig, root: Path) -> Path:
    """Return where a network's converted weights are, if they are there."""
    return root / f"{config.name}.safetensors"


def published_file(config: NetworkConfig) -> PublishedFile:
    """Return what GluonCV published for a network.

    Raises:
        WeightsError: nothing.
    """
    if config.params_sha1 is None:
        raise WeightsError(
            f"there are no published weights for {config.name}; name a weight file, or use 'random' for an untrained "
            "network",
            arguments=("weights",),
        )
    return PublishedFile(config.name, config.params_sha1)


def run_weights(folder: Path) -> Path:
    """Return the weights that a training left in its run folder: the best ones, else those of its end.

    Raises:
        WeightsError: it has neither.
    """
    for name in (BEST_NAME, LAST_NAME):
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(
        f"{folder}: holds neither {BEST_NAME} nor {LAST_NAME}, which a training writes after a validation and at its "
        "end; name a run folder that has one, or a weight file"
    )
