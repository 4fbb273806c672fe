"""Loggers: the real packages write into the run folder, a resumed run is one run, and a fault costs no training."""

import importlib.util
import json
import logging
import resource
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import FILES, PICTURES, Run, metrics, mistake, small_options

from ssd_train.errors import OwnPartError, SSDDeployError
from ssd_train.training import loggers
from ssd_train.training.loggers import IDS_NAME, LOGGERS, LoggedRun, Logger, Loggers, find_loggers

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY")
SETTINGS = {"lr": 0.01, "lr_decay_epoch": (1, 2), "init": None}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # No login of whoever runs the tests.
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def run_of(folder: Path, step: int = 0) -> LoggedRun:
    folder.mkdir(exist_ok=True)
    return LoggedRun(folder=folder, settings=SETTINGS, step=step)


def log_in_two_parts(name: str, folder: Path) -> None:
    """Log steps 1 and 2, and in a training that goes on step 3."""
    first = Loggers(name, run_of(folder))
    first.log({"step/cls_loss": 4.5}, 1)
    first.log({"step/cls_loss": 3.5}, 2)
    first.log({"validation/AP @ 50 %": 0.25}, 2)
    first.close()
    second = Loggers(name, run_of(folder, step=2))
    second.log({"step/cls_loss": 2.5}, 3)
    second.close()


def test_tensorboard_goes_on_in_its_folder(tmp_path: Path) -> None:
    log_in_two_parts("tensorboard", tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("step/cls_loss")] == [(1, 4.5), (2, 3.5), (3, 2.5)]
    assert not (tmp_path / "run" / IDS_NAME).exists()


def test_mlflow_writes_one_run_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in_two_parts("mlflow", tmp_path / "run")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("ssd-deploy")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "run" and found.info.status == "FINISHED"
    assert found.data.params == {"lr": "0.01", "lr_decay_epoch": "(1, 2)", "init": "None"}
    history = client.get_metric_history(found.info.run_id, "step/cls_loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 4.5), (2, 3.5), (3, 2.5)]
    assert found.data.metrics["validation/AP _ 50 _"] == 0.25
    assert json.loads((tmp_path / "run" / IDS_NAME).read_text()) == {"mlflow": found.info.run_id}


def test_mlflow_takes_the_store_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "shared").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    opened = Loggers("mlflow", run_of(tmp_path / "run"))
    opened.close()
    assert (tmp_path / "shared").is_dir() and not (tmp_path / "run" / "mlruns").exists()


def wandb_records(path: Path) -> list[Any]:
    """Read a file of wandb's: LevelDB's log of protocol buffers, in blocks of 32 KiB behind a head of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


@pytest.mark.slow
def test_wandb_without_a_login_writes_one_run_into_the_folder(tmp_path: Path) -> None:
    log_in_two_parts("wandb", tmp_path / "run")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    records = [record for path in files for record in wandb_records(path)]
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert len(files) == 2 and {run.display_name for run in runs} == {"run"}
    (run_id,) = {run.run_id for run in runs}
    assert json.loads((tmp_path / "run" / IDS_NAME).read_text()) == {"wandb": run_id}
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert (config["lr"], config["lr_decay_epoch"], config["init"]) == (0.01, [1, 2], None)
    rows = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["_step"], row["step/cls_loss"]) for row in rows] == [(1, 4.5), (2, 3.5), (3, 2.5)]
    assert rows[1]["validation/AP @ 50 %"] == 0.25


def test_wandb_may_be_switched_off_by_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log_in_two_parts("wandb", tmp_path / "run")
    assert not list(tmp_path.rglob("*.wandb"))


# --- choice ---


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("none", []),
        ("auto", ["tensorboard"]),
        ("wandb", ["wandb"]),
        ("mlflow, tensorboard,mlflow", ["mlflow", "tensorboard"]),
    ],
)
def test_loggers_are_found_by_name(asked: str, expected: list[str]) -> None:
    assert [logger.name for logger in find_loggers(asked)] == expected


def test_without_tensorboard_auto_is_none_and_a_name_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find_loggers("auto") == ()
    loggers.check_loggers("auto")
    for name in LOGGERS:
        with pytest.raises(
            SSDDeployError, match=rf"The logger {name} needs {name}.*pip install 'ssd-deploy\["
        ) as caught:
            loggers.check_loggers(name)
        assert f"[{LOGGERS[name].extra}]" in str(caught.value)


def test_an_unknown_logger_is_a_sentence_that_names_the_option(shapes: Path, tmp_path: Path) -> None:
    line = mistake("train", *small_options(shapes, tmp_path / "run", logger="clearml"))
    assert "expected auto, none, or some of tensorboard, mlflow, wandb" in line and "--logger" in line
    assert not (tmp_path / "run").exists()


# --- faults ---


class Faulty:
    """Takes so many calls of `log`, and is full afterwards."""

    run_id = None

    def __init__(self, takes: int) -> None:
        self.takes, self.logged, self.closed = takes, [], 0  # type: ignore[var-annotated]

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if len(self.logged) == self.takes:
            raise OSError(28, "No space left on device")
        self.logged.append((step, dict(numbers)))

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """A logger beside the others that fails at the third call."""
    opened = Faulty(takes=2)
    row = Logger(name="faulty", package="json", extra="train", open=lambda run, run_id: opened)
    monkeypatch.setitem(LOGGERS._rows, "faulty", row)
    return opened


def test_a_logger_that_fails_is_left_out_with_one_warning(
    faulty: Faulty, train_to_the_end: Callable[..., Run], shapes: Path, tmp_path: Path
) -> None:
    run = train_to_the_end(shapes, tmp_path / "run", logger="faulty,tensorboard")
    assert run.result.exit_code == 0
    told = [line for line in run.lines if "faulty" in line]
    assert told == [
        "warning: the logger faulty failed and gets nothing more ([Errno 28] No space left on device); "
        "metrics.jsonl has all numbers"
    ]
    assert [step for step, _ in faulty.logged] == [1, 2] and not faulty.closed
    lines = metrics(run.folder)
    assert faulty.logged[0][1]["step/cls_loss"] == lines[0]["cls_loss"]
    # The others get everything.
    board = EventAccumulator(str(run.folder / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("step/cls_loss")] == list(range(1, 8))
    assert {path.name for path in run.folder.iterdir()} == FILES - PICTURES


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_under_tensorboard_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    opened = Loggers("tensorboard", run_of(tmp_path / "run"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        for step in range(200):
            opened.log({"step/cls_loss": 1.0}, step)
        opened.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (message,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert message.startswith("the logger tensorboard failed and gets nothing more ([Errno 27] File too large)")


def test_a_logger_that_cannot_be_opened_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(run: LoggedRun, run_id: str | None) -> Faulty:
        raise ConnectionError("no answer\nand much more")

    monkeypatch.setitem(LOGGERS._rows, "far", Logger(name="far", package="json", extra="train", open=refused))
    with pytest.raises(OwnPartError, match=r"^the logger far cannot be opened \(no answer\); mend that") as caught:
        Loggers("far", run_of(tmp_path / "run"))
    assert caught.value.arguments == ("logger",)


def test_no_logger_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_in_two_parts("none", tmp_path / "run")
    assert not list((tmp_path / "run").iterdir()) and not caplog.messages
