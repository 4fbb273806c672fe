"""Stage by stage along the data flow: how far a backend is from the reference, and how far it may be."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.changes import MOVED_IOU
from ssd_deploy.parity.pairs import ImageComparison
from ssd_train.datasets.dataset import Sample
from ssd_train.errors import DatasetError
from ssd_train.preprocess import preprocess

# Raw predictions are compared on this many images, since each costs both sides another forward pass.
RAW_IMAGES = 16

# Where two candidates score the same to the last bits, either may win in NMS. So few detections may
# differ without a verdict: a share of all, or this many in a short run, but never over a tenth of it.
EXCUSED_COUNT = 4
EXCUSED_AT_MOST = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How far a backend may be from the reference; the defaults are what float32 in another order explains.

    Infinity is no limit, but what is not finite fails all the same.

    Attributes:
        metric: largest difference of the data set's metric, a fraction.
        agreement: lowest agreement AP, a fraction.
        input_tensor: largest difference of a normalised pixel.
        raw: largest difference of a logit or offset, as a share of its tensor's standard deviation.
        score: largest score difference of a matched pair.
        box: largest corner difference of a matched pair in image pixels.
        differing: share of the detections that may have no partner, or one further away than `box`.
        pair_iou: overlap from which two detections of a label are taken for the same one.
    """

    metric: float = 1e-4
    agreement: float = 0.999
    input_tensor: float = 1e-5
    raw: float = 1e-3
    score: float = 1e-4
    box: float = 0.1
    differing: float = 0.002
    pair_iou: float = 0.9

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) >= 0:
                raise DatasetError(
                    f"a tolerance of {getattr(self, field.name)} for {field.name} is below 0", arguments=(field.name,)
                )

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON; None is no limit."""
        return {name: _finite(value) for name, value in dataclasses.asdict(self).items()}


# Of a precision that changes numbers only what goes in is held to a limit; the rest is said as it is.
UNLIMITED = Tolerances(
    metric=math.inf, agreement=0, raw=math.inf, score=math.inf, box=math.inf, differing=math.inf, pair_iou=MOVED_IOU
)


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
            "difference": _finite(self.difference),
            "tolerance": _finite(self.tolerance),
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
