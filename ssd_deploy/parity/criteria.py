"""What backends have to meet. Light, since the command line makes options of it."""

import dataclasses
import math

from ssd_train.errors import DatasetError
from ssd_train.options import check_ranges, option
from ssd_train.precisions import Limits

MOVED_IOU = 0.8


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
        return {name: finite_or_none(value) for name, value in dataclasses.asdict(self).items()}


# Of a precision that changes numbers only what goes in is held to a limit; the rest is said as it is.
UNLIMITED = Tolerances(
    metric=math.inf, agreement=0, raw=math.inf, score=math.inf, box=math.inf, differing=math.inf, pair_iou=MOVED_IOU
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Criteria:
    """What backends have to meet; None is what the precision's row says.

    `max_drop` goes before `tolerance`. `tolerances` is what a precision without limits, float32, is held to.

    Raises:
        DatasetError: a value outside its range.
    """

    score_threshold: float = option(
        0.3, "Detections of at least this score are counted.", names=("--score-threshold",), least=0, below=1
    )
    max_drop: float | None = option(
        None, "Points of the metric that may be lost; without it 0.05 for fp16, 0.3 (VOC) or 0.5 (COCO) for int8.",
        least=0, most=100,
    )  # fmt: skip
    max_changed: float | None = option(
        None, "Share of the detections that may change; without it 0.02 for fp16, 0.1 for int8.", least=0, most=1
    )
    tolerance: float | None = option(
        None, "Largest difference of the metric, a fraction; without it 1e-4 for fp32.", least=0
    )
    min_agreement: float | None = option(
        None, "Lowest agreement AP, a fraction; without it 0.999 for fp32.", least=0, most=1
    )
    tolerances: Tolerances = Tolerances()

    def __post_init__(self) -> None:
        check_ranges(self, DatasetError)

    def tolerances_of(self, limits: Limits | None) -> Tolerances:
        """Return what the stages of a precision with such limits are held to."""
        asked = {"metric": self.tolerance if limits is None else None, "agreement": self.min_agreement}
        changes = {name: value for name, value in asked.items() if value is not None}
        return dataclasses.replace(self.tolerances if limits is None else UNLIMITED, **changes)

    def metric_limit(self, limits: Limits, metric: str) -> float | None:
        """Return the points that a precision may lose of a metric; None where nobody says."""
        if self.max_drop is not None:
            return self.max_drop
        return limits.metric_drop.get(metric) if self.tolerance is None else 100 * self.tolerance


def finite_or_none(value: float) -> float | None:
    """Return a value for JSON, which has no infinity: None stands for it."""
    return value if math.isfinite(value) else None
