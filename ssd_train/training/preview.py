"""The first training images as the network gets them, as a picture that shows what a training would see."""

from pathlib import Path

import torch

from ssd_train.training.batches import Batch, Stream, batches
from ssd_train.training.config import TrainingConfig
from ssd_train.training.input_batch import input_batch
from ssd_train.training.pictures import write_augmented
from ssd_train.training.prepare import Prepared, prepare
from ssd_train.training.processes import Processes

PREVIEW_NAME = "augmented.jpg"
MAX_IMAGES = 16


def preview(config: TrainingConfig) -> Path:
    """Write a picture of the first training images as the network would get them, and train nothing.

    Raises:
        SSDDeployError: as `loop.train`.
    """
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    prepared = prepare(config, processes, with_weights=False, with_check=False)
    return write_preview(config.out, load_preview(prepared, config.seed), prepared)


def load_preview(prepared: Prepared, seed: int) -> Batch:
    """Load the first images of a training.

    Raises:
        OwnPartError: one cannot be read.
    """
    images = prepared.images
    count = min(MAX_IMAGES, len(images))
    stream = Stream(num_samples=len(images), batch_size=count, epochs=1, seed=seed)
    batch = next(batches(images, stream, first_step=0, rank=0, processes=1, workers=0, pin_memory=False))
    images.check_readable(batch)
    return batch


def write_preview(folder: Path, batch: Batch, prepared: Prepared) -> Path:
    """Write the picture into a run folder, and return its path."""
    spec = prepared.network.spec
    path = folder / PREVIEW_NAME
    write_augmented(path, input_batch(batch, spec.mean, spec.std), batch.boxes, batch.labels, spec)
    return path
