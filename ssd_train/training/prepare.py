"""A configuration -> the network, the training samples and the validation set that it means."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from ssd_train.class_list import read_class_list
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.layouts import DataSource, find_source
from ssd_train.errors import DatasetError, NetworkError, WeightsError
from ssd_train.networks.anchors import covered_share, generate_anchors, with_even_steps
from ssd_train.networks.build import build_ssd
from ssd_train.networks.feature_expander import ExpandedLevel
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import find_network, network_config
from ssd_train.training.batches import available_workers
from ssd_train.training.config import TrainingConfig
from ssd_train.training.initialise import initialise, start_from
from ssd_train.training.processes import Processes
from ssd_train.training.samples import load_training_samples
from ssd_train.training.validate import readable
from ssd_train.weights.backbone import fetch_backbone, has_published_backbone, load_backbone
from ssd_train.weights.store import default_root

# Below it, what lies at an image's edge could not be matched.
LEAST_COVERED_SHARE = 0.9


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a training works on.

    Attributes:
        network: on this process's device, with its initial weights.
        source: where the images are.
        samples: training images with their training boxes.
        validation: the validation set; its metric is that of `source.layout`.
        val_interval: epochs from one validation to the next.
        notes: what was left out or started from, a sentence each.
    """

    network: SSD
    source: DataSource
    samples: list[Sample]
    validation: Dataset
    val_interval: int
    notes: tuple[str, ...]


def prepare(
    config: TrainingConfig, processes: Processes, *, with_weights: bool, with_check: bool, say: Callable[[str], None]
) -> Prepared:
    """Build the network and read both splits' annotations.

    Args:
        config: the training.
        processes: decide the device, and who reads which validation images.
        with_weights: load `init` or a backbone; not wanted where a checkpoint replaces all weights.
        with_check: read every validation image once, see `validate.readable`.
        say: told what takes long.

    Raises:
        NetworkError, DatasetError, ImageError, WeightsError, SpecError: something named does not exist or fit.
    """
    row = find_network(config.network)
    if config.data_shape not in (None, row.input_size):
        raise NetworkError(
            f"--data-shape {config.data_shape} does not fit {row.name}, whose input is {row.input_size} pixels; "
            "leave the option out or choose another network"
        )
    source = find_source(config.dataset, config.data_root, train_split=config.train_split, val_split=config.val_split)
    if row.class_names:
        class_names = row.class_names if config.classes is None else read_class_list(config.classes)
    else:
        class_names = source.class_names() if config.classes is None else read_class_list(config.classes)
    network = build_ssd(network_config(config.network, class_names))
    if config.batch_size == 1 and any(isinstance(module, ExpandedLevel) for module in network.modules()):
        # The last level has one cell: nothing to take a variance of.
        raise NetworkError(f"{row.name} has batch norms, which need two images a step; use --batch-size 2 or more")

    samples, notes = load_training_samples(source, class_names)
    samples = samples[: config.limit]
    global_batch = config.batch_size * processes.count
    if len(samples) < global_batch:
        raise DatasetError(
            f"{source.root}: {len(samples)} training images do not fill a batch of {global_batch}; use a smaller "
            "--batch-size"
        )
    validation = source.load(source.val_split, class_names)
    if with_check:
        threads = available_workers(config.workers, processes.local_count) or 1
        validation = readable(validation, processes, skip_bad=config.skip_bad_images, workers=threads)
    initialise(network, config.seed)
    share = covered_share(network.config)
    if config.anchor_steps == "even" or (config.anchor_steps == "auto" and share < LEAST_COVERED_SHARE):
        network.anchors.copy_(torch.from_numpy(generate_anchors(with_even_steps(network.config))))
        notes += (f"anchors are spread evenly over the input, of which GluonCV's cover {100 * share:.0f} % a side",)
    if with_weights:
        notes += (_load_weights(network, config, say),)
    network.to(processes.device)
    return Prepared(
        network=network,
        source=source,
        samples=samples,
        validation=validation,
        val_interval=config.val_interval or source.layout.val_interval,
        notes=(*notes, *(f"validation: {note}" for note in validation.notes)),
    )


def _load_weights(network: SSD, config: TrainingConfig, say: Callable[[str], None]) -> str:
    """Load what a training starts from, and return a sentence about it."""
    if config.init is not None:
        return start_from(network, config.init, reuse_classes=config.reuse_classes)
    backbone = network.config.backbone
    if config.pretrained_backbone == "none":
        return "started from fresh weights, backbone included"
    if config.pretrained_backbone != "auto":
        load_backbone(network, Path(config.pretrained_backbone))
        return f"started from the backbone in {config.pretrained_backbone}"
    if not has_published_backbone(backbone):
        return f"started from fresh weights: GluonCV published none for {backbone}"
    say(f"looking for GluonCV's ImageNet weights of {backbone} in {default_root()}, or fetching them")
    try:
        path = fetch_backbone(backbone, default_root())
    except WeightsError as error:
        raise WeightsError(f"{error}; or train without them: --pretrained-backbone none") from error
    load_backbone(network, path)
    return f"started from the ImageNet backbone {path.name}"
