"""The splits of a data set, each read to its end whatever is wrong in it."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.findings import Finding, Findings
from ssd_train.datasets.source import DataSource
from ssd_train.errors import DatasetError, ImageError

# Of one split alone; `objects.find_lacking_classes` looks at all of them together.
_OF_ONE_SPLIT = ("class-without-objects", "class-missing")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """One part of a data set.

    Attributes:
        role: train, val, or the name of another split.
        name: what the layout calls it; empty where it finds none.
        dataset: what could be read; None where nothing could.
        findings: what its reader found, and what else is found in it.
    """

    role: str
    name: str
    dataset: Dataset | None
    findings: Findings

    def own_findings(self) -> tuple[Finding, ...]:
        """Return the findings without what a look at all splits tells better."""
        names = self.dataset.class_names if self.dataset is not None else ()
        return tuple(each for each in self.findings.found() if not (each.rule in _OF_ONE_SPLIT and each.place in names))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What could be read."""
        return self.dataset.samples if self.dataset is not None else ()


def read_splits(source: DataSource, class_names: Sequence[str]) -> tuple[Split, ...]:
    """Read train and val, and the others that there are; what cannot be read is a finding.

    Of a folder that says of no image what it is for, all images are looked at as those to train on.
    """
    parts: list[tuple[str, Callable[[], str]]] = [
        ("train", lambda: source.train_split),
        ("val", lambda: source.val_split),
    ]
    splits = [_read(role, find_name, source, class_names) for role, find_name in parts]
    if not any(split.name for split in splits):
        everything = _read("train", lambda: source.layout.eval_split(source.root), source, class_names)
        for finding in splits[0].findings.found():
            everything.findings.stop(finding.message, place=finding.place)
        splits = [everything]
    taken = {part for split in splits for part in split.name.split(",")}
    others = [name for name in source.split_names() if name.startswith("test") and name not in taken]
    return (*splits, *(_read(name, partial(str, name), source, class_names) for name in others))


def find_class_names(source: DataSource) -> tuple[str, ...]:
    """Return the classes that a training would find; those of the validation split where there is nothing to train on,
    which reading the splits tells.

    Raises:
        DatasetError: no split names any.
    """
    try:
        return source.class_names()
    except DatasetError:
        return source.layout.find_class_names(source.root, source.layout.eval_split(source.root))


def _read(role: str, find_name: Callable[[], str], source: DataSource, class_names: Sequence[str]) -> Split:
    findings, name = Findings(is_complete=True), ""
    try:
        name = find_name()
        dataset = source.load(name, class_names, training=role == "train", findings=findings)
    except (DatasetError, ImageError) as error:
        findings.stop(str(error), place=name or str(source.root))
        return Split(role=role, name=name, dataset=None, findings=findings)
    return Split(role=role, name=name, dataset=dataset, findings=findings)
