"""What is shipped, and how it is judged."""

import dataclasses
from collections.abc import Sequence

from ssd_deploy.backends import BackendChoice
from ssd_deploy.benchmark.fastest.run import Calibrating
from ssd_deploy.parity.criteria import Criteria
from ssd_deploy.ship.targets import Asked
from ssd_train.metrics.protocol import Protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shipping:
    """What is shipped, and how it is judged.

    Attributes:
        asked: the targets.
        metric: scores the images; None without ground truth.
        calibrating: images for int8.
        calibration: number of these images and a hash of them; None without int8.
        backends: those that judge; None for all that work here.
        samples: images that travel along, so that the folder can be verified elsewhere.
        strict: what did not run is a failure.
        device: of the reference and of its times.
    """

    asked: tuple[Asked, ...]
    metric: str | None
    calibrating: Calibrating
    calibration: tuple[int, str] | None
    protocol: Protocol = Protocol.STANDARD
    criteria: Criteria = Criteria()
    backends: Sequence[BackendChoice] | None = None
    samples: int = 8
    strict: bool = False
    device: str = "cpu"
    threads: int = 0
    workers: int = 2
    allow_tf32: bool = False
