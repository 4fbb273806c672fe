"""What a training sees and finds, as pictures for people: its first images as the network gets them, and detections."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
from ssd_train.draw import draw, write_picture
from ssd_train.picture_grid import fit_width, picture_grid
from ssd_train.pixel_limit import pixel_limit
from ssd_train.spec import DetectorSpec
from ssd_train.training.batches import Batch, Stream, batches
from ssd_train.training.config import TrainingConfig
from ssd_train.training.input_batch import input_batch
from ssd_train.training.prepare import Prepared, prepare
from ssd_train.training.processes import Processes
from ssd_train.training.run_lock import held_run_folder

PREVIEW_NAME = "augmented.jpg"
MAX_PREVIEW_IMAGES = 16
# Lower scores would cover a picture of an untrained network.
SHOWN_SCORE = 0.3


def preview(config: TrainingConfig) -> Path:
    """Write a picture of the first training images as the network would get them, and train nothing.

    Raises:
        SSDDeployError: as `loop.train`.
    """
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    with pixel_limit(config.max_pixels):
        prepared = prepare(config, processes, with_weights=False, with_check=False)
        batch = load_preview(prepared, config.seed)
    with held_run_folder(config.out):
        return write_preview(config.out, batch, prepared)


def load_preview(prepared: Prepared, seed: int) -> Batch:
    """Load the first images of a training.

    Raises:
        OwnPartError: one cannot be read.
    """
    images = prepared.images
    count = min(MAX_PREVIEW_IMAGES, len(images))
    stream = Stream(num_samples=len(images), batch_size=count, epochs=1, seed=seed, repeats=prepared.repeats)
    batch = next(batches(images, stream, first_step=0, rank=0, processes=1, workers=0, pin_memory=False))
    images.check_readable(batch)
    return batch


def write_preview(folder: Path, batch: Batch, prepared: Prepared) -> Path:
    """Write the picture into a run folder, and return its path."""
    spec = prepared.network.spec
    path = folder / PREVIEW_NAME
    write_augmented(path, input_batch(batch, spec.mean, spec.std), batch.boxes, batch.labels, spec)
    return path


def write_augmented(path: Path, images: Tensor, boxes: Tensor, labels: Tensor, spec: DetectorSpec) -> None:
    """Write training images as the network gets them, with their boxes.

    Args:
        path: a PNG or JPEG.
        images: (N, 3, H, W) float32, normalised.
        boxes: (N, M, 4) xyxy in pixels of the images.
        labels: (N, M), -1 where a row is padding.
        spec: undoes the normalisation and names the classes.
    """
    pixels = images.permute(0, 2, 3, 1).cpu().numpy() * np.array(spec.std) + np.array(spec.mean)
    pictures = []
    for image, own_boxes, own_labels in zip(pixels, boxes.cpu().numpy(), labels.cpu().numpy(), strict=True):
        real = own_labels >= 0
        known = Detections(own_boxes[real], np.ones(int(real.sum()), np.float32), own_labels[real])
        picture = (255 * image).clip(0, 255).round().astype(np.uint8)
        pictures.append(draw(picture, known, spec.class_names, with_scores=False))
    write_picture(path, picture_grid(pictures))


def write_detections(
    path: Path, samples: Sequence[Sample], detections: Sequence[Detections], class_names: tuple[str, ...]
) -> None:
    """Write validation images, each as annotated above and as detected below.

    Args:
        path: a PNG or JPEG.
        samples, detections: one each a picture; detections below `SHOWN_SCORE` are not drawn.
    """
    pictures = []
    for sample, found in zip(samples, detections, strict=True):
        image = sample.load_image()
        truth = sample.ground_truth
        known = Detections(truth.boxes.astype(np.float32), np.ones(len(truth), np.float32), truth.labels)
        annotated = draw(image, known, class_names, with_scores=False)
        detected = draw(image, found.select(found.scores >= SHOWN_SCORE), class_names)
        pair = np.concatenate([annotated, np.full((4, image.shape[1], 3), 255, np.uint8), detected])
        pictures.append(fit_width(pair))
    write_picture(path, picture_grid(pictures))
