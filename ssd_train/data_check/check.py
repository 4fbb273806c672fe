"""A whole data set looked through before anything is trained on it."""

from collections.abc import Callable, Sequence

import numpy as np

from ssd_train.data_check.anchors import Cover, advice, covers, poorly_covered
from ssd_train.data_check.copies import Copies, find_copies
from ssd_train.data_check.images import read_images
from ssd_train.data_check.objects import (
    count_objects,
    find_lacking_classes,
    find_useless_samples,
    objects_of,
    size_quantiles,
    training_samples,
)
from ssd_train.data_check.reading import Split, find_class_names, read_splits
from ssd_train.data_check.report import CheckReport, SplitRow, merged
from ssd_train.datasets.findings import Effect, Finding, Findings
from ssd_train.datasets.source import DataSource
from ssd_train.errors import DatasetError
from ssd_train.networks.zoo import find_network, network_config


def check_data(
    source: DataSource,
    *,
    network: str | None = None,
    class_names: Sequence[str] | None = None,
    with_images: bool = True,
    workers: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read every split of a data set and all its images, and judge what a training would make of them.

    Args:
        source: the data set.
        network: whose input and anchors the objects are held against; None for neither.
        class_names: label order; None for the network's own or those of the data set, as a training takes them.
        with_images: read the images; without it only annotations are.
        workers: threads that read images.
        on_progress: called with the images read so far and those there are.

    Raises:
        DatasetError: there is no such folder, or no class is named anywhere in it.
        NetworkError, SpecError: no such network, or it has other classes.
    """
    if not source.root.is_dir():
        raise DatasetError(f"{source.root}: no such folder; name the data set's", arguments=("data", "data_root"))
    own_names = find_network(network).class_names if network else ()
    names = tuple(class_names or own_names or find_class_names(source))
    config = network_config(network, names) if network else None
    input_size = config.input_size if config else None
    splits, together = read_splits(source, names), Findings(is_complete=True)
    copies = _check_images(splits, together, workers, on_progress) if with_images else ()

    trained = {split.role: training_samples(split, source.layout) for split in splits}
    for split in splits:
        find_useless_samples(split, trained[split.role])
    counts = {split.role: count_objects(split.samples, len(names)) for split in splits if split.dataset is not None}
    find_lacking_classes(counts, names, together)
    objects = objects_of([sample for samples in trained.values() for sample in samples])
    covered = covers(objects, config) if config else ()
    return CheckReport(
        data=str(source.root),
        layout=source.layout.name,
        class_names=names,
        splits=splits,
        rows=tuple(_row(split) for split in splits),
        findings=merged(
            [
                *((split.role, finding) for split in splits for finding in split.own_findings()),
                *((None, finding) for finding in (*together.found(), *_anchor_findings(covered, names))),
            ]
        ),
        counts=counts,
        objects=objects,
        network=config.name if config else None,
        input_size=input_size,
        quantiles=size_quantiles(objects, input_size, len(names)),
        covers=covered,
        copies=copies,
        with_images=with_images,
    )


def _check_images(
    splits: Sequence[Split], together: Findings, workers: int, on_progress: Callable[[int, int], None] | None
) -> Copies:
    """Read every image once; tell their splits which cannot be used, and `together` which are there again."""
    samples = {sample.path: sample for split in splits for sample in split.samples}
    facts = dict(
        zip(samples, read_images(list(samples.values()), workers=workers, on_progress=on_progress), strict=True)
    )
    for split in splits:
        for path in dict.fromkeys(sample.path for sample in split.samples):
            if (error := facts[path].error) is not None:
                split.findings.stop(error, place=str(path))
    return find_copies(splits, facts, together)


def _anchor_findings(covered: Sequence[Cover], class_names: Sequence[str]) -> tuple[Finding, ...]:
    sentence = advice(covered, class_names) if covered else None
    if sentence is None:
        return ()
    count = len(poorly_covered(covered[0]))
    return (Finding(rule="anchors", effect=Effect.NOTE, place=covered[0].network, count=count, message=sentence),)


def _row(split: Split) -> SplitRow:
    objects = np.array([len(sample.ground_truth) for sample in split.samples], np.int64)
    return SplitRow(
        role=split.role,
        name=split.name,
        images=len(objects),
        images_without_objects=int((objects == 0).sum()),
        objects=int(objects.sum()),
    )
