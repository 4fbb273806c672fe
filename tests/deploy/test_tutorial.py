"""The tutorial's commands, one after the other as they stand, on a few generated pictures in place of BCCD's."""

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from kserve_server import serving
from typer.testing import CliRunner

from ssd_deploy.cli import app
from ssd_deploy.ship import run, timing
from ssd_train.datasets.generated_files import write_shapes

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"

# What a few pictures need; a shipment with other targets, engines for one, is tested by itself.
ADDED = {"train": "--init shapes --epochs 1 --batch-size 2 --lr 1e-5 --workers 0", "ship": "--samples 2 --max-drop 100"}
REPLACED = {"cpu,onnx,tensorrt-rtx:89,": "onnx,", "ssd_512_": "ssd_300_"}

# `check` finds that the data of the page lose objects; those of the test lose none.
EXIT_CODES = {"check": 0}


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("ssd-deploy ")]
    for old, new in REPLACED.items():
        assert any(old in line for line in lines), old
        lines = [line.replace(old, new) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `BCCD`, all splits and the picture that the page names."""
    data = write_shapes(tmp_path / "BCCD", train=4, val=4, seed=1)
    lists = data / "ImageSets" / "Main"
    shutil.copy(lists / "val.txt", lists / "test.txt")
    one = next((data / "JPEGImages").glob("*.jpg"))
    shutil.copy(one, data / "JPEGImages" / "BloodImage_00015.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def _quick(shared_traces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and one short turn of each: times are not what is tested."""
    torch.set_num_threads(1)
    settings = dataclasses.replace(timing.SETTINGS, rounds=1, turn_seconds=0)
    for module in (run, timing):
        monkeypatch.setattr(module, "SETTINGS", settings)
    monkeypatch.setitem(timing.time_all.__kwdefaults__, "settings", settings)


@pytest.fixture
def served(work: Path) -> Iterator[object]:
    """Starts the stand-in for Triton when the repository is there; returns words with its address in them."""
    running = []

    def words(line: list[str]) -> list[str]:
        if not any("localhost:8000" in word for word in line):
            return line
        if not running:
            (model,) = (work / "shipped" / "triton").iterdir()
            context = serving(model)
            running.append((context, context.__enter__()))
        host = running[0][1].removeprefix("http://").partition("/")[0]
        return [word.replace("localhost:8000", host) for word in line]

    yield words
    for context, _ in running:
        context.__exit__(None, None, None)


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(work: Path, _quick: None, served) -> None:
    for line in commands():
        name, *_ = line
        words = [*served(line), *shlex.split(ADDED.get(name, ""))]
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == EXIT_CODES.get(name, 0), f"{words}\n{result.output}"
    assert json.loads((work / "shipped" / "certificate.json").read_text())["verdict"] == "PASS"
    for made in ("report/report.html", "shipped/certificate.html", "found/detections.json", "served/detections.json"):
        assert (work / made).is_file(), made
    # The served model found what the page's other command found with the file of another precision.
    found, theirs = (json.loads((work / name / "detections.json").read_text()) for name in ("found", "served"))
    assert len(found["images"][0]["detections"]) == len(theirs["images"][0]["detections"]) > 0
