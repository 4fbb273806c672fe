"""The files of a run: whole or absent, and read back only if they are what they claim to be."""

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd_train import files
from ssd_train.errors import SSDDeployError
from ssd_train.networks.build import build_ssd
from ssd_train.networks.zoo import network_config
from ssd_train.training.checkpoint import read_checkpoint, write_checkpoint
from ssd_train.training.checkpoint_layout import Position
from ssd_train.training.run_folder import RunFolder
from ssd_train.weights.weight_file import read_tensors


def state_of(value: float) -> dict[str, Any]:
    """Every kind of thing that a checkpoint has."""
    return {
        "network": {"weight": torch.full((3,), value)},
        "optimizer": {
            "state": {0: {"last_step": torch.ones(2)}},
            "param_groups": [{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "params": [0]}],
        },
        "scaler": {},
        "average": None,
        "position": dataclasses.asdict(Position(step=7, images=7, bad_images=["a", "b"])),
        "settings": {"classes": ["cat"], "seed": 1},
        "random_state": torch.get_rng_state(),
        "cuda_random_state": None,
    }


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new" / "run")
    write_checkpoint(folder.checkpoint_path, state_of(2.5))
    state = read_checkpoint(folder.checkpoint_path)
    assert torch.equal(state["network"]["weight"], torch.full((3,), 2.5))
    assert torch.equal(state["optimizer"]["state"][0]["last_step"], torch.ones(2))
    assert state["average"] is None
    assert Position(**state["position"]) == Position(step=7, images=7, bad_images=["a", "b"])
    assert state["settings"] == {"classes": ["cat"], "seed": 1}
    assert torch.equal(state["random_state"], torch.get_rng_state())
    assert [path.name for path in folder.path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    write_checkpoint(folder.checkpoint_path, state_of(1))
    before = folder.checkpoint_path.read_bytes()

    def full_disk(path: Path, data: memoryview) -> int:
        with path.open("wb") as file:
            file.write(bytes(data[:100]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(SSDDeployError, match=r"last\.ckpt: cannot be written \(No space left on device\)"):
        write_checkpoint(folder.checkpoint_path, state_of(2))
    assert folder.checkpoint_path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_replaced_in_one_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    write_checkpoint(folder.checkpoint_path, state_of(1))

    def killed(source: Path, target: Path) -> None:
        # All is written, nothing is replaced: what a killed process leaves can be read.
        assert torch.load(source, weights_only=True)["network"]["weight"][0] == 2
        assert read_checkpoint(folder.checkpoint_path)["network"]["weight"][0] == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(folder.checkpoint_path, state_of(2))
    assert read_checkpoint(folder.checkpoint_path)["network"]["weight"][0] == 1


class Harmful:
    """Runs code where a file of it is unpickled carelessly."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code of the file was run",))


def saved(value: Any) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no whole checkpoint of a training"),
        (b"not a checkpoint", "is no whole checkpoint of a training"),
        (saved({"version": 1})[:-30], "is no whole checkpoint of a training"),
        (saved(Harmful()), "is no whole checkpoint of a training"),
        (saved({"version": 1, "network": Harmful()}), "is no whole checkpoint of a training"),
        (saved({"features.weight": torch.ones(1)}), "is no checkpoint of a training by this version"),
        (saved({"version": 3}), "is no checkpoint of a training by this version"),
        (saved([1, 2]), "is no checkpoint of a training by this version"),
        (saved(torch.ones(3)), "is no checkpoint of a training by this version"),
    ],
)
def test_other_files_are_refused_in_a_sentence_that_names_the_argument(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(SSDDeployError, match=rf"other\.ckpt: {message}.*last\.ckpt") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)
    assert caught.value.arguments[0] == "resume"


def test_a_safetensors_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.save_last(build_ssd(network_config("ssd_300_mobilenet0.25_custom", ("cat",))))
    with pytest.raises(SSDDeployError, match=r"last\.safetensors: is no .*checkpoint of a training") as caught:
        read_checkpoint(tmp_path / "last.safetensors")
    assert "\n" not in str(caught.value)


def test_a_missing_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SSDDeployError, match=r"missing: the checkpoint cannot be read \(No such file.*last\.ckpt"):
        read_checkpoint(tmp_path / "missing")
    with pytest.raises(SSDDeployError, match="the checkpoint cannot be read"):
        read_checkpoint(tmp_path)


def test_weights_carry_their_class_names(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    network = build_ssd(network_config("ssd_300_mobilenet0.25_custom", ("cat", "dog")))
    folder.save_best(network)
    folder.save_last(network)
    for name in ("best.safetensors", "last.safetensors"):
        file = read_tensors(tmp_path / name)
        assert json.loads(file.metadata["class_names"]) == ["cat", "dog"]
        assert torch.equal(file.tensors["anchors"], network.anchors)


def test_the_configuration_is_plain_json(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").write_config({"lr": 0.1, "lr_decay_epoch": (1, 2)})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"lr": 0.1, "lr_decay_epoch": [1, 2]}


# --- metrics.jsonl ---


def test_without_a_file_there_are_no_metrics(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).read_metrics() == []


def test_lines_come_back_in_order_and_nan_as_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"kind": "step", "step": 1, "loss": 2.5})
    folder.append_metrics({"kind": "epoch", "step": 2, "loss": math.nan, "name": "é"})
    assert folder.read_metrics() == [
        {"kind": "step", "step": 1, "loss": 2.5},
        {"kind": "epoch", "step": 2, "loss": None, "name": "é"},
    ]
    assert "NaN" not in folder.metrics_path.read_text()


@pytest.mark.parametrize("rest", ['{"kind": "step", "st', "{", '{"kind": "step"}', "12", "[]", "\x00\x00", ""])
def test_a_half_written_line_is_ignored(tmp_path: Path, rest: str) -> None:
    folder = RunFolder(tmp_path)
    folder.append_metrics({"step": 1})
    with folder.metrics_path.open("a") as file:
        file.write(rest)
    assert folder.read_metrics() == [{"step": 1}]


def test_a_line_cut_within_a_letter_is_ignored(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics_path.write_bytes(b'{"step": 1}\n{"step": 2, "name": "\xc3')
    assert folder.read_metrics() == [{"step": 1}]


@pytest.mark.parametrize(("step", "kept"), [(-1, []), (0, [0]), (3, [0, 2, 3, 1]), (99, [0, 2, 3, 5, 1])])
def test_lines_of_steps_to_be_taken_again_are_dropped(tmp_path: Path, step: int, kept: list[int]) -> None:
    folder = RunFolder(tmp_path)
    for number in (0, 2, 3, 5, 1):
        folder.append_metrics({"step": number})
    with folder.metrics_path.open("a") as file:
        file.write('{"step": 0, "half')
    folder.keep_metrics_until(step)
    assert [line["step"] for line in folder.read_metrics()] == kept
    # What is added afterwards starts on a line of its own.
    folder.append_metrics({"step": 100})
    assert [line["step"] for line in folder.read_metrics()] == [*kept, 100]


@pytest.mark.parametrize(("with_validation", "kept"), [(True, 4), (False, 3)])
def test_a_validation_that_the_checkpoint_does_not_know_is_dropped(
    tmp_path: Path, with_validation: bool, kept: int
) -> None:
    folder = RunFolder(tmp_path)
    lines = [{"kind": kind, "step": step} for step in (5, 9) for kind in ("epoch", "validation")]
    for line in lines:
        folder.append_metrics(line)
    folder.keep_metrics_until(9, with_validation=with_validation)
    assert folder.read_metrics() == lines[:kept]


def test_metrics_can_be_kept_before_there_are_any(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_metrics_until(5)
    assert folder.read_metrics() == []


def test_metrics_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "missing")
    with pytest.raises(SSDDeployError, match=r"metrics\.jsonl: cannot be written \(No such file"):
        folder.append_metrics({"step": 1})
