"""Validation: the shared evaluation over the network in training, each process a part of the images."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, DatasetError, ImageError, OwnPartError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.evaluation.loop import run_detector
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.postprocess import Postprocess
from ssd_train.networks.ssd import SSD
from ssd_train.training.processes import Processes


def validate(
    network: SSD,
    dataset: Dataset,
    processes: Processes,
    *,
    metric: str,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[EvaluationReport, list[Detections]] | None:
    """Score a network on a whole data set; its mode is as before afterwards.

    Every process scores with the first one's batch norm statistics, which are the ones that are saved.

    Args:
        network: on this process's device.
        dataset: the same in every process.
        metric: `voc` or `coco`.
        batch_size: images a call.
        workers: threads that load images.
        on_progress: told how many images of this process's part are done.

    Returns:
        The report and one Detections an image, in the first process; None in all others.
    """
    part = dataset.samples[processes.rank :: processes.count]
    processes.share(network.buffers())
    was_training = network.training
    network.eval()
    try:
        found = (
            run_detector(
                part,
                _predict(network, processes.device),
                network.spec,
                batch_size=batch_size,
                workers=workers,
                on_progress=on_progress,
            )
            if part
            else []
        )
    except (ImageError, BackendError) as error:
        raise OwnPartError(str(error)) from error
    finally:
        network.train(was_training)
    parts = processes.gather(found)
    if not processes.is_first:
        return None
    detections: list[Detections] = [Detections.empty()] * len(dataset.samples)
    for rank, of_rank in enumerate(parts):
        detections[rank :: processes.count] = of_rank
    return score(dataset, detections, network.spec, metric=metric, protocol=Protocol.STANDARD), detections


def _predict(network: SSD, device: torch.device) -> Callable[[NDArray[np.float32]], PaddedDetections]:
    postprocess = Postprocess(network.spec.postprocess)

    @torch.inference_mode()
    def predict(images: NDArray[np.float32]) -> PaddedDetections:
        cls_logits, box_offsets = network(torch.from_numpy(images).to(device))
        outputs = postprocess(cls_logits, box_offsets, network.anchors)
        return PaddedDetections(*(output.cpu().numpy() for output in outputs))

    return predict


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
