"""A generated data set of 24 + 6 pictures, and one unbroken training that many tests compare with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import Run, leave_out_pictures, small_config, train_here

from ssd_train.datasets.generated_files import write_shapes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    # Several threads that wait for each other are many times slower where other jobs share the cores, and
    # the processes that tests compare this one with have one too.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all trainings but `unbroken`, which was made before this."""
    leave_out_pictures(monkeypatch)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures in Pascal VOC's layout; copy it before changing it."""
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=6, seed=0)


@pytest.fixture
def own_shapes(shapes: Path, tmp_path: Path) -> Path:
    """The same for a test that breaks it."""
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))


@pytest.fixture(scope="session")
def train_to_the_end() -> Callable[..., Run]:
    """Train in this process and keep what is logged."""

    def run(dataset: Path, out: Path, **changes: Any) -> Run:
        config = small_config(dataset, out, **changes)
        return Run(config, *train_here(config))

    return run


@pytest.fixture(scope="session")
def unbroken(shapes: Path, train_to_the_end: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training that nothing stopped; nobody writes to its folder."""
    return train_to_the_end(shapes, tmp_path_factory.mktemp("runs") / "unbroken")


@pytest.fixture
def copied(unbroken: Run, tmp_path: Path) -> Path:
    """A copy of the unbroken training's folder, for a test that goes on with it."""
    return Path(shutil.copytree(unbroken.folder, tmp_path / "copied"))
