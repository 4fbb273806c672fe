"""Open what a user names, measure it, report."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from ssd_deploy.backends import BackendChoice
from ssd_deploy.benchmark.images import benchmark_images
from ssd_deploy.benchmark.measure import BenchmarkSettings, measure
from ssd_deploy.benchmark.report import BenchmarkReport
from ssd_deploy.benchmark.sources import Source, open_backends
from ssd_train.cpus import cpu_threads
from ssd_train.environment import describe_environment
from ssd_train.spec import DetectorSpec


def run(
    sources: Sequence[Source],
    choices: Sequence[BackendChoice],
    settings: BenchmarkSettings,
    *,
    images: Sequence[Path] = (),
    device: str = "cpu",
    threads: int = 0,
    allow_tf32: bool = False,
    on_turn: Callable[[int, int], object] = lambda done, total: None,
) -> BenchmarkReport:
    """Open all sources in all precisions and all backends that run them, measure those that work, close them.

    Args:
        sources: at least one.
        choices: each runs the sources that it can, at least one; see `sources.usual_choices`.
        images: files to measure with; generated ones where there are none.
        device: where those run that may run there and whose choice does not say: `cpu`, `cuda` or `auto`.
        threads: CPU threads of backends and OpenCV; 0 leaves each its default, see `cpus.cpu_threads`.
        allow_tf32: let a GPU round float32 products.
        on_turn: told the turns done and those in all.

    Raises:
        BackendError: no backend works, or one was named that runs none of the sources.
        ImageError: an image cannot be read.
    """
    with (
        cpu_threads(threads),
        benchmark_images(images) as (files, images_text),
        open_backends(
            sources, choices, settings.batch_sizes, device=device, threads=threads, allow_tf32=allow_tf32
        ) as (contenders, not_run),
    ):
        measured = measure(contenders, files, settings, on_turn=on_turn)
        detectors: dict[str, DetectorSpec] = {}
        for contender in contenders:
            # As the first backend that runs it has it.
            detectors.setdefault(contender.source, contender.runner.spec)
        return BenchmarkReport(
            detectors=detectors,
            settings=settings,
            images=images_text,
            measured=measured,
            not_run=not_run,
            environment=describe_environment(),
            opencv_threads=cv2.getNumThreads(),
        )
