"""The kinds of data sets, by the name the command line uses."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ssd_train.datasets.coco import load_coco
from ssd_train.datasets.dataset import Dataset
from ssd_train.datasets.voc import load_voc
from ssd_train.errors import DatasetError

DATASETS: dict[str, Callable[[Path, str | None, Sequence[str]], Dataset]] = {"voc": load_voc, "coco": load_coco}


def default_root(kind: str) -> Path:
    """Return where a kind's folder is looked for when none is named: `~/.torch/datasets/<kind>`."""
    return Path.home() / ".torch" / "datasets" / kind


def load_dataset(kind: str, root: Path, split: str | None, class_names: Sequence[str]) -> Dataset:
    """Read a data set's annotations; images are loaded later, one by one.

    Args:
        kind: key of `DATASETS`.
        root: the data set's folder; a leading ~ is the home folder.
        split: which part; None is the kind's own default.
        class_names: the detector's classes in label order.

    Raises:
        DatasetError: the kind does not exist, or the folder cannot be used.
    """
    if kind not in DATASETS:
        raise DatasetError(f"data set kind {kind!r} does not exist; choose {' or '.join(DATASETS)}")
    return DATASETS[kind](root.expanduser(), split, class_names)
