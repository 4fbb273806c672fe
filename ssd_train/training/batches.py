"""Samples -> batches of augmented 8-bit images, the same for a seed whatever the number of worker processes.

Training is one long stream of samples: epoch after epoch, each in an order of its own, cut into batches
without regard to where an epoch ends (GluonCV's "rollover": what does not fill a batch begins the next
epoch). A position in it is all there is to resume from, and processes cut each batch among them.
"""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssd_train.cpus import available_cpus
from ssd_train.datasets.dataset import Sample
from ssd_train.ending_signals import ENDING_SIGNALS
from ssd_train.errors import DatasetError, ImageError, OwnPartError
from ssd_train.training.augment import render, sample_colour, sample_geometry
from ssd_train.training.augmentation import DEFAULT_AUGMENTATION, Augmentation
from ssd_train.training.balance import balanced_order


class Key(NamedTuple):
    """Which sample, in which of its epochs and which time there, which together decide its augmentation."""

    epoch: int
    sample: int
    copy: int = 0


class Example(NamedTuple):
    """One augmented image, not yet coloured.

    Attributes:
        image: (H, W, 3) RGB uint8.
        place: (left, top, right, bottom) of the image in it; the rest is to be the mean color.
        colour: (3, 4) float32, see `augment.sample_colour`.
        boxes: (K, 4) float32 xyxy in pixels of `image`.
        labels: (K,) int64.
        path: the image file.
        bad: what was wrong with the images that this one stands in for, a sentence each.
    """

    image: NDArray[np.uint8]
    place: tuple[int, int, int, int]
    colour: NDArray[np.float32]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    path: str
    bad: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """N examples, padded to the M objects of the fullest.

    Attributes:
        images: (N, H, W, 3) uint8.
        places: (N, 4) int64, see `Example.place`.
        colours: (N, 3, 4) float32.
        boxes: (N, M, 4) float32.
        labels: (N, M) int64, -1 where a row is padding; M is at least 1.
        paths: N image files.
        bad: sentences about images that could not be read.
    """

    images: Tensor
    places: Tensor
    colours: Tensor
    boxes: Tensor
    labels: Tensor
    paths: tuple[str, ...]
    bad: tuple[str, ...]

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = (self.images, self.places, self.colours, self.boxes, self.labels)
        images, places, colours, boxes, labels = (change(tensor) for tensor in tensors)
        return Batch(images, places, colours, boxes, labels, self.paths, self.bad)

    def pin_memory(self) -> "Batch":
        """Called by the DataLoader."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))


class AugmentedImages(Dataset[Example]):
    """Augmented training images by `Key`.

    Args:
        samples: as `prepare.load_training_samples` gives them.
        input_size: (height, width) of the network input.
        seed: of the whole training.
        augmentation: how far and how often images are changed.
        skip_bad: take the next sample for one whose image cannot be read, and say so, instead of failing.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        input_size: tuple[int, int],
        seed: int,
        *,
        augmentation: Augmentation = DEFAULT_AUGMENTATION,
        skip_bad: bool = False,
    ) -> None:
        self.samples = samples
        self.input_size = input_size
        self.seed = seed
        self.augmentation = augmentation
        self.skip_bad = skip_bad

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Example:
        bad: list[str] = []
        for offset in range(len(self.samples)):
            index = (key.sample + offset) % len(self.samples)
            try:
                return self._example(key._replace(sample=index), tuple(bad))
            except (ImageError, DatasetError) as error:
                bad.append(str(error))
                if not self.skip_bad:
                    break
        # An answer and not an exception, which a worker process would wrap into its traceback.
        nothing = np.zeros((1, 1, 3), np.uint8)
        no_boxes, no_labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        return Example(nothing, (0, 0, 0, 0), np.eye(3, 4, dtype=np.float32), no_boxes, no_labels, "", tuple(bad))

    def check_readable(self, batch: Batch) -> None:
        """Raise OwnPartError for a batch with images that could not be read, unless others stand in for them."""
        if batch.bad and not self.skip_bad:
            raise OwnPartError(
                f"{batch.bad[0]}; or go on without such images: skip_bad_images", arguments=("skip_bad_images",)
            )
        if not batch.paths:
            raise OwnPartError(f"none of the {len(self)} training images can be read; the first: {batch.bad[0]}")

    def _example(self, key: Key, bad: tuple[str, ...]) -> Example:
        sample = self.samples[key.sample]
        # The first copy draws what it drew before there were others.
        rng = np.random.default_rng((self.seed, *key) if key.copy else (self.seed, key.epoch, key.sample))
        boxes = sample.ground_truth.boxes
        geometry = sample_geometry(rng, sample.image_size, boxes, self.input_size, self.augmentation)
        image = sample.load_image(reduction=geometry.reduction)
        return Example(
            image=render(image, geometry, self.input_size),
            place=geometry.flipped_place(self.input_size),
            colour=sample_colour(rng, self.augmentation),
            boxes=geometry.boxes.astype(np.float32),
            labels=sample.ground_truth.labels[geometry.kept],
            path=str(sample.path),
            bad=bad,
        )


def collate(examples: Sequence[Example]) -> Batch:
    """Stack examples into a batch; one without an image makes a batch without images, whose `bad` says why."""
    bad = tuple(sentence for example in examples for sentence in example.bad)
    if any(not example.path for example in examples):
        examples = ()
    most = max((len(example.labels) for example in examples), default=0)
    boxes = np.zeros((len(examples), max(most, 1), 4), np.float32)
    labels = np.full((len(examples), max(most, 1)), -1, np.int64)
    for row, example in enumerate(examples):
        boxes[row, : len(example.labels)] = example.boxes
        labels[row, : len(example.labels)] = example.labels
    return Batch(
        images=torch.from_numpy(np.array([example.image for example in examples], np.uint8)),
        places=torch.from_numpy(np.array([example.place for example in examples], np.int64).reshape(-1, 4)),
        colours=torch.from_numpy(np.array([example.colour for example in examples], np.float32).reshape(-1, 3, 4)),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        paths=tuple(example.path for example in examples),
        bad=bad,
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """The order of all samples of a training.

    Attributes:
        num_samples: in the data set.
        batch_size: of all processes together.
        epochs: passes over the data set; what does not fill the very last batch is not used.
        seed: decides the order within each epoch.
        origin_step, origin_image: a step of this stream, and the images before it. A training that was resumed has
            them from its checkpoint, since its earlier steps may have been of another size.
        repeats: (num_samples,) how often each sample comes, see `balance`; None for once an epoch.
    """

    num_samples: int
    batch_size: int
    epochs: int
    seed: int
    repeats: NDArray[np.float64] | None = None
    origin_step: int = 0
    origin_image: int = 0

    def first_step(self, epoch: int) -> int:
        """Return the step that an epoch begins with."""
        return self.origin_step + (epoch * self.num_samples - self.origin_image) // self.batch_size

    def first_image(self, step: int) -> int:
        """Return how many images the steps before one take, which is its first image's place in the stream."""
        return self.origin_image + (step - self.origin_step) * self.batch_size

    @property
    def total_steps(self) -> int:
        return self.first_step(self.epochs)

    def epoch_of(self, step: int) -> int:
        """Return the epoch that a step counts to: the one that its batch completes."""
        return (self.first_image(step + 1) - 1) // self.num_samples

    def keys(self, first_step: int, rank: int = 0, processes: int = 1) -> Iterator[list[Key]]:
        """Yield one process's part of every batch from `first_step` to the end of the training."""
        share = self.batch_size // processes
        orders: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for step in range(first_step, self.total_steps):
            start = self.first_image(step) + rank * share
            keys = []
            for position in range(start, start + share):
                epoch, place = divmod(position, self.num_samples)
                if epoch not in orders:
                    orders = {epoch: self._order(epoch)} | {
                        old: order for old, order in orders.items() if old == epoch - 1
                    }
                samples, copies = orders[epoch]
                keys.append(Key(epoch, int(samples[place]), int(copies[place])))
            yield keys

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the samples of an epoch, and which time each comes in it."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.repeats is not None:
            return balanced_order(rng, self.repeats)
        return rng.permutation(self.num_samples), np.zeros(self.num_samples, np.int64)


def batches(
    images: AugmentedImages,
    stream: Stream,
    *,
    first_step: int,
    rank: int,
    processes: int,
    workers: int,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
    """Yield one process's batches from a step on, loaded ahead by worker processes, which end as it is closed.

    Args:
        workers: worker processes; 0 loads in this one.
        pin_memory: put batches where a GPU can fetch them by itself.
    """
    loader = DataLoader(
        images,
        batch_sampler=stream.keys(first_step, rank, processes),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        # A generator of its own: the loader draws from it, and the global one belongs to the training.
        generator=torch.Generator(),
    )
    loading = iter(loader)
    for worker in getattr(loading, "_workers", ()):
        # PyTorch's last word to one that does not come to its end is SIGTERM, which they ignore: see `_start_worker`.
        worker.terminate = worker.kill
    try:
        yield from loading
    finally:
        # PyTorch ends them as the last reference goes, but does nothing once Python itself is about to end.
        del loading


@contextlib.contextmanager
def worker_errors() -> Iterator[None]:
    """Within the block, raise OwnPartError where a worker process of `batches` was ended, as for want of memory.

    PyTorch raises its own error wherever the signal of that happens to be heard.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OwnPartError(
            "a process that loads images was ended from outside, perhaps for want of memory; use fewer workers, and go "
            "on with resume",
            arguments=("workers", "resume"),
        ) from error


def _start_worker(worker: int) -> None:
    # The training that answers a signal by saving still needs its workers, and ends them itself. Ctrl-C reaches every
    # process of the terminal's group, which a group of its own stays out of; batch systems and service managers tell
    # every process of a job.
    if hasattr(os, "setpgid"):  # not on Windows
        os.setpgid(0, 0)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # A process an image: threads inside would only get in each other's way.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def available_workers(asked: int, processes: int) -> int:
    """Return how many of the workers that were asked for this machine has cores for, a process."""
    return min(asked, max(1, available_cpus() // processes))
