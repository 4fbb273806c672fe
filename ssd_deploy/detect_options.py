"""Options of `detect`: what is given out, and what becomes of it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_deploy.results.table import RESULTS
from ssd_train.errors import SSDDeployError
from ssd_train.options import option

if TYPE_CHECKING:
    from ssd_train.spec import DetectorSpec
    from ssd_train.thresholds import Keeping

# Shown where neither the user nor the detector says another one.
USUAL_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What is given out of what the detector finds."""

    score_threshold: float | None = option(
        None,
        "Lowest score that is given out; without it the detector's saved thresholds, else 0.5.",
        names=("--threshold", "--score-threshold"),
        least=0,
        most=1,
    )
    class_thresholds: tuple[str, ...] = option(
        (), "Another one for a class, as in `dog=0.4`; may be repeated.", names=("--class-threshold",)
    )
    max_detections: int | None = option(None, "Most detections of a picture, the best ones.", least=1)

    def keeping(self, spec: "DetectorSpec") -> "Keeping":
        """Return the thresholds that hold for a detector. Raises SpecError where it cannot do that."""
        from ssd_train.thresholds import keeping

        return keeping(
            spec,
            score_threshold=self.score_threshold,
            class_thresholds=dict(map(_class_threshold, self.class_thresholds)),
            max_detections=self.max_detections,
            default=USUAL_THRESHOLD,
        )


def _class_threshold(text: str) -> tuple[str, float]:
    # The last sign, since a class may have one in its name.
    name, sign, value = text.rpartition("=")
    try:
        return name, float(value if sign else "none")
    except ValueError:
        raise SSDDeployError(
            f"{text!r} is no threshold of a class; write its name and a number, as in dog=0.4",
            arguments=("class_thresholds",),
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outputs:
    """What is done with what was found."""

    out: Path = option(Path("detections"), "Folder for the results.")
    save: str | None = option(
        None,
        f"Results, several with commas between: {', '.join(RESULTS)}. Without it pictures,json of pictures, "
        "video,json of a video, json of a camera or a stream.",
    )
    track: bool = option(False, "Number the objects of a video or a stream, each the same in every frame.")
    show: bool = option(False, "Show the pictures in a window; q ends.")

    def names(self) -> list[str] | None:
        """Return what is to be saved; None for what is usual."""
        return None if self.save is None else [name.strip() for name in self.save.split(",") if name.strip()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streams:
    """How cameras and streams are read."""

    reconnect: bool = option(False, "Try a lost camera or stream again, ten times in a row, ever more slowly.")
