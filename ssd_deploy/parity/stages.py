"""Stage by stage along the data flow: how far a backend is from the reference, and how far it may be."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.criteria import Tolerances, finite_or_none
from ssd_deploy.parity.pairs import ImageComparison
from ssd_train.datasets.dataset import Sample
from ssd_train.preprocess import preprocess

# Raw predictions are compared on this many images, since each costs both sides another forward pass.
RAW_IMAGES = 16

# Where two candidates score the same to the last bits, either may win in NMS. So few detections may
# differ without a verdict: a share of all, or this many in a short run, but never over a tenth of it.
EXCUSED_COUNT = 4
EXCUSED_AT_MOST = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison along the data flow.

    Attributes:
        name: what was compared.
        difference: the largest found.
        tolerance: the largest allowed.
        text: both, with units.
    """

    name: str
    difference: float
    tolerance: float
    text: str

    @property
    def passed(self) -> bool:
        # NaN fails, and so does infinity where there is no limit.
        return math.isfinite(self.difference) and self.difference <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which has no infinity: null, and the text says it."""
        return {
            "name": self.name,
            "difference": finite_or_none(self.difference),
            "tolerance": finite_or_none(self.tolerance),
            "text": self.text,
            "passed": self.passed,
        }


def compare_inputs_and_raw(
    reference: Runner,
    candidate: Runner,
    samples: Sequence[Sample],
    tolerances: Tolerances,
    batch_size: int,
    with_raw: bool,
) -> list[Stage]:
    """Compare what goes into both networks and what comes out of them, batch by batch."""
    worst = {"input": 0.0, "logits": 0.0, "offsets": 0.0}
    batch_size = min(batch_size, candidate.max_batch_size or batch_size)
    samples = samples[:RAW_IMAGES]
    for start in range(0, len(samples), batch_size):
        images = [sample.load_image() for sample in samples[start : start + batch_size]]
        ours, theirs = (
            np.stack([preprocess(image, runner.spec) for image in images]) for runner in (reference, candidate)
        )
        if ours.shape != theirs.shape:
            worst = dict.fromkeys(worst, math.inf)
            break
        worst["input"] = _larger(worst["input"], np.abs(ours - theirs).max())
        if not with_raw:
            continue
        raw, other_raw = reference.run_raw(ours), candidate.run_raw(theirs)
        for name, expected, got in zip(("logits", "offsets"), raw, other_raw, strict=True):
            if expected.shape != got.shape:
                worst[name] = math.inf
            else:
                worst[name] = _larger(worst[name], np.abs(got - expected).max() / expected.std())
    stages = [_stage("input tensor", worst["input"], tolerances.input_tensor)]
    if with_raw:
        unit = " of the standard deviation"
        stages += [_stage(f"raw {name}", worst[name], tolerances.raw, unit) for name in ("logits", "offsets")]
    return stages


def _stage(name: str, difference: float, tolerance: float, unit: str = "") -> Stage:
    allowed = f" (allowed {tolerance:.0e})" if math.isfinite(tolerance) else ""
    text = f"largest difference {difference:.1e}{unit}{allowed}"
    return Stage(name=name, difference=difference, tolerance=tolerance, text=text)


def _larger(worst: float, value: np.floating[Any]) -> float:
    """The larger of both; NaN counts as infinite, where max() would lose it."""
    return max(worst, math.inf if np.isnan(value) else float(value))


def detection_stages(images: Sequence[ImageComparison], tolerances: Tolerances) -> list[Stage]:
    """Compare the scores of all pairs, then count what has another box or no partner on either side.

    Of two candidates with equal scores either may stand, which moves a box or leaves it alone; it
    never changes a score.
    """
    worst_score = max(image.score_difference for image in images)
    alone = sum(len(image.only_reference) + len(image.only_candidate) for image in images)
    total = alone + 2 * sum(image.matched for image in images)
    differing = alone + 2 * sum(image.moved for image in images)
    allowed = max(min(EXCUSED_COUNT / total, EXCUSED_AT_MOST), tolerances.differing)
    if math.isfinite(allowed):
        text = (
            f"{differing} of {total} have no partner, or one over {tolerances.box:g} px away "
            f"({int(allowed * total)} may)"
        )
    else:
        text = f"{differing} of all {total}, however low their scores, have no partner"
    return [
        _stage("detection scores", worst_score, tolerances.score),
        Stage(name="detections", difference=differing / total, tolerance=allowed, text=text),
    ]
