"""What a check of a data set came to."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_train.data_check.anchors import MATCH_IOU_THRESHOLD, Cover
from ssd_train.data_check.copies import Copies
from ssd_train.data_check.objects import QUANTILES, Objects
from ssd_train.data_check.reading import Split
from ssd_train.datasets.findings import Effect, Finding

# Of a command whose answer is bad.
LOST = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckFinding:
    """One finding, and the splits that have it; empty where it is about all of them together."""

    finding: Finding
    splits: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One split in numbers."""

    role: str
    name: str
    images: int
    images_without_objects: int
    objects: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CheckReport:
    """Everything that was looked at.

    Attributes:
        data: the folder.
        layout: its row of `LAYOUTS`.
        class_names: label order.
        splits: what was read, for pictures.
        rows: the same in numbers.
        findings: each once, the worst first.
        counts: role of a split that was read -> (C,) objects of each class.
        objects: those that a training sees, of all splits.
        network, input_size: whose; None where none is named.
        quantiles: (C, 5) sizes by `objects.QUANTILES` in pixels of the input; without a network, of the images.
        covers: of the network, then of the same backbone at other sizes; empty without a network.
        copies: groups of pictures that are one.
        with_images: whether every image was read.
    """

    data: str
    layout: str
    class_names: tuple[str, ...]
    splits: tuple[Split, ...]
    rows: tuple[SplitRow, ...]
    findings: tuple[CheckFinding, ...]
    counts: dict[str, NDArray[np.int64]]
    objects: Objects
    network: str | None
    input_size: tuple[int, int] | None
    quantiles: NDArray[np.float64]
    covers: tuple[Cover, ...]
    copies: Copies
    with_images: bool

    def of_effect(self, effect: Effect) -> list[CheckFinding]:
        """Return the findings of one effect."""
        return [found for found in self.findings if found.finding.effect is effect]

    def exit_code(self, *, strict: bool = False) -> int:
        """Return 1 where something stops or is lost, or with `strict` where there is anything to say; 0 otherwise."""
        bad = [found for found in self.findings if strict or found.finding.effect is not Effect.NOTE]
        return LOST if bad else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; sizes are in pixels, shares from 0 to 1."""
        return {
            "data": self.data,
            "layout": self.layout,
            "network": self.network,
            "input_size": self.input_size,
            "images_read": self.with_images,
            "counts": {effect.value: len(self.of_effect(effect)) for effect in Effect},
            "findings": [
                {**dataclasses.asdict(found.finding), "splits": list(found.splits)} for found in self.findings
            ],
            "splits": [dataclasses.asdict(row) for row in self.rows],
            "classes": [
                {
                    "name": name,
                    "objects": {role: int(count[label]) for role, count in self.counts.items()},
                    "sizes": dict(zip(map(str, QUANTILES), self.quantiles[label].tolist(), strict=True)),
                }
                for label, name in enumerate(self.class_names)
            ],
            "anchors": {
                "iou": MATCH_IOU_THRESHOLD,
                "networks": [
                    {
                        "network": each.network,
                        "input_size": each.input_size,
                        "covered": dict(zip(self.class_names, each.shares, strict=True)),
                    }
                    for each in self.covers
                ],
            },
            "copies": [[{"split": split, "file": file} for split, file in group] for group in self.copies],
        }


def merged(found: Iterable[tuple[str | None, Finding]]) -> tuple[CheckFinding, ...]:
    """Return each finding once, with the splits that have it, the worst first."""
    splits: dict[Finding, list[str]] = {}
    for split, finding in found:
        splits.setdefault(finding, []).extend([] if split is None else [split])
    order = (Effect.STOP, Effect.LOSS, Effect.NOTE)
    return tuple(
        CheckFinding(finding=finding, splits=tuple(splits[finding]))
        for finding in sorted(splits, key=lambda finding: order.index(finding.effect))
    )
