"""One shipment of the packaged detector of shapes, interrupted in every stage; nobody writes into it."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from shipment import NETWORK, Command, Shipment
from typer.testing import CliRunner

from ssd_deploy.cli import app
from ssd_deploy.ship import run, timing
from ssd_deploy.ship.stages import Stages, Work
from ssd_train.datasets.generated_files import write_shapes


@pytest.fixture(scope="package", autouse=True)
def _cheap(shared_traces: None) -> Iterator[None]:
    """One thread, and one short turn of each in place of five: times are not what is tested."""
    torch.set_num_threads(1)
    quick = dataclasses.replace(timing.SETTINGS, rounds=1, turn_seconds=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SETTINGS", quick)
        patch.setattr(timing, "SETTINGS", quick)
        patch.setitem(timing.time_all.__kwdefaults__, "settings", quick)
        yield


@pytest.fixture(scope="package")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=5, seed=1)


@pytest.fixture(scope="package")
def command(shapes: Path) -> Command:
    """Ship to a folder with further options; returns the exit code, and what was printed."""

    def run_command(out: Path, *options: str, targets: str = "cpu") -> tuple[int, str]:
        words = [
            "ship", NETWORK, "--weights", "shapes", "--data", str(shapes), "--split", "val", "--out", str(out),
            "--targets", targets, "--backend", "onnxruntime:cpu", "--samples", "2", *options,
        ]  # fmt: skip
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run_command


@pytest.fixture(scope="package")
def interrupted(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Shipment:
    """Each stage is done, and the process ends before that is noted; the next run does it again and one more."""
    folder = tmp_path_factory.mktemp("interrupted") / "out"
    carry_out = Stages.run
    stopped: list[str] = []

    def stopping(self: Stages, name: str, inputs: Any, work: Work) -> Any:
        def stopped_once() -> tuple[dict[str, Any], Sequence[Path]]:
            made = work()
            if name not in stopped:
                stopped.append(name)
                raise Stopped(name)
            return made

        return carry_out(self, name, inputs, stopped_once)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "run", stopping)
        while True:
            try:
                code, output = command(folder)
                break
            except Stopped:
                assert not (folder / "certificate.json").exists()
    assert code == 0, output
    return Shipment(folder=folder, stages=tuple(stopped), output=output)


class Stopped(BaseException):
    """As a signal would end it."""


@pytest.fixture(scope="package")
def whole(tmp_path_factory: pytest.TempPathFactory, command: Command) -> Shipment:
    """The same without an interruption."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    code, output = command(folder)
    assert code == 0, output
    return Shipment(folder=folder, stages=(), output=output)
