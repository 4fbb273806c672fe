"""The table of what computes COCO's numbers. Light: a row's package is imported when it is used."""

import dataclasses
import importlib
import importlib.metadata
from typing import Any

from ssd_train.errors import DatasetError
from ssd_train.requirements import require
from ssd_train.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """One row: a package with pycocotools' interface.

    Attributes:
        name: what options call it, and what it is installed as.
        package: its import name.
        index, evaluation: (module, class) of `COCO` and of `COCOeval`.
        extra: of this project, that installs it; None where it always is.
    """

    name: str
    package: str
    index: tuple[str, str]
    evaluation: tuple[str, str]
    extra: str | None = None

    def check(self) -> None:
        """Raise BackendError where it is not installed."""
        if self.extra is not None:
            require(self.package, self.extra, f"The evaluator {self.name}")

    def classes(self) -> tuple[Any, Any]:
        """Return `COCO` and `COCOeval`. Raises BackendError where it is not installed."""
        self.check()
        index, evaluation = (
            getattr(importlib.import_module(module), name) for module, name in (self.index, self.evaluation)
        )
        return index, evaluation

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.name} {importlib.metadata.version(self.name)}"


DEFAULT_EVALUATOR = "faster-coco-eval"

EVALUATORS: Table[Evaluator] = Table(
    "evaluator",
    (
        Evaluator(
            name=DEFAULT_EVALUATOR,
            package="faster_coco_eval",
            index=("faster_coco_eval", "COCO"),
            evaluation=("faster_coco_eval", "COCOeval_faster"),
        ),
        Evaluator(
            name="pycocotools",
            package="pycocotools",
            index=("pycocotools.coco", "COCO"),
            evaluation=("pycocotools.cocoeval", "COCOeval"),
            extra="pycocotools",
        ),
    ),
    DatasetError,
)
