"""The table of metrics: what scores detections against ground truth, and all that the rest asks of it.

A metric is a module beside this file and one row here (`docs/extending.md`). Light: what a row calls is imported when
it is called. How far two detectors agree, which needs no ground truth, is no row: see `agreement`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ssd_train.errors import DatasetError
from ssd_train.metrics.protocol import Protocol
from ssd_train.table import Table

if TYPE_CHECKING:
    from ssd_train.datasets.dataset import Dataset
    from ssd_train.detections import Detections
    from ssd_train.metrics.scored import Scored
    from ssd_train.spec import DetectorSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One row.

    Attributes:
        name: what reports call it.
        headline: which of its numbers is quoted first.
        score: (data set, one Detections a sample in image pixels, the detector that found them, rules) -> numbers.
            Raises DatasetError where there is nothing to find.
        describe: (rules, detector) -> a sentence that says what the numbers mean: rules, scores used, coordinates,
            difficult and crowd objects.
    """

    name: str
    headline: str
    score: "Callable[[Dataset, Sequence[Detections], DetectorSpec, Protocol], Scored]"
    describe: "Callable[[Protocol, DetectorSpec], str]"


def _score_voc(
    dataset: "Dataset", detections: "Sequence[Detections]", spec: "DetectorSpec", protocol: Protocol
) -> "Scored":
    from ssd_train.metrics import voc_ap

    return voc_ap.score(dataset, detections, spec, protocol)


def _describe_voc(protocol: Protocol, spec: "DetectorSpec") -> str:
    from ssd_train.metrics import voc_ap

    return voc_ap.describe(protocol, spec)


def _score_coco(
    dataset: "Dataset", detections: "Sequence[Detections]", spec: "DetectorSpec", protocol: Protocol
) -> "Scored":
    from ssd_train.metrics import coco_ap

    return coco_ap.score(dataset, detections, spec, protocol)


def _describe_coco(protocol: Protocol, spec: "DetectorSpec") -> str:
    from ssd_train.metrics import coco_ap

    return coco_ap.describe(protocol, spec)


METRICS: Table[Metric] = Table(
    "metric",
    (
        Metric(name="voc", headline="VOC07 mAP", score=_score_voc, describe=_describe_voc),
        Metric(name="coco", headline="AP", score=_score_coco, describe=_describe_coco),
    ),
    DatasetError,
)
