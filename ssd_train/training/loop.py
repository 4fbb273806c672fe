"""A whole training: epochs, each saved at its end and validated where that is due."""

import contextlib
import dataclasses
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ssd_train.cpus import cpu_threads
from ssd_train.ending_signals import EXIT_CODE_OF_SIGNAL
from ssd_train.errors import SSDDeployError
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.pixel_limit import pixel_limit
from ssd_train.report.page import check_packages
from ssd_train.training.batches import Batch, Stream, available_workers, batches, worker_errors
from ssd_train.training.checkpoint import find_checkpoint, kept_settings, load_checkpoint, save_checkpoint
from ssd_train.training.checkpoint_layout import Position
from ssd_train.training.config import TrainingConfig
from ssd_train.training.epoch import train_one_epoch, validate
from ssd_train.training.metric_logger import MetricLogger, ShowProgress, progress_bar
from ssd_train.training.optimizer import learning_rate
from ssd_train.training.prepare import Prepared, prepare
from ssd_train.training.processes import Processes, joined
from ssd_train.training.recorder import RunRecorder
from ssd_train.training.report import write_training_report
from ssd_train.training.run_folder import RunFolder
from ssd_train.training.run_lock import held_run_folder
from ssd_train.training.step import Trainer
from ssd_train.training.stop_request import StopRequest
from ssd_train.training.validation_loss import ValidationLoss


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        folder: the run folder.
        best: the highest validation score, a fraction; None where there was no validation.
        report: of the last validation in this process, None where there was none.
        exit_code: 0, or 128 plus the signal that ended it early, after a checkpoint.
        page: of the first process, where one was asked for and the training came to its end.
    """

    folder: Path
    best: float | None
    report: EvaluationReport | None
    exit_code: int
    page: Path | None = None


def train(config: TrainingConfig) -> TrainingResult:
    """Train a network; under torchrun one of the processes that train together.

    The first process logs how it goes. Nothing is written before all that the configuration names has been checked.

    Raises:
        BackendError: a report is asked for, and a package that it needs is not installed.
        SSDDeployError: anything that the configuration names does not exist or fit, an image cannot be read,
            the loss is no longer finite, or the run folder cannot be written or is another training's. What was saved
            before stays.
    """
    if config.report:
        check_packages()
    with contextlib.ExitStack() as held:
        held.enter_context(pixel_limit(config.max_pixels))
        with cpu_threads(config.threads), joined(config.device) as processes:
            if processes.is_first:
                # Before the checkpoint is read: a training that is about to end would save a later one.
                held.enter_context(held_run_folder(config.out))
            checkpoint = find_checkpoint(config)
            positions = processes.gather(None if checkpoint is None else checkpoint["position"]["images"])
            if len(set(positions)) > 1:
                raise SSDDeployError(
                    f"{config.out}: not every machine finds the same checkpoint there; put the run folder where all "
                    "see it"
                )
            prepared = prepare(config, processes, with_weights=checkpoint is None, with_check=True)
            # Up to here a signal ends the process at once: there is nothing to save yet.
            with StopRequest() as stop, contextlib.closing(_Run(config, processes, prepared, checkpoint)) as run:
                exit_code = run.train_until_stopped(stop)
        result = TrainingResult(folder=config.out, best=run.position.best, report=run.report, exit_code=exit_code)
        if config.report and exit_code == 0 and processes.is_first:
            # Outside the group: the other processes have nothing to wait for.
            return dataclasses.replace(result, page=write_training_report(config, prepared, processes.device))
    return result


class _ValidationStopped(Exception):
    """Ends a validation that a signal came into."""


class _Run:
    """One process's part of a training."""

    def __init__(
        self, config: TrainingConfig, processes: Processes, prepared: Prepared, checkpoint: dict[str, Any] | None
    ) -> None:
        self.config, self.processes, self.prepared = config, processes, prepared
        self.folder = RunFolder(config.out)
        self.trainer = Trainer(prepared.network, config, processes)
        self.settings = kept_settings(config, prepared.network.config.class_names, len(prepared.images))
        self.position = Position()
        if checkpoint is not None:
            self.position = load_checkpoint(checkpoint, self.trainer, self.settings)
            if not self.folder.best_path.is_file():
                # Another folder than the checkpoint's: the weights of that score are not here.
                self.position.best = None
        self.stream = Stream(
            num_samples=len(prepared.images),
            batch_size=prepared.batch_size * processes.count,
            epochs=config.epochs,
            seed=config.seed,
            origin_step=self.position.step,
            origin_image=self.position.images,
            repeats=prepared.repeats,
        )
        self.lr = config.lr * (self.stream.batch_size / config.lr_images if config.lr_images else 1)
        self.report: EvaluationReport | None = None
        self.recorder: RunRecorder | None = None
        if processes.is_first:
            self.recorder = RunRecorder(config, prepared, self.stream, self.position, processes)

    def train_until_stopped(self, stop: StopRequest) -> int:
        """Train what is left of all epochs, or until a signal asks to stop; returns the exit code."""
        try:
            with worker_errors():
                is_stopped = self.train_epochs(stop)
        except _ValidationStopped:
            is_stopped = True
        if is_stopped and self.recorder is not None:
            self.recorder.record_stop()
        return EXIT_CODE_OF_SIGNAL + (stop.signal_number or signal.SIGTERM) if is_stopped else 0

    def train_epochs(self, stop: StopRequest) -> bool:
        """Train what is left of all epochs; returns whether a process was asked to stop before their end."""
        position, stream, recorder = self.position, self.stream, self.recorder
        with (
            progress_bar(position.step, stream.total_steps, is_shown=self.processes.is_first) as show_progress,
            contextlib.closing(self._load_batches()) as loader,
        ):
            self._catch_up_validation(show_progress, stop)
            metric_logger = MetricLogger(
                position,
                stream,
                log_step=self.config.log_step,
                writer=None if recorder is None else recorder.metrics,
                show_progress=show_progress,
            )
            for epoch in range(position.epochs, self.config.epochs):
                if self._is_out_of_patience():
                    if recorder is not None:
                        recorder.record_early_stop()
                    break
                steps = range(position.step, stream.first_step(epoch + 1))
                is_stopped = train_one_epoch(self.trainer, loader, steps, self._learning_rate, metric_logger, stop)
                self._share_bad_images()
                is_end = position.step == steps.stop
                if is_end:
                    values = metric_logger.end_epoch(self._learning_rate(position.step - 1))
                    if recorder is not None:
                        recorder.record_epoch(epoch, values)
                self._save_checkpoint()
                if is_end and not is_stopped and self._is_validation_due(epoch):
                    self._validate(epoch, show_progress, stop)
                    self._save_checkpoint()
                if is_stopped:
                    return True
        if recorder is not None:
            recorder.record_end(self.trainer.kept_network)
        return False

    def _load_batches(self) -> Generator[Batch, None, None]:
        """Load this process's part of every batch that is left, ahead of the steps."""
        processes = self.processes
        loader = batches(
            self.prepared.images,
            self.stream,
            first_step=self.position.step,
            rank=processes.rank,
            processes=processes.count,
            workers=available_workers(self.config.workers, processes.local_count),
            pin_memory=processes.device.type == "cuda",
        )
        with contextlib.closing(loader):
            yield from map(self._checked, loader)

    def _checked(self, batch: Batch) -> Batch:
        """Return a batch that can be trained on, and note the images that could not be read."""
        self.prepared.images.check_readable(batch)
        bad_images = self.position.bad_images
        bad_images += [bad for bad in dict.fromkeys(batch.bad) if bad not in bad_images]
        return batch

    def _share_bad_images(self) -> None:
        """Let the first process count what the others could not read."""
        parts = self.processes.gather(self.position.bad_images)
        self.position.bad_images = list(dict.fromkeys(bad for part in parts for bad in part))

    def _learning_rate(self, step: int) -> float:
        config, stream = self.config, self.stream
        steps = stream.num_samples * stream.epochs // stream.batch_size
        return learning_rate(
            stream.first_image(step) / stream.batch_size,
            stream.epoch_of(step),
            steps,
            base=self.lr,
            mode=config.lr_mode,
            decay=config.lr_decay,
            decay_epochs=config.lr_decay_epoch,
            warmup_steps=max(config.warmup_iters, round(config.warmup_share * steps)),
            warmup_factor=config.warmup_factor,
        )

    def _is_validation_due(self, epoch: int) -> bool:
        is_its_turn = (epoch + 1) % self.prepared.val_interval == 0 or epoch + 1 == self.config.epochs
        return self.prepared.is_scored and is_its_turn

    def _is_out_of_patience(self) -> bool:
        """Whether the validation that was just made comes too long after the best one."""
        position, patience = self.position, self.config.patience
        if patience is None or position.best is None or position.validated_epochs < position.epochs:
            return False
        return not position.is_amid_epoch and position.epochs - position.best_epochs >= patience

    def _catch_up_validation(self, show_progress: ShowProgress, stop: StopRequest) -> None:
        """Validate now where the checkpoint was saved between an epoch's end and its validation."""
        position, epoch = self.position, self.position.epochs - 1
        is_end = epoch >= 0 and not position.is_amid_epoch
        if is_end and position.validated_epochs <= epoch and self._is_validation_due(epoch):
            self._validate(epoch, show_progress, stop)
            self._save_checkpoint()

    def _validate(self, epoch: int, show_progress: ShowProgress, stop: StopRequest) -> None:
        """Validate. Raises _ValidationStopped after a signal, where this process is alone and nobody waits for it."""

        def on_progress(done: int) -> None:
            show_progress(position.step, f"validation, {done} images")
            if stop.signal_number and processes.count == 1:
                # The checkpoint is of before; whoever goes on from it validates first.
                raise _ValidationStopped

        network, processes, position = self.trainer.kept_network, self.processes, self.position
        validation, layout = self.prepared.validation, self.prepared.source.layout
        loss = ValidationLoss(network, processes.part(validation.samples), layout.training_boxes)
        scored = validate(
            network,
            validation,
            processes,
            metric=layout.metric,
            batch_size=self.config.test_batch_size,
            workers=available_workers(self.config.workers, processes.local_count) or 1,
            on_progress=on_progress,
            on_predictions=loss.add,
        )
        losses = loss.mean(processes)
        # Every process has to know whether the training goes on.
        score = processes.gather(None if scored is None else scored[0].headline)[0]
        is_best = position.best is None or score > position.best
        if is_best:
            position.best, position.best_epochs = score, epoch + 1
        position.validated_epochs = epoch + 1
        if scored is not None and self.recorder is not None:
            self.report, detections = scored
            self.recorder.record_validation(epoch, network, self.report, detections, losses, is_best=is_best)

    def _save_checkpoint(self) -> None:
        if self.processes.is_first:
            save_checkpoint(self.folder.checkpoint_path, self.trainer, self.position, self.settings)

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
