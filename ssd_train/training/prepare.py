"""A configuration -> the network, the training samples and the validation set that it means."""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_train.class_list import read_class_list
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.layouts import LAYOUTS, DataSource, find_source
from ssd_train.errors import DatasetError, ImageError, NetworkError, WeightsError
from ssd_train.networks.anchors import covered_share, generate_anchors, with_even_steps
from ssd_train.networks.build import build_ssd
from ssd_train.networks.feature_expander import ExpandedLevel
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import find_network, network_config
from ssd_train.training.balance import describe_balance, repeat_factors
from ssd_train.training.batches import AugmentedImages, available_workers
from ssd_train.training.config import FIELDS, TrainingConfig
from ssd_train.training.initialise import initialise, start_from
from ssd_train.training.loggers import check_loggers
from ssd_train.training.processes import Processes
from ssd_train.weights.backbone import PUBLISHED_SHA1, fetch_backbone, load_backbone
from ssd_train.weights.store import default_root

_log = logging.getLogger(__name__)

# Below it, what lies at an image's edge could not be matched.
LEAST_COVERED_SHARE = 0.9


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a training works on.

    Attributes:
        network: on this process's device, with its initial weights.
        source: where the images are.
        images: training images with their training boxes, augmented when they are loaded.
        repeats: how often each of them comes, for `Stream`; None for once an epoch.
        validation: the validation set; its metric is that of `source.layout`.
        val_interval: epochs from one validation to the next.
        notes: what was left out or started from, a sentence each.
    """

    network: SSD
    source: DataSource
    images: AugmentedImages
    repeats: NDArray[np.float64] | None
    validation: Dataset
    val_interval: int
    notes: tuple[str, ...]


def prepare(config: TrainingConfig, processes: Processes, *, with_weights: bool, with_check: bool) -> Prepared:
    """Build the network and read both splits' annotations.

    Args:
        processes: decide the device, and who reads which validation images.
        with_weights: load `init` or a backbone; not wanted where a checkpoint replaces all weights.
        with_check: read every validation image once, see `readable`.

    Raises:
        NetworkError, DatasetError, ImageError, WeightsError, SpecError: something named does not exist or fit.
        BackendError: a logger's package is not installed.
    """
    check_loggers(config.logger)
    row = find_network(config.network)
    if config.data_shape not in (None, row.input_size):
        raise NetworkError(
            f"data_shape {config.data_shape} does not fit {row.name}, whose input is {row.input_size} pixels; "
            "leave it out or choose another network",
            arguments=("data_shape", "network"),
        )
    source = find_source(config.dataset, config.data_root, train_split=config.train_split, val_split=config.val_split)
    if config.classes is not None:
        class_names = read_class_list(config.classes)
    else:
        class_names = row.class_names or source.class_names()
    network = build_ssd(network_config(config.network, class_names))
    if config.batch_size == 1 and any(isinstance(module, ExpandedLevel) for module in network.modules()):
        # The last level has one cell: nothing to take a variance of.
        raise NetworkError(
            f"{row.name} has batch norms, which need two images a step; use a batch_size of 2 or more",
            arguments=("batch_size",),
        )

    samples, notes = load_training_samples(source, class_names, negatives=config.negatives)
    samples = samples[: config.limit]
    repeats = None
    if config.balance:
        repeats = repeat_factors(samples, len(class_names))
        notes += (describe_balance(repeats, samples, class_names),)
    global_batch = config.batch_size * processes.count
    if len(samples) < global_batch:
        raise DatasetError(
            f"{source.root}: {len(samples)} training images do not fill a batch of {global_batch}; use a smaller "
            "batch_size",
            arguments=("batch_size",),
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
        notes += (_load_weights(network, config, processes),)
    network.to(processes.device)
    return Prepared(
        network=network,
        source=source,
        images=AugmentedImages(
            samples,
            network.spec.input_size,
            config.seed,
            augmentation=config.augmentation,
            skip_bad=config.skip_bad_images,
        ),
        repeats=repeats,
        validation=validation,
        val_interval=config.val_interval or source.layout.val_interval,
        notes=(*notes, *(f"validation: {note}" for note in validation.notes)),
    )


def load_training_samples(
    source: DataSource, class_names: Sequence[str], *, negatives: bool = False
) -> tuple[list[Sample], tuple[str, ...]]:
    """Read the training split and give its images the boxes that GluonCV trains on.

    Difficult and crowd objects are objects like others. Objects that are marked to be ignored are left out, and so is
    an image whose every object is left out: it shows something, so that it is no background.

    Args:
        negatives: keep the images without any object.

    Returns:
        The samples, whose boxes are in image pixels and as the layout's `training_boxes` has them, and sentences
        about what was left out.

    Raises:
        DatasetError: the folder cannot be used, or no image has an object.
    """
    dataset = source.layout.load(source.root, source.train_split, class_names, True)
    samples, left_out, num_empty = [], 0, 0
    for sample in dataset.samples:
        truth = source.layout.training_boxes(sample.ground_truth, sample.image_size)
        left_out += len(sample.ground_truth) - len(truth)
        is_empty = not len(sample.ground_truth)
        num_empty += is_empty
        if len(truth) or (is_empty and negatives):
            samples.append(dataclasses.replace(sample, ground_truth=truth))
    if not any(len(sample.ground_truth) for sample in samples):
        raise DatasetError(f"{dataset.name}: none of its {len(dataset.samples)} images has an object to learn")
    notes = list(dataset.notes)
    if left_out:
        notes.append(f"left out {left_out} objects in training, which break GluonCV's bounds rule")
    if num_empty and negatives:
        notes.append(f"{num_empty} of {len(samples)} images have no objects and train as negatives")
    elif num_empty:
        notes.append(f"left out {num_empty} images without objects, which negatives would let train as background")
    num_spoilt = len(dataset.samples) - len(samples) - (0 if negatives else num_empty)
    if num_spoilt:
        notes.append(f"left out {num_spoilt} images of which every object is left out")
    return samples, tuple(notes)


def resolved_values(config: TrainingConfig, prepared: Prepared, processes: Processes) -> dict[str, Any]:
    """Return a configuration for JSON with what it left open: it repeats the training, from any folder."""
    source = prepared.source
    paths = {
        name: str(value.expanduser().absolute()) for name in FIELDS if isinstance(value := getattr(config, name), Path)
    }
    own_folder = {} if config.dataset in LAYOUTS else {"dataset": str(source.root.absolute())}
    several = processes.device.type == "cuda" and processes.count == processes.local_count > 1
    gpus = processes.count if several else config.gpus
    splits = {"train_split": source.train_split, "val_split": source.val_split}
    return {**config.to_dict(), **paths, **own_folder, **splits, "val_interval": prepared.val_interval, "gpus": gpus}


def _load_weights(network: SSD, config: TrainingConfig, processes: Processes) -> str:
    """Load what a training starts from, and return a sentence about it."""
    if config.init is not None:
        return start_from(network, config.init, reuse_classes=config.reuse_classes)
    backbone = network.config.backbone
    if config.pretrained_backbone == "none":
        return "started from fresh weights, backbone included"
    if config.pretrained_backbone != "auto":
        load_backbone(network, Path(config.pretrained_backbone))
        return f"started from the backbone in {config.pretrained_backbone}"
    if backbone not in PUBLISHED_SHA1:
        return f"started from fresh weights: GluonCV published none for {backbone}"
    if processes.is_first:
        _log.info("looking for GluonCV's ImageNet weights of %s in %s, or fetching them", backbone, default_root())
    try:
        path = fetch_backbone(backbone, default_root())
    except WeightsError as error:
        raise WeightsError(
            f"{error}; or train without them: pretrained_backbone none", arguments=("pretrained_backbone",)
        ) from error
    load_backbone(network, path)
    return f"started from the ImageNet backbone {path.name}"


def readable(dataset: Dataset, processes: Processes, *, skip_bad: bool, workers: int) -> Dataset:
    """Read every image of a validation set once, so that a broken one shows before the training and not after
    its first epoch.

    Returns:
        The data set; with `skip_bad` without the images that cannot be read, and with a note of how many.

    Raises:
        ImageError, DatasetError: an image cannot be read and `skip_bad` is off, or none can be.
    """
    part = dataset.samples[processes.rank :: processes.count]
    with ThreadPoolExecutor(workers) as pool:
        errors = [error for error in pool.map(_error_of, part) if error is not None]
    bad = dict(pair for pairs in processes.gather(errors) for pair in pairs)
    if not bad:
        return dataset
    if not skip_bad:
        raise ImageError(next(iter(bad.values())))
    samples: Sequence[Sample] = [sample for sample in dataset.samples if sample.path not in bad]
    if not samples:
        raise DatasetError(f"{dataset.name}: none of its {len(bad)} images can be read; {next(iter(bad.values()))}")
    note = f"left out {len(bad)} images that cannot be read: {', '.join(path.name for path in list(bad)[:5])}"
    return dataclasses.replace(dataset, samples=tuple(samples), notes=(*dataset.notes, note))


def _error_of(sample: Sample) -> tuple[object, str] | None:
    try:
        sample.load_image()
    except (ImageError, DatasetError) as error:
        return sample.path, str(error)
    return None
