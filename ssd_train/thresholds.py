"""Which of a detector's answers are given out: thresholds at run time, above those inside its graph."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ssd_train.detections import Detections
from ssd_train.errors import SpecError
from ssd_train.spec import DetectorSpec, first_names


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Keeping:
    """What is given out.

    Attributes:
        score_thresholds: (C,) float64, lowest score of each class, included.
        max_detections: most in an image, best first.
        origin: where the thresholds come from, for people.
        lowest: the detector's own score threshold, below which there is nothing to give.
    """

    score_thresholds: NDArray[np.float64]
    max_detections: int
    origin: str
    lowest: float = 0.0

    def apply(self, found: Detections) -> Detections:
        """Return what is to be kept of one image's detections, which are in the order of their scores."""
        return found.select(self.rows(found))

    def rows(self, found: Detections) -> NDArray[np.int64]:
        """Return which rows `apply` keeps."""
        # As float32, like the scores, so that one of exactly 0.3 reaches it.
        least = self.score_thresholds.astype(np.float32)[found.labels]
        return np.flatnonzero(found.scores >= least)[: self.max_detections]


def keeping(
    spec: DetectorSpec,
    *,
    score_threshold: float | None = None,
    class_thresholds: Mapping[str, float] | None = None,
    max_detections: int | None = None,
    default: float | None = None,
) -> Keeping:
    """Decide what is given out.

    Args:
        spec: the detector; its saved working thresholds hold where no `score_threshold` is given.
        score_threshold: for all classes, instead of those saved; 0 to 1.
        class_thresholds: class name -> its own, which goes before all others.
        max_detections: at least 1; None for the detector's own.
        default: used where nothing is given or saved; None for all that the detector gives.

    Raises:
        SpecError: a value outside its range, a class that the detector does not have, a score below what the graph
            keeps, or more detections than it gives.
    """
    saved, own = spec.working_thresholds, spec.postprocess
    least: dict[str, float]
    if score_threshold is not None:
        least, origin = dict.fromkeys(spec.class_names, score_threshold), "as asked"
    elif saved is not None:
        least = {name: saved.per_class.get(name, saved.overall) for name in spec.class_names}
        # A file may have been exported with a higher threshold than the one that its network was scored with.
        least = {name: max(value, own.score_threshold) for name, value in least.items()}
        origin = "saved with the detector" + (f": {saved.found_by}" if saved.found_by else "")
    elif default is not None:
        least, origin = dict.fromkeys(spec.class_names, max(default, own.score_threshold)), "the usual one"
    else:
        least, origin = dict.fromkeys(spec.class_names, own.score_threshold), "the graph's own"
    if score_threshold is not None:
        _check_score(score_threshold, spec, "score_threshold")
    for name, value in (class_thresholds or {}).items():
        if name not in least:
            raise SpecError(
                f"class_thresholds: {name!r} is no class of {spec.network}; it has {first_names(spec.class_names)}",
                arguments=("class_thresholds",),
            )
        _check_score(value, spec, "class_thresholds")
        least[name] = value
    if max_detections is not None and not 1 <= max_detections <= own.max_detections:
        raise SpecError(
            f"max_detections {max_detections}: {spec.network} gives 1 to {own.max_detections} an image; export it "
            f"again with more (`ssd-deploy export --max-detections`)",
            arguments=("max_detections",),
        )
    return Keeping(
        score_thresholds=np.array([least[name] for name in spec.class_names], np.float64),
        max_detections=max_detections or own.max_detections,
        origin=origin,
        lowest=own.score_threshold,
    )


def nothing_found(highest_score: float | None, kept: Keeping, *, in_python: bool = False) -> str:
    """Say what there would have been to find, and from which threshold on.

    Args:
        highest_score: of all that the detector gave before `Keeping.apply`; None where it gave nothing.
        kept: by which thresholds they were left out.
        in_python: name the argument and not the option.

    Returns:
        `highest score 0.41; try --score-threshold 0.3`, for instance; without a full stop.
    """
    if highest_score is None:
        return f"no score is above {kept.lowest:g}, the least that this detector gives"
    # Well below the highest score, so that more than this one is seen, with one digit.
    wanted = 0.75 * highest_score
    step = 10.0 ** math.floor(math.log10(wanted)) if wanted > 0 else 1.0
    suggested = max(round(math.floor(wanted / step) * step, 12), kept.lowest)
    name = "score_threshold=" if in_python else "--score-threshold "
    return f"highest score {highest_score:.2g}; try {name}{suggested:g}"


def _check_score(value: float, spec: DetectorSpec, argument: str) -> None:
    lowest = spec.postprocess.score_threshold
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise SpecError(f"{argument} {value}: expected 0 to 1", arguments=(argument,))
    if value < lowest:
        raise SpecError(
            f"{argument} {value:g}: {spec.network} keeps no score of {lowest:g} or less; use {lowest:g} or more, or "
            f"export it again with `ssd-deploy export --score-threshold {value:g}`",
            arguments=(argument,),
        )
