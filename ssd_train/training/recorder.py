"""What the first process of a training writes into the run folder and logs."""

import dataclasses
import logging
import math
from typing import Any

from ssd_train.detections import Detections
from ssd_train.escaped_text import escaped
from ssd_train.evaluation.evaluate import EvaluationReport
from ssd_train.files import remove_unfinished
from ssd_train.networks.ssd import SSD
from ssd_train.training.batches import Stream
from ssd_train.training.checkpoint_layout import Position
from ssd_train.training.config import TrainingConfig
from ssd_train.training.pictures import load_preview, write_detections, write_preview
from ssd_train.training.prepare import Prepared, resolved_values
from ssd_train.training.processes import Processes
from ssd_train.training.run_folder import MetricsWriter, RunFolder

DETECTIONS_NAME = "validation_detections.jpg"
PICTURED_VALIDATIONS = 8
MAX_LOGGED_CLASSES = 8

_log = logging.getLogger(__name__)


class RunRecorder:
    """Opens a run folder: its configuration, a picture of the first images, and metrics up to the checkpoint.

    The training moves `position` on.

    Raises:
        SSDDeployError: one of the first images cannot be read, and nothing was written; or the folder cannot be.
    """

    def __init__(
        self, config: TrainingConfig, prepared: Prepared, stream: Stream, position: Position, processes: Processes
    ) -> None:
        self.config, self.prepared, self.position = config, prepared, position
        self.folder = RunFolder(config.out)
        first_batch = None if position.step else load_preview(prepared, config.seed)
        remove_unfinished(self.folder.path)
        settings = resolved_values(config, prepared, processes)
        self.folder.write_config(settings)
        self.folder.keep_metrics_until(position.step, with_validation=position.validated_epochs == position.epochs)
        source = prepared.source
        _log.info(
            f"{config.network}, {len(prepared.network.config.class_names)} classes, on {processes.count} x "
            f"{processes.device}: {len(prepared.images)} training images ({source.train_split}), "
            f"{len(prepared.validation.samples)} for validation ({source.val_split}); {stream.total_steps} steps of "
            f"{stream.batch_size} images in {config.epochs} epochs, in {config.out}"
        )
        for note in prepared.notes:
            _log.info(f"note: {note}")
        for warning in prepared.warnings:
            _log.warning(warning)
        if first_batch is None:
            _log.info(f"goes on after step {position.step} (epoch {position.epochs + position.is_amid_epoch})")
        else:
            path = write_preview(self.folder.path, first_batch, prepared)
            _log.info(f"training images as the network gets them: {path}")
        title = f"{config.network} on {prepared.validation.name}"
        self.metrics = MetricsWriter(self.folder, title, settings, position.step)

    def record_epoch(self, epoch: int, values: dict[str, Any]) -> None:
        """Write and log the numbers of an epoch."""
        self.metrics.write("epoch", values)
        bad = f", {values['bad_images']} bad images" if "bad_images" in values else ""
        _log.info(
            f"epoch {epoch + 1}/{self.config.epochs}: classification {values['cls_loss']:.4f}, localisation "
            f"{values['box_loss']:.4f}, lr {values['lr']:g}{bad}"
        )

    def record_validation(
        self,
        epoch: int,
        network: SSD,
        report: EvaluationReport,
        detections: list[Detections],
        losses: dict[str, float],
        *,
        is_best: bool,
    ) -> None:
        """Write and log a validation, and keep the network's weights where they are the best so far."""
        position = self.position
        # A class's own numbers begin with the one that the headline is a mean of.
        per_class = {name: next(iter(numbers.values())) for name, numbers in report.per_class.items()}
        _log.info(
            f"epoch {epoch + 1}/{self.config.epochs}: {report.headline_name} {100 * report.headline:.2f} % "
            f"({of_classes(per_class)}), validation loss {losses['cls_loss']:.4f} + {losses['box_loss']:.4f}"
        )
        if is_best:
            self.folder.save_best(self._with_provenance(network))
        values: dict[str, Any] = {"step": position.step, "epoch": epoch, "best": position.best, **losses}
        self.metrics.write("validation", {**values, "scores": report.numbers, "per_class": per_class})
        self.metrics.draw_curves()
        write_detections(
            self.folder.path / DETECTIONS_NAME,
            self.prepared.validation.samples[:PICTURED_VALIDATIONS],
            detections[:PICTURED_VALIDATIONS],
            network.config.class_names,
        )

    def record_early_stop(self) -> None:
        position = self.position
        assert position.best is not None
        _log.info(
            f"ends after {position.epochs} of {self.config.epochs} epochs: none since epoch {position.best_epochs} was "
            f"better than its {100 * position.best:.2f} % (patience {self.config.patience})"
        )

    def record_end(self, network: SSD) -> None:
        """Write the last weights, and log which images could not be read."""
        self.folder.save_last(self._with_provenance(network))
        bad_images = self.position.bad_images
        if bad_images:
            _log.warning(f"{len(bad_images)} training images could not be read:")
            for bad in bad_images:
                _log.warning(f"  {bad}")

    def record_stop(self) -> None:
        _log.info(
            f"stopped after step {self.position.step}, saved; `ssd-deploy train {self.folder.path} --resume` goes on "
            "from there"
        )

    def _with_provenance(self, network: SSD) -> SSD:
        """Note in a network's spec where its weights come from."""
        source = self.prepared.source
        origin = f"trained on {escaped(source.root.name)} {source.train_split}, step {self.position.step}"
        network.spec = dataclasses.replace(network.spec, weights=origin)
        return network

    def close(self) -> None:
        self.metrics.close()


def of_classes(per_class: dict[str, float]) -> str:
    """Return classes with their AP for a line of the log, lowest first; of many the lowest and highest alone."""
    known = sorted((ap, name) for name, ap in per_class.items() if not math.isnan(ap))
    cells = [f"{name} {100 * ap:.1f}" for ap, name in known]
    if len(cells) > MAX_LOGGED_CLASSES:
        cells = [*cells[: MAX_LOGGED_CLASSES // 2], "...", *cells[-MAX_LOGGED_CLASSES // 2 :]]
    return ", ".join(cells)
