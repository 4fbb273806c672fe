"""The report of a finished training: a page about its best weights on the validation images."""

import logging
from pathlib import Path

import torch

from ssd_train.metrics.matching import match_dataset
from ssd_train.metrics.operating_point import curves_of
from ssd_train.report.evaluation import collect
from ssd_train.report.provenance import describe_run
from ssd_train.report.write import write_report
from ssd_train.training.batches import available_workers
from ssd_train.training.config import TrainingConfig
from ssd_train.training.epoch import validate
from ssd_train.training.prepare import Prepared
from ssd_train.training.processes import Processes
from ssd_train.training.run_folder import RunFolder
from ssd_train.weights.load import load_network

REPORT_NAME = "report"

_log = logging.getLogger(__name__)


def write_training_report(config: TrainingConfig, prepared: Prepared, device: torch.device) -> Path | None:
    """Detect in the validation images with the weights that were kept, and write the page into the run folder.

    By one process alone.

    Returns:
        The page's path; None where there is no validation score, so that no weights are the best.

    Raises:
        SSDDeployError: the folder cannot be written, or an image cannot be read any more.
    """
    folder = RunFolder(config.out)
    if not folder.best_path.is_file():
        _log.info("note: no report, since there was no validation to find the best weights by")
        return None
    _log.info("report: the best weights on %s", prepared.validation.name)
    network = load_network(config.network, folder.best_path).to(device)
    alone = Processes(rank=0, count=1, device=device)
    scored = validate(
        network,
        prepared.validation,
        alone,
        metric=prepared.source.layout.metric,
        batch_size=config.test_batch_size,
        workers=available_workers(config.workers, 1) or 1,
    )
    assert scored is not None  # the first process has it
    report, detections = scored
    ran = describe_run(prepared.validation, network.spec, backend=f"torch ({device})")
    matches = match_dataset(prepared.validation, detections)
    curves = curves_of(prepared.validation, detections, matches, lowest=network.spec.postprocess.score_threshold)
    evaluation = collect(prepared.validation, detections, network.spec, report, ran, matches=matches, curves=curves)
    return write_report(folder.path / REPORT_NAME, evaluation)
