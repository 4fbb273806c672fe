"""The command `detect --ray` as a function: a plan in, files of parts out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from ssd_deploy.parts.listing import Part
from ssd_deploy.parts.options import Parts
from ssd_deploy.parts.plan import Plan
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
            "pictures": self.plan.pictures,
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
    plan: Plan,
    job: Job,
    parts: Parts,
    *,
    device: str | None,
    on_progress: Callable[[int], object] = lambda done: None,
) -> DetectedParts:
    """Detect in all pictures of a plan, in parts; what an earlier run in its folder finished stays.

    Args:
        plan: all parts, and which of them are done.
        job: the detector and the plan's folder.
        parts: where.
        device: that is asked for; see `ray_data.shared_out`.
        on_progress: told the number of pictures done so far, those of earlier runs included.

    Raises:
        BackendError: Ray is missing, or no cluster answers.
        SSDDeployError: as `PartWorker.run`; parts that are done stay.
    """
    results = dict(plan.done)

    def tell() -> None:
        on_progress(sum(result.pictures for result in results.values()))

    tell()
    if plan.missing:
        with shared_out(parts, threads=job.threads, device=device) as share:
            for result in run_in_actors(plan.missing, functools.partial(PartWorker, job), share, Part.name):
                results[result.index] = result
                tell()
    return DetectedParts(plan=plan, results=dict(sorted(results.items())))


def formats_of(names: Sequence[str] | None) -> list[str]:
    """Return the kinds of files; raise SSDDeployError for one that there is not."""
    return [FORMATS.find(name).name for name in names or ["parquet"]]
