"""The command `detect --ray` as a function: words in, files of parts out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from ssd_deploy.parts.options import Parts
from ssd_deploy.parts.plan import Plan, plan
from ssd_deploy.parts.ray_data import run_in_actors, shared_out
from ssd_deploy.parts.results import FORMATS, PartResult
from ssd_deploy.parts.worker import Job, PartWorker


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectedParts:
    """What a run in parts came to.

    Attributes:
        plan: what there was to do.
        results: of every part, by its index; those of earlier runs included.
    """

    plan: Plan
    results: dict[int, PartResult]

    @property
    def broken(self) -> int:
        return sum(result.broken for result in self.results.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for programs."""
        results = self.results.values()
        return {
            "folder": str(self.plan.folder),
            "parts": len(self.plan.parts),
            "parts_of_earlier_runs": len(self.plan.done),
            "pictures": sum(result.pictures for result in results),
            "broken": self.broken,
            "detections": sum(result.detections for result in results),
            "backends": sorted({result.backend for result in results}),
        }

    def line(self) -> str:
        """Say what came of it."""
        known = self.to_dict()
        earlier = f", {known['parts_of_earlier_runs']:,} of them earlier" if self.plan.done else ""
        broken = f", {self.broken:,} could not be read" if self.broken else ""
        return (
            f"{self.plan.folder}  {known['pictures']:,} pictures in {known['parts']:,} parts{earlier}, "
            f"{known['detections']:,} detections{broken}"
        )


def detect_in_parts(
    words: Sequence[str],
    job: Job,
    parts: Parts,
    settings: dict[str, Any],
    *,
    device: str | None,
    on_progress: Callable[[int], object] = lambda done: None,
) -> DetectedParts:
    """Detect in all pictures that words stand for, in parts; what an earlier run in that folder finished stays.

    Args:
        words: see `listing.find_lists`.
        job: the detector and the folder.
        parts: where, and how large they are.
        settings: see `plan.plan`.
        device: that is asked for; see `ray_data.shared_out`.
        on_progress: told the number of pictures done so far, those of earlier runs included.

    Raises:
        BackendError: Ray is missing, or no cluster answers; sizes do not fit together.
        SSDDeployError: as `plan.plan` and `PartWorker.run`; parts that are done stay.
    """
    parts.check(job.batch_size)
    what = plan(job.folder, words, parts.part_size, settings | {"formats": list(job.formats)})
    results = dict(what.done)

    def tell() -> None:
        on_progress(sum(result.pictures for result in results.values()))

    tell()
    if what.missing:
        with shared_out(parts, threads=job.threads, device=device) as share:
            for result in run_in_actors(what.missing, functools.partial(PartWorker, job), share):
                results[result.index] = result
                tell()
    return DetectedParts(plan=what, results=dict(sorted(results.items())))


def formats_of(names: Sequence[str] | None) -> list[str]:
    """Return the kinds of files; raise SSDDeployError for one that there is not."""
    return [FORMATS.find(name).name for name in names or ["parquet"]]
