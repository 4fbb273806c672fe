"""The splits of a data set, each read to its end whatever is wrong in it."""

import dataclasses
from collections.abc import Callable, Sequence

from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.findings import Findings
from ssd_train.datasets.layouts import DataSource
from ssd_train.errors import DatasetError, ImageError

# What layouts call the split that neither trains nor validates; many data sets have none.
TEST_SPLITS = ("test", "test2017")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """One part of a data set.

    Attributes:
        role: train, val or test.
        name: what the layout calls it; empty where it finds none.
        dataset: what could be read; None where nothing could.
        findings: what its reader found, and what else is found in it.
    """

    role: str
    name: str
    dataset: Dataset | None
    findings: Findings

    @property
    def samples(self) -> tuple[Sample, ...]:
        """What could be read."""
        return self.dataset.samples if self.dataset is not None else ()


def read_splits(source: DataSource, class_names: Sequence[str]) -> tuple[Split, ...]:
    """Read train and val, and test where there is one; what cannot be read is a finding."""
    splits = [
        _read("train", lambda: source.train_split, source, class_names),
        _read("val", lambda: source.val_split, source, class_names),
    ]
    for name in TEST_SPLITS:
        if name in [split.name for split in splits]:
            break
        split = _read("test", lambda name=name: name, source, class_names)  # type: ignore[misc]
        if split.dataset is not None:
            return (*splits, split)
    return tuple(splits)


def find_class_names(source: DataSource) -> tuple[str, ...]:
    """Return the classes that a training would find; those of the validation split where there is nothing to train on,
    which reading the splits tells.

    Raises:
        DatasetError: no split names any.
    """
    try:
        return source.class_names()
    except DatasetError:
        return source.layout.find_class_names(source.root, source.val_split)


def _read(role: str, find_name: Callable[[], str], source: DataSource, class_names: Sequence[str]) -> Split:
    findings, name = Findings(is_complete=True), ""
    try:
        name = find_name()
        dataset = _load(source, name, class_names, role == "train", findings)
    except (DatasetError, ImageError) as error:
        findings.stop(str(error), place=name or str(source.root))
        return Split(role=role, name=name, dataset=None, findings=findings)
    return Split(role=role, name=name, dataset=dataset, findings=findings)


def _load(source: DataSource, name: str, class_names: Sequence[str], training: bool, findings: Findings) -> Dataset:
    """Read one split; the one place that depends on how readers tell what they find."""
    return source.layout.load(source.root, name, class_names, training)
