"""What a training says before its first step, and what stops it there."""

import time
from pathlib import Path

from ssd_train.data_check.before_training import training_warnings
from ssd_train.data_check.objects import training_samples
from ssd_train.data_check.reading import read_splits
from ssd_train.datasets.dataset import Dataset, Sample
from ssd_train.datasets.source import find_source
from ssd_train.networks.zoo import network_config


def read(root: Path, names: tuple[str, ...]) -> tuple[list[Sample], Dataset]:
    source = find_source(root)
    train, val, *_ = read_splits(source, names)
    assert val.dataset is not None
    return training_samples(train, source.layout), val.dataset


def test_classes_that_are_not_learnt_or_scored_and_poor_anchors_are_told(data: Path, real_data: Path) -> None:
    names = ("cat", "dog", "bird")
    samples, validation = read(data, names)
    warnings = training_warnings(samples, validation, network_config("ssd_300_vgg16_atrous_custom", names))
    assert warnings == ()

    names = ("Platelets", "RBC", "WBC")
    samples, validation = read(real_data / "bccd", names)
    config = network_config("ssd_300_mobilenet0.25_custom", names)
    start = time.perf_counter()
    (warning,) = training_warnings(samples, validation, config)
    # A tenth of a second on a machine that does nothing else; 2804 objects.
    assert time.perf_counter() - start < 1
    assert "Platelets 54 %" in warning and "ssd_512_mobilenet0.25_custom does better" in warning


def test_classes_are_not_called_unscored_where_nothing_is_scored(data: Path) -> None:
    for name in ("v0", "v1"):
        path = data / "Annotations" / f"{name}.xml"
        path.write_text(path.read_text().replace("<name>", "<difficult>1</difficult><name>"))
    samples, validation = read(data, ("cat", "dog"))
    config = network_config("ssd_300_vgg16_atrous_custom", ("cat", "dog"))
    warnings = training_warnings(samples, validation, config)
    assert not any("not scored" in warning for warning in warnings)
