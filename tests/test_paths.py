"""Names that can be no path: a sentence wherever they come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.engine.cache import default_cache
from ssd_deploy.model_source import find_model
from ssd_deploy.sources.open import open_source
from ssd_train.datasets.layouts import LAYOUTS
from ssd_train.datasets.source import find_source
from ssd_train.draw import write_picture
from ssd_train.errors import SSDDeployError
from ssd_train.image_files import find_images
from ssd_train.image_input import to_rgb
from ssd_train.paths import user_path
from ssd_train.preprocess import load_image
from ssd_train.training.checkpoint import read_checkpoint
from ssd_train.training.config import TrainingConfig
from ssd_train.weights.load import stored_weights
from ssd_train.weights.store import default_root
from ssd_train.weights.weight_file import read_tensors

NETWORK = "ssd_300_mobilenet0.25_custom"


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{"network": NETWORK, "dataset": "voc", "out": Path("run"), **values})


TAKES_A_PATH: dict[str, Callable[[str], Any]] = {
    "user_path": user_path,
    "picture": to_rgb,
    "pictures": lambda name: find_images([name]),
    "source": open_source,
    "model": find_model,
    "weights": lambda name: stored_weights(NETWORK, name),
    "data": find_source,
    "data root": lambda name: find_source("voc", Path(name)),
    "annotations": lambda name: find_source(None, annotations=Path(name), images=Path("a")),
    "images": lambda name: find_source(None, annotations=Path("a"), images=Path(name)),
    "out": lambda name: config(out=Path(name)),
    "config's data": lambda name: config(dataset=name),
    "init": lambda name: config(init=name),
    "resume": lambda name: config(resume=name),
    "backbone": lambda name: config(pretrained_backbone=name),
    "checkpoint": lambda name: read_checkpoint(Path(name)),
}


@pytest.mark.parametrize("name", ["~nosuch_user/a", "a\0b", "a" * 300, "\ud800", "loop/a"], ids=ascii)
@pytest.mark.parametrize("takes", TAKES_A_PATH)
def test_what_can_be_no_path_is_a_sentence(
    takes: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(SSDDeployError) as caught:
        TAKES_A_PATH[takes](name)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) < 400
    assert list(tmp_path.iterdir()) == [tmp_path / "loop"]


@pytest.mark.parametrize("read", [load_image, read_tensors])
@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "loop/a"], ids=ascii)
def test_readers_say_so_too(
    read: Callable[[Path], Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(SSDDeployError):
        read(Path(name))


@pytest.mark.parametrize(
    ("variable", "value", "asks"),
    [
        ("SSD_DEPLOY_ROOT", "~nosuch_user/a", default_root),
        ("SSD_DEPLOY_CACHE", "~nosuch_user/a", default_cache),
        ("XDG_CACHE_HOME", "~nosuch_user/a", default_cache),
        ("SSD_DEPLOY_ROOT", "a" * 300, default_root),
    ],
)
def test_variables_are_named(
    variable: str, value: str, asks: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSD_DEPLOY_CACHE", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SSDDeployError, match=f"^{variable} "):
        asks()


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user without an entry, and no HOME."""
    for variable in ("HOME", "SSD_DEPLOY_ROOT", "SSD_DEPLOY_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    for asks in (default_root, default_cache, LAYOUTS["voc"].default_root):
        with pytest.raises(SSDDeployError, match="home folder is not known"):
            asks()


@pytest.mark.parametrize("name", ["~.png", "./~$a.png", "~nosuch_user/a.png"])
def test_a_file_whose_name_begins_like_a_home_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    write_picture(Path(name), np.zeros((2, 2, 3), np.uint8))
    assert user_path(name) == Path(name)
    assert to_rgb(name).shape == (2, 2, 3) and find_images([name]) == [Path(name)]
    assert [frame.path for frame in open_source(name).frames()] == [Path(name)]


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert config(out=Path("~/run"), dataset="~/data", init="~/w.pth").out == tmp_path / "run"
    assert config(dataset="~/data").dataset == str(tmp_path / "data")
    assert (config().dataset, config().resume, config().pretrained_backbone) == ("voc", "no", "auto")
