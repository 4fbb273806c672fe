"""SIGKILL at every change of a final name and at random: what has a final name is whole, and can be made again."""

import random
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from commands import COMMANDS, Material, assert_whole, files_of
from forking import Forking

KILLED = 137
# More than any of the commands has.
MOST_REPLACES = 40
RANDOM_KILLS = 3


@pytest.mark.parametrize("name", ["detect", "eval", "convert", "info"])
def test_killed_at_each_change_of_a_name(server: Forking, material: Material, out: Path, name: str) -> None:
    arguments = COMMANDS[name].arguments(material, out)
    assert server.run(*arguments).code == 0
    earlier = files_of(out)
    for number in range(MOST_REPLACES):
        for path in earlier:
            (out / path).write_bytes(earlier[path])
        ended = server.run(*arguments, strikes=[("os:replace", number, "SIGKILL", bool(number % 2))])
        for path in earlier:
            assert_whole(path, (out / path).read_bytes())
        if ended.code == 0:
            break
        assert ended.code == KILLED
    assert number > 0, "nothing was killed"
    assert server.run(*arguments).code == 0


def test_a_training_killed_at_each_change_of_a_name_goes_on_to_the_same_weights(
    server: Forking, material: Material, tmp_path: Path
) -> None:
    def arguments(folder: Path) -> list[object]:
        return [*COMMANDS["train"].arguments(material, folder), "--resume", "auto"]

    whole = tmp_path / "whole"
    assert server.run(*arguments(whole), quick=True).code == 0
    # Every second, the others in the next run: a resumed training changes the same names again.
    for number in range(0, MOST_REPLACES, 2):
        folder = tmp_path / f"killed{number}"
        strikes = [("os:replace", number, "SIGKILL", bool(number % 4))]
        ended = server.run(*arguments(folder), quick=True, strikes=strikes)
        if ended.code == 0:
            break
        assert ended.code == KILLED
        for path, content in files_of(folder).items():
            if not Path(path).name.startswith("."):
                assert_whole(path, content)
        ended = server.run(*arguments(folder), quick=True)
        assert ended.code == 0, ended
        assert_same_training(folder, whole)
    assert number >= 6, "too little was killed"


@pytest.mark.parametrize("name", ["detect", "train"])
def test_killed_at_random_moments(server: Forking, material: Material, tmp_path: Path, name: str) -> None:
    folder, rng = tmp_path / "out", random.Random(17)
    extra = ["--resume", "auto"] if name == "train" else []
    arguments = [*COMMANDS[name].arguments(material, folder), *extra]
    whole = tmp_path / "whole"
    started = time.monotonic()
    assert server.run(*COMMANDS[name].arguments(material, whole), quick=True).code == 0
    usual_s = time.monotonic() - started
    for _ in range(RANDOM_KILLS):
        running = server.start(*arguments, quick=True)
        time.sleep(rng.random() * usual_s)
        running.kill()
        running.wait()
        for path, content in files_of(folder).items() if folder.exists() else ():
            if not Path(path).name.startswith("."):
                assert_whole(path, content)
    assert server.run(*arguments, quick=True).code == 0
    if name == "train":
        assert_same_training(folder, whole)
    assert {path.name for path in folder.iterdir()} >= {path.name for path in whole.iterdir()}


def assert_same_training(folder: Path, expected: Path) -> None:
    ours, theirs = (torch.load(path / "last.ckpt", weights_only=True) for path in (folder, expected))
    assert ours["position"] == theirs["position"]
    assert_same_tensors(ours["network"], theirs["network"])
    for name in ("best.safetensors", "last.safetensors"):
        assert_same_tensors(*(safetensors.torch.load_file(path / name) for path in (folder, expected)))
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
