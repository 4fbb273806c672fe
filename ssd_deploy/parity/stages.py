"""Stage by stage along the data flow: how far a backend is from the reference, and how far it may be."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import Runner
from ssd_deploy.parity.pairs import MOVED_IOU, match_detections
from ssd_train.datasets.dataset import Sample
from ssd_train.detections import Detections
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
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0:
                raise DatasetError(f"a tolerance of {value} for {name} is below 0", arguments=(name,))

    def to_dict(self) -> dict[str, float | None]:
        """Return plain values for JSON; None is no limit."""
        return {name: _finite(value) for name, value in dataclasses.asdict(self).items()}


# Of a precision that changes numbers only what goes in is held to a limit; the rest is said as it is.
UNLIMITED = Tolerances(
    metric=math.inf, agreement=0, raw=math.inf, score=math.inf, box=math.inf, differing=math.inf, pair_iou=MOVED_IOU
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison along the data flow: the largest difference, the largest allowed, and both as text with units."""

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
        finite = {"difference": _finite(self.difference), "tolerance": _finite(self.tolerance)}
        return dataclasses.asdict(self) | finite | {"passed": self.passed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageComparison:
    """Detections of one image on both sides, whatever their scores.

    Attributes:
        image_id: the data set's name of the image.
        matched: pairs of one label that overlap.
        score_difference, box_difference: largest over the pairs; the box's in image pixels.
        moved: pairs whose boxes differ by more than was allowed.
        only_reference, only_candidate: what has no partner: class name, score and box.
    """

    image_id: int | str
    matched: int
    score_difference: float
    box_difference: float
    moved: int
    only_reference: tuple[dict[str, Any], ...]
    only_candidate: tuple[dict[str, Any], ...]

    @property
    def unmatched(self) -> int:
        return len(self.only_reference) + len(self.only_candidate)


def compare_inputs_and_raw(
    reference: Runner,
    candidate: Runner,
    samples: Sequence[Sample],
    tolerances: Tolerances,
    batch_size: int,
    with_raw: bool,
) -> list[Stage]:
    """Compare what goes into both networks and what comes out of them, batch by batch."""
    worst_input, worst_raw = 0.0, dict.fromkeys(("raw logits", "raw offsets") if with_raw else (), 0.0)
    batch_size = min(batch_size, candidate.max_batch_size or batch_size)
    samples = samples[:RAW_IMAGES]
    for start in range(0, len(samples), batch_size):
        images = [sample.load_image() for sample in samples[start : start + batch_size]]
        ours, theirs = (
            np.stack([preprocess(image, runner.spec) for image in images]) for runner in (reference, candidate)
        )
        worst_input = max(worst_input, _largest_difference(ours, theirs))
        if ours.shape != theirs.shape:
            worst_raw = dict.fromkeys(worst_raw, math.inf)
            break
        if with_raw:
            raw, other_raw = reference.run_raw(ours), candidate.run_raw(theirs)
            for name, expected, got in zip(worst_raw, raw, other_raw, strict=True):
                worst_raw[name] = max(worst_raw[name], _largest_difference(expected, got, float(expected.std())))
    unit = " of the standard deviation"
    return [
        _stage("input tensor", worst_input, tolerances.input_tensor),
        *(_stage(name, worst, tolerances.raw, unit) for name, worst in worst_raw.items()),
    ]


def _largest_difference(expected: NDArray[np.float32], got: NDArray[np.float32], unit: float = 1.0) -> float:
    """In units; infinite where shapes differ, and for NaN, which max() would lose."""
    if expected.shape != got.shape:
        return math.inf
    largest = float(np.abs(got - expected).max()) / unit
    return math.inf if math.isnan(largest) else largest


def compare_image(
    sample: Sample, reference: Detections, candidate: Detections, class_names: tuple[str, ...], tolerances: Tolerances
) -> ImageComparison:
    """Pair the detections of an image and measure the pairs."""
    pairs = match_detections(reference, candidate, tolerances.pair_iou)
    ours, theirs = pairs[:, 0], pairs[:, 1]
    scores = np.abs(reference.scores[ours] - candidate.scores[theirs])
    boxes = np.abs(reference.boxes[ours] - candidate.boxes[theirs]).max(axis=1, initial=0)

    def alone(detections: Detections, matched: NDArray[np.int64]) -> tuple[dict[str, Any], ...]:
        return tuple(
            {
                "class_name": class_names[detections.labels[index]],
                "score": float(detections.scores[index]),
                "box": detections.boxes[index].tolist(),
            }
            for index in np.setdiff1d(np.arange(len(detections)), matched)
        )

    return ImageComparison(
        image_id=sample.image_id,
        matched=len(pairs),
        score_difference=float(scores.max(initial=0)),
        box_difference=float(boxes.max(initial=0)),
        moved=int((boxes > tolerances.box).sum()),
        only_reference=alone(reference, ours),
        only_candidate=alone(candidate, theirs),
    )


def detection_stages(images: Sequence[ImageComparison], tolerances: Tolerances) -> list[Stage]:
    """Compare the scores of all pairs, then count what has another box or no partner on either side.

    Of two candidates with equal scores either may stand, which moves a box or leaves it alone; it
    never changes a score.
    """
    worst_score = max(image.score_difference for image in images)
    alone = sum(image.unmatched for image in images)
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


def _stage(name: str, difference: float, tolerance: float, unit: str = "") -> Stage:
    allowed = f" (allowed {tolerance:.0e})" if math.isfinite(tolerance) else ""
    text = f"largest difference {difference:.1e}{unit}{allowed}"
    return Stage(name=name, difference=difference, tolerance=tolerance, text=text)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
