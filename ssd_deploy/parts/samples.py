"""Samples of a data set, detected in by actors: the loop of `eval`, shared out."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from ssd_deploy.backends.base import Runner
from ssd_deploy.parts.ray_data import Share, run_in_actors
from ssd_train.cpus import cpu_threads
from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
from ssd_train.evaluation.loop import run_detector
from ssd_train.spec import DetectorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectedSamples:
    """What was found in some samples, and by what.

    Attributes:
        start: the first of them among all, from 0.
        detections: one for each, boxes in image pixels, not clipped.
        backend, spec: the runner's.
    """

    start: int
    detections: list[Detections]
    backend: str
    spec: DetectorSpec


class SampleWorker:
    """Opens a detector, and detects in samples; arguments as of `run_detector`."""

    def __init__(self, open_runner: Callable[[], Runner], batch_size: int, workers: int, threads: int) -> None:
        contextlib.ExitStack().enter_context(cpu_threads(threads))
        self.runner = open_runner()
        self.batch_size = min(batch_size, self.runner.max_batch_size or batch_size)
        self.workers = workers

    def run(self, part: tuple[int, Sequence[Sample]]) -> DetectedSamples:
        start, samples = part
        runner = self.runner
        found = run_detector(samples, runner.run, runner.spec, batch_size=self.batch_size, workers=self.workers)
        return DetectedSamples(start=start, detections=found, backend=runner.name, spec=runner.spec)


def _name_of(part: tuple[int, Sequence[Sample]]) -> str:
    start, samples = part
    return f"images {start} to {start + len(samples) - 1}"


def detect_samples(
    samples: Sequence[Sample],
    make: Callable[[], SampleWorker],
    share: Share,
    *,
    part_size: int,
    on_progress: Callable[[int], object] = lambda done: None,
) -> DetectedSamples:
    """Detect in every sample of a data set within `ray_data.cluster`; see `run_detector`.

    Args:
        make: makes a worker.
        share: how the cluster is shared out.
        part_size: samples that a worker takes at once, a multiple of its batches.
        on_progress: told the number of samples done so far.

    Returns:
        All of them, in order.
    """
    parts = [(start, samples[start : start + part_size]) for start in range(0, len(samples), part_size)]
    found: list[DetectedSamples] = []
    for each in run_in_actors(parts, make, share, _name_of):
        found.append(each)
        on_progress(sum(len(part.detections) for part in found))
    found.sort(key=lambda each: each.start)
    return dataclasses.replace(found[0], detections=[one for each in found for one in each.detections])
