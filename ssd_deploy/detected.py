"""What a run of `detect` came to, for people and for programs."""

import dataclasses
from pathlib import Path
from typing import Any

from ssd_deploy.sources.frame import SourceKind
from ssd_train.thresholds import Keeping


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectedPicture:
    """A picture that was detected in.

    Attributes:
        path: its annotated picture, or what it is called itself where none was written.
        count: detections that were given out.
    """

    path: Path
    count: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectedSource:
    """A source that was detected in.

    Attributes:
        name, kind: the source's.
        frames: how many went through the detector.
        detections: how many were given out.
        problems: what could not be read of it: pictures, frames, connections.
        dropped: frames of a stream that came too fast, and were left out.
        is_whole: False where it was lost or is cut off.
        seconds: from its first frame asked for to its last one given to the writers.
        network_s: seconds of them inside the backend.
        video: its annotated video; None where there is none.
    """

    name: str
    kind: SourceKind
    frames: int
    detections: int
    problems: int
    dropped: int
    is_whole: bool
    seconds: float
    network_s: float
    video: Path | None

    def summary(self, at_least: str) -> str:
        """Say how many frames went through, and how fast."""
        counts = ((self.problems, "problems"), (self.dropped, "dropped"))
        parts = [f"{self.frames:,} frames", f"{self.detections:,} detections {at_least}"]
        parts += [f"{count:,} {what}" for count, what in counts if count]
        if self.frames:
            each_ms, network_ms = (1000 * seconds / self.frames for seconds in (self.seconds, self.network_s))
            parts.append(f"{each_ms:.1f} ms a frame, {network_ms:.1f} of them in the network")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detected:
    """What `detect_sources` did.

    Attributes:
        results: kind of result -> its file or folder.
        pictures: those of the sources that are pictures, in their order, less those that could not be read.
        sources: all that were begun, in order.
        kept: the thresholds that held.
        unwritten: results of single pictures or frames that could not be written.
        errors: one sentence for each picture, frame or stream that could not be read, and each that `unwritten` counts.
        unsaid: those of them that the log has not said yet: of pictures, which are best read together at the end.
        hint: which threshold to try, where nothing was given out; else empty.
    """

    results: dict[str, Path]
    pictures: tuple[DetectedPicture, ...]
    sources: tuple[DetectedSource, ...]
    kept: Keeping
    unwritten: int
    errors: tuple[str, ...]
    unsaid: tuple[str, ...]
    hint: str

    @property
    def is_lossy(self) -> bool:
        """Whether something could not be read, or not be written; a stream that was lost and came back is whole."""
        return self.unwritten > 0 or any(
            not each.is_whole or (each.problems and each.kind != "live") for each in self.sources
        )

    def lines(self) -> list[str]:
        """Say what came of it: a line a picture, one a video or stream, and one a file of results."""
        least = self.kept.score_thresholds
        low, high = float(least.min()), float(least.max())
        at_least = f"of at least {low:g}" if low == high else f"of at least {low:g} to {high:g}, as its class has it"
        lines = [f"{picture.path}  {picture.count} detections {at_least}" for picture in self.pictures]
        for each in self.sources:
            if each.kind != "pictures":
                lines.append(f"{each.video or each.name}  {each.summary(at_least)}")
        files = [str(path) for name, path in self.results.items() if name not in ("pictures", "video")]
        return [*lines, *files]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for programs."""
        least = self.kept.score_thresholds
        return {
            "json": str(self.results["json"]) if "json" in self.results else None,
            "results": {name: str(path) for name, path in self.results.items()},
            "pictures": [{"path": str(picture.path), "detections": picture.count} for picture in self.pictures],
            "sources": [
                dataclasses.asdict(each) | {"video": str(each.video) if each.video else None} for each in self.sources
            ],
            "threshold": float(least.min()),
            "errors": list(self.errors),
            "hint": self.hint,
        }
