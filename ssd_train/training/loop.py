"""The training loop: batches -> steps -> checkpoints and validations, epoch by epoch."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from ssd_train.errors import OwnPartError, SSDDeployError
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.files import remove_unfinished
from ssd_train.networks.ssd import SSD
from ssd_train.training.batches import AugmentedImages, Batch, Stream, available_workers, batches
from ssd_train.training.config import TrainingConfig
from ssd_train.training.console import Writers, printer, step_progress
from ssd_train.training.ema import MovingAverage
from ssd_train.training.input_batch import input_batch
from ssd_train.training.optimizer import learning_rate
from ssd_train.training.pictures import write_augmented, write_detections
from ssd_train.training.prepare import Prepared, prepare
from ssd_train.training.processes import Processes, joined
from ssd_train.training.run_folder import RunFolder, read_checkpoint
from ssd_train.training.step import StepResult, Trainer
from ssd_train.training.stop_request import EXIT_CODE_OF_SIGNAL, StopRequest
from ssd_train.training.validate import validate
from ssd_train.weights.store import BEST_NAME, LAST_NAME

AUGMENTED_NAME = "augmented.jpg"
DETECTIONS_NAME = "validation_detections.jpg"
PICTURED_SAMPLES = 16
PICTURED_VALIDATIONS = 8

# Settings that a resumed training must share with its checkpoint, or it would be another one.
KEPT_SETTINGS = ("network", "seed", "amp", "ema", "max_expansion", "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        folder: the run folder.
        best: the highest validation score, a fraction; None before the first validation.
        report: of the last validation in this process, None where there was none.
        exit_code: 0, or 128 plus the signal that ended it early, after a checkpoint.
    """

    folder: Path
    best: float | None
    report: EvaluationReport | None
    exit_code: int


@dataclasses.dataclass
class Position:
    """How far a training is; part of its checkpoints.

    Attributes:
        step: steps done.
        validated_epochs: epochs done when it was last validated.
        best: highest validation score so far.
        sums: of this epoch: steps, classification loss, localisation loss.
        bad_images: sentences about training images that could not be read, each once.
    """

    step: int = 0
    validated_epochs: int = 0
    best: float | None = None
    sums: list[float] = dataclasses.field(default_factory=lambda: [0.0, 0.0, 0.0])
    bad_images: list[str] = dataclasses.field(default_factory=list)


def train(config: TrainingConfig) -> TrainingResult:
    """Train a network; under torchrun one of the processes that train together.

    Raises:
        SSDDeployError: anything that the configuration names does not exist or fit, an image cannot be read,
            the loss is no longer finite, or the run folder cannot be written. What was saved before stays.
    """
    with joined(config.device) as processes, StopRequest() as stop:
        say = printer(processes.is_first)
        folder = RunFolder(config.out)
        checkpoint = _find_checkpoint(config, folder)
        positions = processes.gather(None if checkpoint is None else checkpoint["position"]["step"])
        if len(set(positions)) > 1:
            raise SSDDeployError(
                f"{folder.path}: not every machine finds the same checkpoint there; put the run folder where all see it"
            )
        prepared = prepare(config, processes, with_weights=checkpoint is None, with_check=True, say=say)
        return _Training(config, processes, folder, prepared, stop, say).run(checkpoint)


def preview(config: TrainingConfig) -> Path:
    """Write a picture of the first training images as the network would get them, and train nothing.

    Raises:
        SSDDeployError: as `train`.
    """
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    prepared = prepare(config, processes, with_weights=False, with_check=False, say=printer(True))
    return _write_preview(config, RunFolder(config.out), prepared)


def _write_preview(config: TrainingConfig, folder: RunFolder, prepared: Prepared) -> Path:
    count = min(PICTURED_SAMPLES, len(prepared.samples))
    stream = Stream(num_samples=len(prepared.samples), batch_size=count, epochs=1, seed=config.seed)
    images = _augmented_images(config, prepared)
    batch = next(batches(images, stream, first_step=0, rank=0, processes=1, workers=0, pin_memory=False))
    _check_readable(batch, config, len(prepared.samples))
    spec = prepared.network.spec
    path = folder.path / AUGMENTED_NAME
    write_augmented(path, input_batch(batch, spec.mean, spec.std), batch.boxes, batch.labels, spec)
    return path


def _augmented_images(config: TrainingConfig, prepared: Prepared) -> AugmentedImages:
    return AugmentedImages(
        prepared.samples,
        prepared.network.config.input_size,
        config.seed,
        max_expansion=config.max_expansion,
        with_crop=config.crop,
        skip_bad=config.skip_bad_images,
    )


def _find_checkpoint(config: TrainingConfig, folder: RunFolder) -> dict[str, Any] | None:
    """Return the state to go on from, or None to start anew."""
    exists = folder.checkpoint_path.is_file()
    if config.resume == "auto":
        return read_checkpoint(folder.checkpoint_path) if exists else None
    is_its_own = config.resume != "no" and folder.checkpoint_path.resolve() == Path(config.resume).resolve()
    if exists and not is_its_own:
        raise SSDDeployError(
            f"{folder.path}: holds a training already; go on with --resume auto, or name another folder with --out"
        )
    return None if config.resume == "no" else read_checkpoint(Path(config.resume))


def _check_readable(batch: Batch, config: TrainingConfig, num_samples: int) -> None:
    if batch.bad and not config.skip_bad_images:
        raise OwnPartError(f"{batch.bad[0]}; or go on without such images with --skip-bad-images")
    if not batch.paths:
        raise OwnPartError(f"none of the {num_samples} training images can be read; the first: {batch.bad[0]}")


class _Training:
    """One process's view of a training while it runs."""

    def __init__(
        self,
        config: TrainingConfig,
        processes: Processes,
        folder: RunFolder,
        prepared: Prepared,
        stop: StopRequest,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.processes, self.folder = config, processes, folder
        self.prepared, self.stop, self.say = prepared, stop, say
        self.network = prepared.network
        self.trainer = Trainer(self.network, config, processes)
        self.average = MovingAverage(self.network, config.ema_decay) if config.ema else None
        self.stream = Stream(
            num_samples=len(prepared.samples),
            batch_size=config.batch_size * processes.count,
            epochs=config.epochs,
            seed=config.seed,
        )
        self.total_steps = self.stream.first_step(config.epochs)
        self.position = Position()
        self.report: EvaluationReport | None = None
        self.writers: Writers | None = None
        self.show: Callable[[int, str], None] = lambda done, text: None
        self.waited_s = 0.0
        self.since: tuple[float, int] = (time.perf_counter(), 0)

    def run(self, checkpoint: dict[str, Any] | None) -> TrainingResult:
        if checkpoint is not None:
            self._load(checkpoint)
        self.writers = self._open_folder() if self.processes.is_first else None
        try:
            self._catch_up_validation()
            exit_code = self._train()
        finally:
            if self.writers is not None:
                self.writers.close()
        return TrainingResult(folder=self.folder.path, best=self.position.best, report=self.report, exit_code=exit_code)

    def _open_folder(self) -> Writers:
        config, prepared, position = self.config, self.prepared, self.position
        remove_unfinished(self.folder.path)
        # What was left open is written as it was resolved: with as many processes the file repeats the training.
        self.folder.write_config(
            config.to_dict()
            | {"train_split": prepared.source.train_split, "val_split": prepared.source.val_split}
            | {"val_interval": prepared.val_interval}
        )
        is_validated = position.step > 0 and position.validated_epochs > self.stream.epoch_of(position.step - 1)
        self.folder.keep_metrics_until(position.step, with_validation=is_validated)
        classes = prepared.network.config.class_names
        self.say(
            f"{config.network}, {len(classes)} classes, on {self.processes.count} x {self.processes.device}: "
            f"{len(prepared.samples)} training images ({prepared.source.train_split}), "
            f"{len(prepared.validation.samples)} for validation ({prepared.source.val_split}); "
            f"{self.total_steps} steps of {self.stream.batch_size} images in {config.epochs} epochs, in {config.out}"
        )
        for note in prepared.notes:
            self.say(f"note: {note}")
        if position.step:
            self.say(f"goes on after step {position.step} (epoch {self.stream.epoch_of(position.step - 1) + 1})")
        else:
            self.say(f"training images as the network gets them: {_write_preview(config, self.folder, prepared)}")
        return Writers(self.folder, f"{config.network} on {prepared.validation.name}", position.step, self.say)

    def _train(self) -> int:
        """Take every step that is left; returns the exit code."""
        config, processes = self.config, self.processes
        workers = available_workers(config.workers, processes.local_count)
        images = _augmented_images(config, self.prepared)
        loaded = batches(
            images,
            self.stream,
            first_step=self.position.step,
            rank=processes.rank,
            processes=processes.count,
            workers=workers,
            pin_memory=processes.device.type == "cuda",
        )
        self.network.train()
        self.since = (time.perf_counter(), self.position.step)
        # One step is under way while the numbers of the one before arrive.
        before: StepResult | None = None
        with step_progress(self.position.step, self.total_steps, is_shown=processes.is_first) as self.show:
            for step in range(self.position.step, self.total_steps):
                result = self._step(step, self._next(loaded))
                is_stopped = before is not None and self._take_in(before)
                before = result
                epoch = self.stream.epoch_of(step)
                is_end = epoch < self.stream.epoch_of(step + 1)
                if is_stopped or is_end:
                    is_stopped = self._take_in(result) or is_stopped
                    before = None
                    self._check_weights(result)
                    self._share_bad_images()
                    if is_end:
                        self._end_epoch(epoch, with_validation=not is_stopped)
                    else:
                        self._save()
                if is_stopped:
                    self.say(f"stopped after step {self.position.step}, saved; --resume auto goes on from there")
                    return EXIT_CODE_OF_SIGNAL + (self.stop.signal_number or signal.SIGTERM)
        self._finish()
        return 0

    def _next(self, loaded: Iterator[Batch]) -> Batch:
        started = time.perf_counter()
        batch = next(loaded)
        self.waited_s += time.perf_counter() - started
        _check_readable(batch, self.config, len(self.prepared.samples))
        self.position.bad_images += [bad for bad in dict.fromkeys(batch.bad) if bad not in self.position.bad_images]
        return batch

    def _share_bad_images(self) -> None:
        """Let the first process count what the others could not read."""
        parts = self.processes.gather(self.position.bad_images)
        self.position.bad_images = list(dict.fromkeys(bad for part in parts for bad in part))

    def _step(self, step: int, batch: Batch) -> StepResult:
        config = self.config
        lr = learning_rate(
            step,
            self.stream.epoch_of(step),
            self.total_steps,
            base=config.lr,
            mode=config.lr_mode,
            decay=config.lr_decay,
            decay_epochs=config.lr_decay_epoch,
            warmup_steps=config.warmup_iters,
            warmup_factor=config.warmup_factor,
        )
        result = self.trainer.step(step, batch, lr, stop=self.stop.signal_number != 0)
        if self.average is not None:
            self.average.update(self.network, step)
        return result

    def _take_in(self, result: StepResult) -> bool:
        """Count a step's numbers; returns whether a process was asked to stop."""
        cls_loss, box_loss, stop = result.values()
        finite = math.isfinite(cls_loss) and math.isfinite(box_loss)
        if not finite:
            raise self._diverged(f"the loss (classification {cls_loss}, localisation {box_loss})", result)
        position = self.position
        position.step = result.step + 1
        position.sums = [total + value for total, value in zip(position.sums, (1, cls_loss, box_loss), strict=True)]
        epoch = self.stream.epoch_of(result.step)
        self.show(position.step, f"epoch {epoch + 1}, loss {cls_loss:.3f} + {box_loss:.3f}, lr {result.lr:g}")
        if position.step % self.config.log_step == 0 and self.writers is not None:
            values = {"step": position.step, "epoch": epoch, "cls_loss": cls_loss, "box_loss": box_loss}
            self.writers.write("step", values | {"lr": result.lr} | self._speed(result))
        return stop

    def _check_weights(self, result: StepResult) -> None:
        """A step can spoil the weights while its own loss is still a number, and they must not be saved."""
        is_finite = all(bool(torch.isfinite(value).all()) for value in self.network.state_dict().values())
        # Batch norm statistics are each process's own, and all must come to the same end.
        if not all(self.processes.gather(is_finite)):
            raise self._diverged("a weight", result)

    def _diverged(self, what: str, result: StepResult) -> SSDDeployError:
        files = [path for paths in self.processes.gather(result.paths) for path in paths]
        return SSDDeployError(
            f"{what} is no longer finite at step {result.step + 1}, learning rate {result.lr:g}; use a lower --lr or "
            f"--warmup-iters, and look at the batch: {', '.join(files)}. The last checkpoint, if any, is as it was: "
            f"{self.folder.checkpoint_path}"
        )

    def _speed(self, result: StepResult) -> dict[str, float]:
        """Return what was reached from the last call to this step, and start anew.

        By when steps were given and not by when their numbers arrive: those come a step later, but for an epoch's last.
        """
        now, (then, first) = result.given_at, self.since
        elapsed = max(now - then, 1e-9)
        speed = {
            "images_per_second": (self.position.step - first) * self.stream.batch_size / elapsed,
            # The wait for the next batch may be in it already.
            "data_wait_share": min(self.waited_s / elapsed, 1.0),
        }
        self.since, self.waited_s = (now, self.position.step), 0.0
        return speed

    def _end_epoch(self, epoch: int, *, with_validation: bool) -> None:
        """Save, and validate where that is due; the last epoch always is."""
        position = self.position
        steps, cls_loss, box_loss = position.sums
        position.sums = [0.0, 0.0, 0.0]
        if self.writers is not None:
            means = {"cls_loss": cls_loss / steps, "box_loss": box_loss / steps}
            lr = self.trainer.optimizer.param_groups[0]["lr"]
            bad = {"bad_images": len(position.bad_images)} if position.bad_images else {}
            self.writers.write("epoch", {"step": position.step, "epoch": epoch, **means, "lr": lr, **bad})
            self.say(
                f"epoch {epoch + 1}/{self.config.epochs}: classification {means['cls_loss']:.4f}, localisation "
                f"{means['box_loss']:.4f}, lr {lr:g}" + (f", {bad['bad_images']} bad images" if bad else "")
            )
        self._save()
        if with_validation and self._is_validation_due(epoch):
            self._validate(epoch)
            self._save()
        self.since, self.waited_s = (time.perf_counter(), position.step), 0.0

    def _is_validation_due(self, epoch: int) -> bool:
        return (epoch + 1) % self.prepared.val_interval == 0 or self.position.step == self.total_steps

    def _catch_up_validation(self) -> None:
        """Validate now where the checkpoint was saved between an epoch's end and its validation."""
        position = self.position
        if not position.step:
            return
        epoch = self.stream.epoch_of(position.step - 1)
        is_end = epoch < self.stream.epoch_of(position.step)
        if is_end and position.validated_epochs <= epoch and self._is_validation_due(epoch):
            self._validate(epoch)
            self._save()

    def _validate(self, epoch: int) -> None:
        config, prepared, position = self.config, self.prepared, self.position
        network = self._kept_network()
        scored = validate(
            network,
            prepared.validation,
            self.processes,
            metric=prepared.source.kind,
            batch_size=config.test_batch_size,
            workers=available_workers(config.workers, self.processes.local_count) or 1,
            on_progress=lambda done: self.show(position.step, f"validation, {done} images"),
        )
        position.validated_epochs = epoch + 1
        if scored is None or self.writers is None:
            return
        self.report, detections = scored
        score = self.report.headline
        self.say(f"epoch {epoch + 1}/{config.epochs}: {self.report.headline_name} {100 * score:.2f} %")
        if position.best is None or score > position.best:
            position.best = score
            self.folder.save_best(self._described(network))
        self.writers.write(
            "validation",
            {"step": position.step, "epoch": epoch, "best": position.best, "scores": self.report.numbers},
        )
        self.writers.draw_curves()
        write_detections(
            self.folder.path / DETECTIONS_NAME,
            prepared.validation.samples[:PICTURED_VALIDATIONS],
            detections[:PICTURED_VALIDATIONS],
            network.config.class_names,
        )

    def _kept_network(self) -> SSD:
        """The network that is validated and saved: the moving average, where there is one."""
        return self.network if self.average is None else self.average.network

    def _described(self, network: SSD) -> SSD:
        """Note in a network's spec where its weights come from."""
        origin = f"trained on {self.prepared.source.root.name} {self.prepared.source.train_split}"
        network.spec = dataclasses.replace(network.spec, weights=f"{origin}, step {self.position.step}")
        return network

    def _finish(self) -> None:
        if not self.processes.is_first:
            return
        self.folder.save_last(self._described(self._kept_network()))
        if self.position.bad_images:
            self.say(f"{len(self.position.bad_images)} training images could not be read:")
            for bad in self.position.bad_images:
                self.say(f"  {bad}")
        self.say(f"weights: {self.folder.path / BEST_NAME} (best validation), {self.folder.path / LAST_NAME}")

    def _save(self) -> None:
        """Replace the checkpoint. The random state is part of it, though nothing in a step draws from it today."""
        if not self.processes.is_first:
            return
        cuda = self.processes.device.type == "cuda"
        self.folder.save_checkpoint(
            {
                **self.trainer.state(),
                "average": None if self.average is None else self.average.network.state_dict(),
                "position": dataclasses.asdict(self.position),
                "random_state": torch.get_rng_state(),
                "cuda_random_state": torch.cuda.get_rng_state() if cuda else None,
                "settings": self._settings(),
            }
        )

    def _settings(self) -> dict[str, Any]:
        """What decides which samples a step number stands for, and what its weights fit."""
        return {
            **{name: getattr(self.config, name) for name in KEPT_SETTINGS},
            "classes": list(self.network.config.class_names),
            "training images": len(self.prepared.samples),
            "images a step": self.stream.batch_size,
        }

    def _load(self, checkpoint: dict[str, Any]) -> None:
        own = self._settings()
        for name, value in checkpoint["settings"].items():
            if own[name] != value:
                raise SSDDeployError(
                    f"the checkpoint was made with {name} {value}, but this training has {own[name]}; give the same "
                    "options (the run folder's config.json has them), or start anew with another --out"
                )
        self.trainer.load_state(checkpoint)
        if self.average is not None:
            self.average.network.load_state_dict(checkpoint["average"])
        self.position = Position(**checkpoint["position"])
        if not (self.folder.path / BEST_NAME).is_file():
            # Another folder than the checkpoint's: the weights of that score are not here.
            self.position.best = None
        torch.set_rng_state(checkpoint["random_state"])
        if self.processes.device.type == "cuda" and checkpoint["cuda_random_state"] is not None:
            torch.cuda.set_rng_state(checkpoint["cuda_random_state"])
