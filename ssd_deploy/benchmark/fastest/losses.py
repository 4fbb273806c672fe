"""What a way to run a detector loses against the reference: points of the data set's metric, or detections."""

import dataclasses
from collections.abc import Callable
from typing import Any

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.compare import (
    BackendRun,
    Comparison,
    check_something_found,
    compare,
    run_backend,
    working_threshold,
)
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.parity.run import ShowProgress, no_progress
from ssd_train.datasets.dataset import Dataset
from ssd_train.evaluation.evaluate import has_objects
from ssd_train.metrics.protocol import Protocol
from ssd_train.precisions import PRECISIONS

# The fastest are used picture by picture more often than not, and every backend takes that.
BATCH_SIZE = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loss:
    """What was lost.

    Attributes:
        value: points of the metric (negative where some were won), or percent of the detections that changed.
        is_allowed: no more than may be.
        text: how that was decided, a sentence.
    """

    value: float
    is_allowed: bool
    text: str


NOTHING = Loss(value=0.0, is_allowed=True, text="the reference")


class Losses:
    """Holds runners against a reference over the same images, by the rules of `parity`.

    Args:
        reference: a float32 detector, run over all images at once.
        dataset: the images.
        metric: scores them; None where they have no ground truth.
        max_drop: points of the metric that may be lost; None for what parity lets the precision lose.

    Raises:
        DatasetError: it finds nothing in them, so that nothing could be compared.
    """

    def __init__(
        self,
        reference: Runner,
        dataset: Dataset,
        *,
        metric: str | None,
        protocol: Protocol = Protocol.STANDARD,
        criteria: Criteria = Criteria(),
        workers: int = 2,
        show_progress: ShowProgress = no_progress,
    ) -> None:
        self.dataset = dataset
        self.criteria = criteria
        self.metric = metric if has_objects(dataset.samples) else None
        self._run_settings: dict[str, Any] = {
            "metric": self.metric, "protocol": protocol, "batch_size": BATCH_SIZE, "workers": workers,
        }  # fmt: skip
        self._show_progress: Callable[..., Any] = show_progress
        self.threshold = working_threshold(reference, criteria)
        self.reference = self._over_all_images(reference)
        check_something_found(self.reference, dataset, self.threshold)

    @property
    def unit(self) -> str:
        """What a loss is counted in."""
        if self.reference.report is not None:
            return f"points of {self.reference.report.headline_name} lost"
        return f"% of the detections of at least {self.threshold:g} changed"

    @property
    def limit_text(self) -> str:
        """What may be lost."""
        if self.metric is not None and self.criteria.max_drop is not None:
            return f"at most {self.criteria.max_drop:g} may be lost"
        return "each precision may lose what `parity` lets it"

    def of(self, runner: Runner) -> Loss:
        """Run a backend over all images; raises what that does."""
        comparison = compare(
            self.reference,
            self._over_all_images(runner),
            self.dataset,
            self.criteria,
            batch_size=BATCH_SIZE,
            with_raw=False,
        )
        return loss_of(comparison, self.metric, self.criteria)

    def _over_all_images(self, runner: Runner) -> BackendRun:
        with self._show_progress(f"{runner.name}, {runner.spec.precision}", len(self.dataset.samples)) as on_progress:
            return run_backend(runner, self.dataset, on_progress=on_progress, **self._run_settings)


def loss_of(comparison: Comparison, metric: str | None, criteria: Criteria) -> Loss:
    """Return what a comparison says was lost, and whether it may be.

    A limit that was asked for holds for float32 too, which parity only lets differ by rounding.
    """
    verdict = comparison.verdict
    is_allowed, text = verdict.passed, "; ".join(comparison.failures) or verdict.text
    if metric is None:
        return Loss(value=100 * comparison.changes.share, is_allowed=is_allowed, text=text)
    lost = 0 - 100 * comparison.metric_difference
    if PRECISIONS.find(comparison.precision).limits is None and criteria.max_drop is not None:
        is_allowed = is_allowed or lost <= criteria.max_drop
    return Loss(value=lost, is_allowed=is_allowed, text=text)
