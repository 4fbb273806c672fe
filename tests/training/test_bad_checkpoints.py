"""Files that `resume` names and that are no checkpoint of this training: a sentence each, and nothing is touched."""

import functools
import io
import pickle
import re
import unittest.mock
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd_train.errors import SSDDeployError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import network_config
from ssd_train.training import checkpoint
from ssd_train.training.checkpoint import kept_settings, load_checkpoint, read_checkpoint, save_checkpoint
from ssd_train.training.checkpoint_layout import Position
from ssd_train.training.config import TrainingConfig
from ssd_train.training.processes import Processes
from ssd_train.training.step import Trainer

CLASSES = ("cat",)
NAN, HUGE = float("nan"), 10**400


@functools.cache
def training() -> tuple[Trainer, dict[str, Any]]:
    config = TrainingConfig(network="ssd_300_mobilenet0.25_custom", dataset="voc", out=Path("run"), ema=True)
    network = build_ssd(network_config(config.network, CLASSES))
    processes = Processes(rank=0, count=1, device=torch.device("cpu"))
    return Trainer(network, config, processes), kept_settings(config, CLASSES, 6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint as a training of one step leaves it."""
    folder = tmp_path_factory.mktemp("whole")
    trainer, settings = training()
    for parameter in trainer.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    save_checkpoint(folder / "last.ckpt", trainer, Position(step=1, images=2, sums=[1.0, 2.0, 3.0]), settings)
    return torch.load(folder / "last.ckpt", weights_only=True)


def refusal(path: Path, value: Any) -> str:
    """Let a file hold a value that must not be gone on from, without writing megabytes; return the sentence."""
    path.write_bytes(bytes(4_000_000))
    with unittest.mock.patch.object(checkpoint, "load_torch", return_value=value):
        return refusal_of_file(path)


def copied(value: Any) -> Any:
    """Copy everything but tensors."""
    if isinstance(value, dict):
        return {name: copied(each) for name, each in value.items()}
    return [copied(each) for each in value] if isinstance(value, list) else value


def refusal_of_file(path: Path) -> str:
    before = path.read_bytes()
    trainer, settings = training()
    with pytest.raises(SSDDeployError) as caught:
        load_checkpoint(read_checkpoint(path), trainer, settings)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 900
    assert caught.value.arguments
    return sentence


def test_the_whole_one_is_gone_on_from(whole: dict[str, Any], tmp_path: Path) -> None:
    torch.save(whole, tmp_path / "a.ckpt")
    trainer, settings = training()
    position = load_checkpoint(read_checkpoint(tmp_path / "a.ckpt"), trainer, settings)
    assert position == Position(step=1, images=2, sums=[1.0, 2.0, 3.0])
    first = next(iter(whole["network"]))
    assert torch.equal(trainer.network.state_dict()[first], whole["network"][first])


PARTS = ["network", "optimizer", "scaler", "average", "position", "settings", "random_state", "cuda_random_state"]


@pytest.mark.parametrize("part", [*PARTS, "version"])
@pytest.mark.parametrize("how", ["missing", "tensor", "number", "text", "list", "nothing in it", "nested"])
def test_every_part_is_of_its_kind(part: str, how: str, whole: dict[str, Any], tmp_path: Path) -> None:
    wrong = {
        "tensor": torch.zeros(2, 2), "number": 3, "text": "a" * 10_000, "list": [1, [2]], "nothing in it": {},
        "nested": {"a": {"b": {"c": torch.zeros(1)}}},
    }  # fmt: skip
    state = {name: value for name, value in whole.items() if name != part}
    if how != "missing":
        state[part] = wrong[how]
    # A training without half precision has no scale, and one of an earlier version lacks settings. The state of a GPU
    # is that of another machine.
    if (part, how) not in {("scaler", "nothing in it"), ("settings", "nothing in it"), ("cuda_random_state", "tensor")}:
        refusal(tmp_path / "a.ckpt", state)


def _set(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to

    return change


def _change_first(part: str, change: Callable[[torch.Tensor], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(state: dict[str, Any]) -> None:
        tensors = state["optimizer"]["state"][0] if part == "optimizer" else state[part]
        name = next(iter(tensors))
        tensors[name] = change(tensors[name])

    return changed


@pytest.mark.parametrize(
    "change",
    [
        *(_set("version", to=value) for value in (True, 2.0, "2", torch.tensor(2), -1, [2])),
        *(
            _set("position", name, to=value)
            for name in ("step", "images", "epochs", "validated_epochs", "best_epochs")
            for value in (-1, 2**63, HUGE, 1.5, NAN, True, "1", None, torch.tensor(1))
        ),
        *(_set("position", "best", to=value) for value in (NAN, float("inf"), "1", torch.tensor(0.5), [])),
        *(_set("position", "sums", to=value) for value in ([], [1.0, NAN, 1.0], [1.0] * 4, [-1.0] * 3, torch.ones(3))),
        *(_set("position", "bad_images", to=value) for value in ("a", [1], {"a": 1}, torch.ones(1))),
        _set("position", "epochs", to=5),
        *(_set("settings", "seed", to=value) for value in ("233", torch.tensor(233), torch.ones(2), NAN, {"a": 1})),
        _set("settings", "network", to="a" * 100_000),
        _set("settings", "unknown", to=1),
        *(_set("settings", "classes", to=value) for value in ("cat", ["dog"], [1], torch.ones(1), {})),
        *(_set("settings", "training images", to=value) for value in ("6", 7, HUGE, torch.tensor(6))),
        *(_set("random_state", to=value) for value in (torch.zeros(3, dtype=torch.uint8), torch.zeros(5056))),
        _set("random_state", to=torch.full_like(torch.get_rng_state(), 255)),
        *(
            _change_first(part, change)
            for part in ("network", "average", "optimizer")
            for change in (
                lambda tensor: tensor[:1],
                lambda tensor: tensor.double(),
                lambda tensor: tensor.to(torch.int64),
                lambda tensor: tensor * NAN,
                lambda tensor: torch.zeros(1).expand(tensor.shape),
                lambda tensor: tensor.to_sparse(),
                lambda tensor: tensor.to(torch.complex64),
                lambda tensor: 1.0,
            )
        ),
        lambda state: state["network"].popitem(),
        _set("network", "more", to=torch.ones(1)),
        _set("network", 3, to=torch.ones(1)),
        _set("optimizer", "state", 9999, to={"last_step": torch.ones(1)}),
        _set("optimizer", "state", "a", to={"last_step": torch.ones(1)}),
        _set("optimizer", "state", 0, to={"momentum_buffer": torch.ones(1)}),
        _set("optimizer", "param_groups", to=[]),
        _set("optimizer", "param_groups", 0, "params", to=[0, 1]),
        _set("optimizer", "param_groups", 0, "params", to=[torch.ones(1)]),
        _set("optimizer", "param_groups", 0, "lr", to=torch.ones(1)),
        _set("optimizer", "param_groups", 0, "momentum", to=NAN),
        lambda state: state["optimizer"]["param_groups"].append(state["optimizer"]["param_groups"][0]),
        lambda state: state["optimizer"]["param_groups"][0].pop("weight_decay"),
        _set("scaler", to={"scale": NAN}),
        _set("scaler", to={"scale": torch.ones(1)}),
    ],
)  # fmt: skip
def test_every_value_is_one_that_a_training_saves(
    change: Callable[[dict[str, Any]], None], whole: dict[str, Any], tmp_path: Path
) -> None:
    state = copied(whole)
    change(state)
    refusal(tmp_path / "a.ckpt", state)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("settings"),
        lambda state: state["settings"].pop("images a step"),
        _set("settings", "images a step", to=torch.tensor(2)),
        _set("settings", "training images", to=0),
        _set("settings", to=[1]),
        _set("position", to=torch.ones(2)),
        _set("position", "step", to=None),
        lambda state: state["position"].pop("validated_epochs"),
    ],
)
def test_first_version_of_the_layout_is_looked_at_too(
    change: Callable[[dict[str, Any]], Any], whole: dict[str, Any], tmp_path: Path
) -> None:
    state = copied(whole)
    state["version"] = 1
    state["settings"]["images a step"] = 2
    change(state)
    refusal(tmp_path / "a.ckpt", state)


def _member(change: Callable[[bytes], bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A checkpoint whose pickle was changed."""
    data = io.BytesIO()
    torch.save({"version": 2}, data)
    changed = io.BytesIO()
    with zipfile.ZipFile(data) as archive, zipfile.ZipFile(changed, "w", compression) as new:
        for name in archive.namelist():
            content = archive.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return changed.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02N.", pickle.dumps(None), pickle.dumps({}), pickle.dumps([1]),
        _member(lambda content: b""), _member(lambda content: b"."), _member(lambda content: b"\x80\x02N."),
        _member(lambda content: content[:-3]), _member(lambda content: bytes(100)),
        _member(lambda content: b"]" * (1 << 27) + b".", compression=zipfile.ZIP_DEFLATED),
    ],
    ids=range(14),
)  # fmt: skip
def test_files_of_other_content(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(data)
    assert re.search(r"a\.ckpt: is no ", refusal_of_file(path))
