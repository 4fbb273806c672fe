"""What a training's weights start from: a detector, an ImageNet backbone, or nothing."""

import dataclasses
import logging
from collections.abc import Callable, Collection
from pathlib import Path

from ssd_train.errors import WeightsError
from ssd_train.networks.ssd import SSD
from ssd_train.training.config import TrainingConfig
from ssd_train.training.initialise import start_from
from ssd_train.training.processes import Processes
from ssd_train.weights.backbone import PUBLISHED_SHA1, fetch_backbone, load_backbone
from ssd_train.weights.load import SHAPES, SHAPES_WEIGHTS
from ssd_train.weights.store import default_root, run_weights
from ssd_train.weights.torchvision_classifier import CLASSIFIERS, fetch_classifier, no_classifier

_log = logging.getLogger(__name__)

# Values of `pretrained_backbone` that are no file.
BACKBONE_WORDS = ("auto", "required", "torchvision", "none")

COST_OF_FRESH_BACKBONE = "learning takes longer, and with few images ends at a lower score"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What was loaded.

    Attributes:
        note: a sentence about it.
        has_backbone: the backbone has learned something already.
        warning: a sentence about what was looked for and not found; None where nothing was.
    """

    note: str
    has_backbone: bool
    warning: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publisher:
    """A project that published ImageNet classifiers.

    Attributes:
        name: of the project.
        backbones: those of ours that it has.
        fetch: backbone and folder -> its file, downloaded where the folder lacks it.
    """

    name: str
    backbones: Collection[str]
    fetch: Callable[[str, Path], Path]


PUBLISHERS = (
    Publisher(name="GluonCV", backbones=PUBLISHED_SHA1, fetch=fetch_backbone),
    Publisher(name="torchvision", backbones=CLASSIFIERS, fetch=fetch_classifier),
)


def load_start(network: SSD, config: TrainingConfig, processes: Processes) -> Start:
    """Load what a training starts from into a network, which is freshly initialised.

    Raises:
        WeightsError: weights that were named cannot be read or do not fit, or required ones cannot be had.
    """
    if config.init is not None:
        note = start_from(network, init_path(config.init), reuse_classes=config.reuse_classes)
        return Start(note=note, has_backbone=True)
    wanted, backbone = config.pretrained_backbone, network.config.backbone
    if wanted == "none":
        return Start(note="started from fresh weights, backbone included", has_backbone=False)
    if wanted not in BACKBONE_WORDS:
        phrase = load_backbone(network, Path(wanted))
        return Start(note=f"started from the backbone in {wanted}, {phrase}", has_backbone=True)
    publisher = publisher_of(backbone, wanted)
    if publisher is None:
        if wanted != "auto":
            why = no_classifier(backbone) if wanted == "torchvision" else f"nobody published any for {backbone}"
            raise WeightsError(
                f"pretrained_backbone {wanted}: {why}; or name a file",
                arguments=("pretrained_backbone", "network"),
            )
        return Start(note=f"started from fresh weights: nobody published any for {backbone}", has_backbone=False)
    root = default_root()
    if processes.is_first:
        _log.info("looking for %s's ImageNet weights of %s in %s, or fetching them", publisher.name, backbone, root)
    try:
        path = publisher.fetch(backbone, root)
    except WeightsError as error:
        if wanted != "auto":
            raise WeightsError(
                f"{error}; or train without them: pretrained_backbone auto or none",
                arguments=("pretrained_backbone",),
            ) from error
        # What kept them away is more than a sentence; `required` says it.
        warning = (
            f"no ImageNet weights of {backbone} were found in {root} or could be fetched, so the backbone starts from "
            f"random weights: {COST_OF_FRESH_BACKBONE}"
        )
        return Start(note="started from fresh weights, backbone included", has_backbone=False, warning=warning)
    phrase = load_backbone(network, path)
    return Start(note=f"started from the ImageNet backbone {path.name}, {phrase}", has_backbone=True)


def publisher_of(backbone: str, wanted: str) -> Publisher | None:
    """Return who has weights for a backbone: of several GluonCV, unless torchvision's are wanted."""
    named = [publisher for publisher in PUBLISHERS if wanted in ("auto", "required", publisher.name)]
    return next((publisher for publisher in named if backbone in publisher.backbones), None)


def init_path(init: str) -> Path:
    """Return the weight file that `init` names; a run folder stands for its best weights.

    Raises:
        WeightsError: the run folder has none.
    """
    if init == SHAPES:
        return SHAPES_WEIGHTS
    return run_weights(Path(init)) if Path(init).is_dir() else Path(init)
