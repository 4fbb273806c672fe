"""A configuration -> the network, the training samples and the validation set that it means."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ssd_train.class_list import read_class_list
from ssd_train.data_check.before_training import training_warnings
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.datasets.source import DataSource
from ssd_train.errors import DatasetError, ImageError, NetworkError
from ssd_train.evaluation.evaluate import has_objects
from ssd_train.networks.anchors import covered_share, generate_anchors, needs_even_steps, with_even_steps
from ssd_train.networks.build import build_ssd
from ssd_train.networks.config import size_name
from ssd_train.networks.ssd import SSD
from ssd_train.networks.zoo import find_network, network_config
from ssd_train.paths import user_path
from ssd_train.training.balance import describe_balance, repeat_factors
from ssd_train.training.batches import AugmentedImages, available_workers
from ssd_train.training.config import FIELDS, TrainingConfig
from ssd_train.training.initialise import initialise
from ssd_train.training.loggers import check_loggers
from ssd_train.training.processes import Processes
from ssd_train.training.start import BACKBONE_WORDS, load_start
from ssd_train.weights.load import SHAPES
from ssd_train.weights.store import BEST_NAME


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """What a training works on.

    Attributes:
        network: on this process's device, with its initial weights.
        source: where the images are.
        images: training images with their training boxes, augmented when they are loaded.
        repeats: how often each of them comes, for `Stream`; None for once an epoch.
        validation: the validation set; its metric is that of `source.layout`.
        is_scored: the validation set has an object that counts, so that there is a score.
        val_interval: epochs from one validation to the next.
        batch_size: images a step and process; less than was asked for where that is allowed and the images are few.
        notes: what was left out or started from, a sentence each.
        warnings: what will hardly be as meant, likewise.
    """

    network: SSD
    source: DataSource
    images: AugmentedImages
    repeats: NDArray[np.float64] | None
    validation: Dataset
    is_scored: bool
    val_interval: int
    batch_size: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


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
    if config.data_shape is not None and row.input_size != (config.data_shape, config.data_shape):
        raise NetworkError(
            f"data_shape {config.data_shape} does not fit {row.name}, whose input is {size_name(row.input_size)} "
            "pixels; leave it out or choose another network",
            arguments=("data_shape", "network"),
        )
    source = config.source()
    if config.classes is not None:
        class_names = read_class_list(config.classes)
    else:
        class_names = row.class_names or source.class_names()
    network = build_ssd(network_config(config.network, class_names))
    samples, notes = load_training_samples(source, class_names, negatives=config.negatives)
    samples = samples[: config.limit]
    repeats = None
    if config.balance:
        repeats = repeat_factors(samples, len(class_names))
        notes += (describe_balance(repeats, samples, class_names),)
    batch_size = fitted_batch_size(config, len(samples), processes, least=least_batch_size(network))
    if batch_size < config.batch_size:
        notes += (
            f"a step has {batch_size} images a process and not {config.batch_size}, since there are {len(samples)}",
        )
    # That it has none of the classes is said like that it has no objects.
    validation = source.load(source.val_split, class_names, needs_match=False)
    if with_check:
        threads = available_workers(config.workers, processes.local_count) or 1
        validation = readable(validation, processes, skip_bad=config.skip_bad_images, workers=threads)
    initialise(network, config.seed)
    share = covered_share(network.config)
    if needs_even_steps(network.config, config.anchor_steps):
        network.anchors.copy_(torch.from_numpy(generate_anchors(with_even_steps(network.config))))
        notes += (f"anchors are spread evenly over the input, of which GluonCV's cover {100 * share:.0f} % a side",)
    warnings = schedule_warnings(config)
    if with_weights:
        start = load_start(network, config, processes)
        notes += (start.note,)
        warnings += (start.warning,) if start.warning else ()
        if config.freeze != "none" and not start.has_backbone:
            warnings += (
                f"freeze {config.freeze} keeps random weights as they are, since the backbone is fresh; name weights "
                "to start from, or leave it out",
            )
    is_scored = has_objects(validation.samples)
    if not is_scored:
        warnings += (
            f"{validation.name}: none of the {len(validation.samples)} validation images has an object that counts, so "
            f"there will be no scores and no {BEST_NAME}"
            + ("" if config.patience is None else f", and patience {config.patience} does not apply"),
        )
    warnings += training_warnings(samples, validation, network.config)
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
        is_scored=is_scored,
        val_interval=config.val_interval or source.layout.val_interval,
        batch_size=batch_size,
        notes=(*notes, *(f"validation: {note}" for note in validation.notes)),
        warnings=warnings,
    )


def least_batch_size(network: SSD) -> int:
    """Return how many images a step of one process needs: two where a map of one cell may have a batch norm.

    That one would have nothing to take a variance of. Maps of a backbone have several cells; added levels end at one.
    """
    of_backbone = {*network.backbone.modules()}
    added = (module for module in network.modules() if module not in of_backbone)
    return 2 if any(isinstance(module, nn.BatchNorm2d) for module in added) else 1


def fitted_batch_size(config: TrainingConfig, images: int, processes: Processes, *, least: int) -> int:
    """Return the images a step and process, of which a network needs `least` and there are only so many.

    With `shrink_batch` it is at most what the training images fill.

    Raises:
        DatasetError, NetworkError: the batch is too large or too small; the sentence names sizes that are neither.
    """
    most, asked = images // processes.count, config.batch_size
    are_several = f" on each of {processes.count} processes" if processes.count > 1 else ""
    if most < least:
        raise DatasetError(
            f"{images} training images are too few for {config.network}, which needs {least} in a step{are_several}; "
            + ("add images, or start fewer processes" if are_several else "add images")
            + (", or choose a network without batch norms in its last levels, of vgg16_atrous" if least > 1 else ""),
            arguments=("network",) if least > 1 else (),
        )
    fitting = f"use a batch_size of {least} to {most}" if least < most else f"use a batch_size of {most}"
    if asked < least:
        raise NetworkError(
            f"{config.network} has batch norms, which need {least} images a step; {fitting}", arguments=("batch_size",)
        )
    if asked > most and not config.shrink_batch:
        raise DatasetError(
            f"{images} training images do not fill a batch of {asked * processes.count}; {fitting}",
            arguments=("batch_size",),
        )
    return min(asked, most)


def schedule_warnings(config: TrainingConfig) -> tuple[str, ...]:
    """Return a sentence about decays of the learning rate that never come; none where all do."""
    beyond = [epoch for epoch in config.lr_decay_epoch if epoch >= config.epochs]
    if config.lr_mode != "step" or not beyond:
        return ()
    which = "the learning rate never falls" if len(beyond) == len(config.lr_decay_epoch) else "it never falls there"
    return (
        f"lr_decay_epoch {','.join(map(str, beyond))} lies beyond the last of {config.epochs} epochs, so {which}; "
        "choose earlier epochs, or lr_mode cos, which needs none",
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
    dataset = source.load(source.train_split, class_names, training=True)
    samples, left_out, num_empty = [], 0, 0
    for sample in dataset.samples:
        truth = source.layout.training_boxes(sample.ground_truth, sample.image_size)
        left_out += len(sample.ground_truth) - len(truth)
        is_empty = not len(sample.ground_truth) and not sample.has_lost_objects
        num_empty += is_empty
        if len(truth) or (is_empty and negatives):
            samples.append(dataclasses.replace(sample, ground_truth=truth))
    if not any(len(sample.ground_truth) for sample in samples):
        raise DatasetError(f"{dataset.name}: none of its {len(dataset.samples)} images has an object to learn")
    notes = list(dataset.notes)
    if left_out:
        notes.append(f"left out {left_out} objects in training, of which less than a pixel is in the image")
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
        name: str(user_path(value).absolute()) for name in FIELDS if isinstance(value := getattr(config, name), Path)
    }
    words = {"init": (SHAPES,), "pretrained_backbone": BACKBONE_WORDS}
    paths |= {
        name: str(user_path(value).absolute())
        for name, known in words.items()
        if (value := getattr(config, name)) is not None and value not in known
    }
    own_folder = {} if config.dataset in (None, *LAYOUTS) else {"dataset": str(source.root.absolute())}
    several = processes.device.type == "cuda" and processes.count == processes.local_count > 1
    gpus = processes.count if several else config.gpus
    splits = {"train_split": source.train_split, "val_split": source.val_split}
    resolved = {"val_interval": prepared.val_interval, "batch_size": prepared.batch_size, "gpus": gpus}
    return {**config.to_dict(), **paths, **own_folder, **splits, **resolved}


def readable(dataset: Dataset, processes: Processes, *, skip_bad: bool, workers: int) -> Dataset:
    """Read every image of a validation set once, so that a broken one shows before the training and not after
    its first epoch.

    Returns:
        The data set; with `skip_bad` without the images that cannot be read, and with a note of how many.

    Raises:
        ImageError, DatasetError: an image cannot be read and `skip_bad` is off, or none can be.
    """
    part = processes.part(dataset.samples)
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
