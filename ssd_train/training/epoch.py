"""One epoch of training, and validation."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ssd_train.datasets.dataset import Dataset
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, ImageError, OwnPartError, SSDDeployError
from ssd_train.evaluation.evaluate import EvaluationReport, score
from ssd_train.evaluation.loop import Predict, run_detector
from ssd_train.metrics.protocol import Protocol
from ssd_train.networks.detector import Detector
from ssd_train.networks.ssd import SSD
from ssd_train.preprocess import Images
from ssd_train.training.batches import Batch
from ssd_train.training.metric_logger import MetricLogger
from ssd_train.training.processes import Processes
from ssd_train.training.step import StepResult, Trainer
from ssd_train.training.stop_request import StopRequest

# Told (N, A, C + 1) class logits and (N, A, 4) box offsets.
OnPredictions = Callable[[Tensor, Tensor], None]


def train_one_epoch(
    trainer: Trainer,
    loader: Iterator[Batch],
    steps: range,
    learning_rate: Callable[[int], float],
    metric_logger: MetricLogger,
    stop: StopRequest,
) -> bool:
    """Train from a step to the end of its epoch, or until a process is asked to stop.

    One step is computed while the numbers of the one before it arrive, so a stop comes a step after the request.

    Args:
        trainer: network and optimizer, which are updated in place.
        loader: yields this process's part of the batch of every step.
        steps: those that are left of the epoch; none where it was resumed with steps that the rest does not fill.
        learning_rate: of a step.
        metric_logger: counts the steps that are done.
        stop: of this process.

    Returns:
        Whether a process was asked to stop; the same in all.

    Raises:
        SSDDeployError: the loss or a weight is no longer finite, or an image cannot be read.
    """
    trainer.start_training()
    metric_logger.start_clock()
    pending: StepResult | None = None
    is_stopped = False
    for step in steps:
        with metric_logger.data_wait():
            batch = next(loader)
        result = trainer.step(step, batch, learning_rate(step), stop=stop.signal_number != 0)
        if pending is not None:
            is_stopped = _record_metrics(pending, metric_logger, trainer.processes)
        pending = result
        if is_stopped:
            break
    if pending is None:
        return False
    is_stopped = _record_metrics(pending, metric_logger, trainer.processes) or is_stopped
    _check_weights(pending, trainer)
    return is_stopped


def _record_metrics(result: StepResult, metric_logger: MetricLogger, processes: Processes) -> bool:
    """Wait for a step's numbers and count them; returns whether a process was asked to stop."""
    cls_loss, box_loss, is_stopped = result.values()
    if not (math.isfinite(cls_loss) and math.isfinite(box_loss)):
        raise _diverged(f"the loss (classification {cls_loss}, localisation {box_loss})", result, processes)
    metric_logger.record(result, cls_loss, box_loss)
    return is_stopped


def _check_weights(result: StepResult, trainer: Trainer) -> None:
    """A step can spoil the weights while its own loss is still a number, and they must not be saved."""
    is_finite = all(bool(torch.isfinite(value).all()) for value in trainer.network.state_dict().values())
    # Batch norm statistics are each process's own, and all must come to the same end.
    if not all(trainer.processes.gather(is_finite)):
        raise _diverged("a weight", result, trainer.processes)


def _diverged(what: str, result: StepResult, processes: Processes) -> SSDDeployError:
    files = [path for paths in processes.gather(result.paths) for path in paths]
    return SSDDeployError(
        f"{what} is no longer finite at step {result.step + 1}, learning rate {result.lr:g}; use a lower lr or more "
        f"warmup_iters, and look at the batch: {', '.join(files)}. The run folder's last checkpoint, if any, is as "
        "it was",
        arguments=("lr", "warmup_iters"),
    )


def validate(
    network: SSD,
    dataset: Dataset,
    processes: Processes,
    *,
    metric: str,
    batch_size: int,
    workers: int,
    on_progress: Callable[[int], None] | None = None,
    on_predictions: OnPredictions | None = None,
) -> tuple[EvaluationReport, list[Detections]] | None:
    """Score a network on a whole data set, each process on a part; its mode is as before afterwards.

    Every process scores with the first one's batch norm statistics, which are the ones that are saved.

    Args:
        network: on this process's device.
        dataset: the same in every process.
        metric: name of a row of `METRICS`.
        batch_size, workers, on_progress: as for `run_detector`, of this process's part.
        on_predictions: given the network's class logits and box offsets of every batch of that part, in its order.

    Returns:
        The report and one Detections an image, in the first process; None in all others.

    Raises:
        OwnPartError: an image cannot be read, or the network answers with values that are not finite.
    """
    part = processes.part(dataset.samples)
    processes.broadcast(network.buffers())
    was_training = network.training
    network.eval()
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "on_progress": on_progress}
    try:
        predict = _predict(network, processes.device, on_predictions)
        own = run_detector(part, predict, network.spec, **options) if part else []
    except (ImageError, BackendError) as error:
        raise OwnPartError(str(error), arguments=error.arguments) from error
    finally:
        network.train(was_training)
    parts = processes.gather(own)
    if not processes.is_first:
        return None
    detections: list[Detections] = [Detections.empty()] * len(dataset.samples)
    for rank, of_rank in enumerate(parts):
        detections[rank :: processes.count] = of_rank
    return score(dataset, detections, network.spec, metric=metric, protocol=Protocol.STANDARD), detections


def _predict(network: SSD, device: torch.device, on_predictions: OnPredictions | None) -> Predict:
    detector = Detector(network)

    @torch.inference_mode()
    def predict(images: Images) -> PaddedDetections:
        output = detector(torch.from_numpy(images).to(device))
        if on_predictions is not None:
            on_predictions(output.cls_logits, output.box_offsets)
        return PaddedDetections(*(part.cpu().numpy() for part in (output.boxes, output.scores, output.labels)))

    return predict
