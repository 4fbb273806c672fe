"""The table of metrics: what scores detections against ground truth, and all that the rest asks of it.

A metric is a module beside this file and one row here (`docs/extending.md`). Light: what a row calls is imported when
it is called. How far two detectors agree, which needs no ground truth, is no row: see `agreement`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from types import ModuleType
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
        with_evaluator: name of a row of `EVALUATORS` -> this row, computed by it; None where there is but one way.
    """

    name: str
    headline: str
    score: "Callable[[Dataset, Sequence[Detections], DetectorSpec, Protocol], Scored]"
    describe: "Callable[[Protocol, DetectorSpec], str]"
    with_evaluator: "Callable[[str], Metric] | None" = None


def _voc() -> ModuleType:
    from ssd_train.metrics import voc_ap

    return voc_ap


def _coco() -> ModuleType:
    from ssd_train.metrics import coco_ap

    return coco_ap


def _coco_by(evaluator: str) -> Metric:
    return dataclasses.replace(
        METRICS["coco"],
        score=lambda *arguments: _coco().score(*arguments, evaluator=evaluator),
        describe=lambda *arguments: _coco().describe(*arguments, evaluator=evaluator),
    )


METRICS: Table[Metric] = Table(
    "metric",
    (
        Metric(
            name="voc",
            headline="VOC07 mAP",
            score=lambda *arguments: _voc().score(*arguments),
            describe=lambda *arguments: _voc().describe(*arguments),
        ),
        Metric(
            name="coco",
            headline="AP",
            score=lambda *arguments: _coco().score(*arguments),
            describe=lambda *arguments: _coco().describe(*arguments),
            with_evaluator=lambda evaluator: _coco_by(evaluator),
        ),
    ),
    DatasetError,
)
