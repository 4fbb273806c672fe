"""A training that was stopped or killed goes on as if nothing had happened, bit for bit."""

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forking import Ended, Forking, Running
from training_runs import (
    EPOCH_ENDS,
    NETWORK,
    PACKAGED,
    Run,
    assert_same_bits,
    assert_same_outcome,
    contents,
    is_filled,
    leave_out_pictures,
    metrics,
    mistake,
    processes_of,
    run_cli,
    small_config,
    small_options,
    tensors,
    train_here,
    wait_until,
)

from ssd_train.training import checkpoint
from ssd_train.training.checkpoint import read_checkpoint
from ssd_train.training.loop import TrainingResult
from ssd_train.training.run_folder import RunFolder
from ssd_train.training.step import Trainer

pytestmark = pytest.mark.slow  # real trainings, broken off

TrainToTheEnd = Callable[..., Run]


@pytest.fixture(scope="session")
def unbroken_average(shapes: Path, train_to_the_end: TrainToTheEnd, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return train_to_the_end(shapes, tmp_path_factory.mktemp("runs") / "average", ema=True)


def train_silently(dataset: Path, out: Path, **changes: Any) -> tuple[TrainingResult, list[str]]:
    return train_here(small_config(dataset, out, **changes))


def stopped_line(folder: Path, step: int) -> str:
    return f"stopped after step {step}, saved; `ssd-deploy train {folder} --resume` goes on from there"


def is_plain(lines: str) -> bool:
    """Whether standard error has a training's lines and nothing else, such as a traceback or a library's warning."""
    known = (
        "preparing ",
        NETWORK,
        "note: ",
        "warning: lr_decay_epoch 160,200 lies beyond the last of ",
        "goes on after step ",
        "training images as ",
        "epoch ",
        "stopped after step ",
    )
    return all(line.startswith(known) for line in lines.splitlines())


@contextlib.contextmanager
def signalled_in_step(number: int, which: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """Within the block the signal arrives while a step is computed; the one after it can answer."""
    usual = Trainer.step

    def step(self: Trainer, step: int, *arguments: Any, **options: Any) -> Any:
        if step == number:
            signal.raise_signal(which)
        return usual(self, step, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        yield


# --- Stopped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signalled_step", "stopped_after", "first_workers", "then_workers"),
    [
        pytest.param(0, EPOCH_ENDS[0], 0, 0, id="at the end of an epoch"),
        pytest.param(1, 4, 2, 0, id="amid an epoch, then without workers"),
        pytest.param(1, 4, 0, 2, id="amid an epoch, then with workers"),
        pytest.param(3, EPOCH_ENDS[1], 0, 0, id="where a validation is due"),
        pytest.param(5, EPOCH_ENDS[2], 0, 0, id="after the last step"),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_weights_and_metrics(
    unbroken: Run,
    shapes: Path,
    tmp_path: Path,
    signalled_step: int,
    stopped_after: int,
    first_workers: int,
    then_workers: int,
) -> None:
    with signalled_in_step(signalled_step):
        result, lines = train_silently(shapes, tmp_path, workers=first_workers)
        assert multiprocessing.active_children() == []
    assert result.exit_code == 128 + signal.SIGTERM
    assert lines[-1] == stopped_line(tmp_path, stopped_after)
    assert read_checkpoint(tmp_path / "last.ckpt")["position"]["step"] == stopped_after
    assert not (tmp_path / "last.safetensors").exists()

    result, lines = train_silently(shapes, tmp_path, workers=then_workers, resume="auto")
    assert multiprocessing.active_children() == []
    assert result.exit_code == 0
    assert f"goes on after step {stopped_after} (epoch " in "\n".join(lines)
    assert result.best == unbroken.result.best
    assert_same_outcome(tmp_path, unbroken.folder)


def test_a_training_with_negatives_and_balance_goes_on_to_the_same_weights(
    own_shapes: Path, train_to_the_end: Callable[..., Run], tmp_path: Path
) -> None:
    annotations = sorted((own_shapes / "Annotations").glob("shapes0_0*.xml"))[:2]
    for path in annotations:
        text = path.read_text()
        path.write_text(text[: text.index("<object>")] + "</annotation>")
    changes = {"negatives": True, "balance": True, "val_interval": 1}
    whole = train_to_the_end(own_shapes, tmp_path / "whole", **changes)
    assert "note: 2 of 24 images have no objects and train as negatives" in whole.lines
    assert any(line.startswith("note: balance") for line in whole.lines)
    train_to_the_end(own_shapes, tmp_path / "parts", **changes, epochs=1)
    train_to_the_end(own_shapes, tmp_path / "parts", **changes, resume="auto")
    assert_same_outcome(tmp_path / "parts", whole.folder)


def test_the_moving_average_goes_on_too_and_is_what_is_kept(
    unbroken_average: Run, unbroken: Run, shapes: Path, tmp_path: Path
) -> None:
    with signalled_in_step(1, signal.SIGINT):
        result, _ = train_silently(shapes, tmp_path, ema=True)
    assert result.exit_code == 128 + signal.SIGINT
    train_silently(shapes, tmp_path, ema=True, resume="auto")
    assert_same_outcome(tmp_path, unbroken_average.folder)
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    last = tensors(tmp_path / "last.safetensors")
    assert_same_bits(last, dict(checkpoint["average"]))
    # The training itself is the same as without an average.
    assert_same_bits(checkpoint["network"], read_checkpoint(unbroken.folder / "last.ckpt")["network"])
    assert not torch.equal(last["class_predictors.0.predictor.weight"],
                           checkpoint["network"]["class_predictors.0.predictor.weight"])  # fmt: skip


def test_a_finished_training_that_is_resumed_changes_nothing(unbroken: Run, copied: Path, shapes: Path) -> None:
    before = contents(copied)
    torch.manual_seed(5)
    result, lines = train_silently(shapes, copied, resume="auto")
    assert result.exit_code == 0 and result.best == unbroken.result.best
    assert_same_outcome(copied, unbroken.folder)
    assert contents(copied)["last.ckpt"] == before["last.ckpt"]
    assert torch.equal(torch.get_rng_state(), read_checkpoint(copied / "last.ckpt")["random_state"])


def test_a_longer_training_goes_on_from_a_shorter_ones_checkpoint_in_a_new_folder(
    unbroken: Run, shapes: Path, tmp_path: Path
) -> None:
    train_silently(shapes, tmp_path / "short", epochs=2)
    before = contents(tmp_path / "short")
    train_silently(shapes, tmp_path / "long", resume=str(tmp_path / "short" / "last.ckpt"))
    assert contents(tmp_path / "short") == before
    last = [tensors(folder / "last.safetensors") for folder in (tmp_path / "long", unbroken.folder)]
    assert_same_bits(*last)
    assert [line["step"] for line in metrics(tmp_path / "long") if line["kind"] == "step"] == [6, 7]


# --- Killed at a chosen moment --------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends a training where a killed process would end; nobody catches it."""


def is_epoch_line(*arguments: Any) -> bool:
    return arguments[1]["kind"] == "epoch" and arguments[1]["epoch"] == 1


def is_validation_line(*arguments: Any) -> bool:
    return arguments[1]["kind"] == "validation"


def is_second_epochs_checkpoint(*arguments: Any) -> bool:
    position = arguments[1]["position"]
    return position["step"] == EPOCH_ENDS[1] and position["validated_epochs"] == 0


def always(*arguments: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("owner", "method", "is_the_moment", "resumed_step", "validates_first"),
    [
        pytest.param(RunFolder, "append_metrics", is_epoch_line, EPOCH_ENDS[0], False, id="before a checkpoint"),
        pytest.param(
            checkpoint, "write_checkpoint", is_second_epochs_checkpoint, EPOCH_ENDS[1], True, id="before its validation"
        ),
        pytest.param(RunFolder, "append_metrics", is_validation_line, EPOCH_ENDS[1], True, id="amid its validation"),
        pytest.param(RunFolder, "save_last", always, EPOCH_ENDS[2], False, id="at the very end"),
    ],
)
def test_a_training_killed_at_any_moment_goes_on_to_the_same_weights_and_metrics(
    unbroken: Run,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    method: str,
    is_the_moment: Callable[..., bool],
    resumed_step: int,
    validates_first: bool,
) -> None:
    usual = getattr(owner, method)

    def killed_after(*arguments: Any) -> None:
        usual(*arguments)
        if is_the_moment(*arguments):
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, method, killed_after)
        train_silently(shapes, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 3, "epo')
    _, lines = train_silently(shapes, tmp_path, resume="auto")
    place = next(index for index, line in enumerate(lines) if line.startswith(f"goes on after step {resumed_step} "))
    then = lines[place + 1 : place + 2]
    assert any(line.startswith("epoch 2/3: VOC07 mAP") for line in then) == validates_first
    assert_same_outcome(tmp_path, unbroken.folder)


# --- Killed and stopped from outside --------------------------------------------------------------------------


def ended(process: Running) -> Ended:
    """Wait for a process that was told to end; none of those that it started may outlive it."""
    found = process.wait()
    end = time.monotonic() + 30
    while processes_of(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not processes_of(process.pid), "loading processes are left"
    return found


def test_kill_9_before_and_after_the_first_checkpoint_costs_nothing_but_time(
    unbroken: Run, shapes: Path, server: Forking, tmp_path: Path
) -> None:
    options = small_options(shapes, tmp_path, resume="auto")
    process = server.start("train", *options)
    wait_until(lambda: is_filled(tmp_path / "augmented.jpg"), process)
    process.kill()
    assert ended(process).code == 128 + signal.SIGKILL
    assert not (tmp_path / "last.ckpt").exists() and not (tmp_path / "best.safetensors").exists()

    process = server.start("train", *small_options(shapes, tmp_path, resume="auto", workers=2), quick=True)
    wait_until(lambda: is_filled(tmp_path / "last.ckpt"), process)
    process.kill()
    assert ended(process).code == 128 + signal.SIGKILL
    assert EPOCH_ENDS[0] <= read_checkpoint(tmp_path / "last.ckpt")["position"]["step"] < EPOCH_ENDS[2]

    code, output = run_cli("train", *options)
    assert code == 0, output
    assert_same_outcome(tmp_path, unbroken.folder)


def test_sigterm_and_ctrl_c_save_say_so_and_end_with_the_shells_exit_codes(
    unbroken: Run, shapes: Path, server: Forking, tmp_path: Path
) -> None:
    options, long = (small_options(shapes, tmp_path, resume="auto", workers=2, epochs=epochs) for epochs in (3, 40))
    stopped_after = []
    for which, send in ((signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        process = server.start("train", *long, quick=True)
        wait_until(lambda: is_filled(tmp_path / "metrics.jsonl"), process)
        # Ctrl-C reaches the loading processes too, which are needed for the steps up to the checkpoint.
        send(process.pid, which)
        code, printed, errors = ended(process)
        assert code == 128 + which and printed == "" and is_plain(errors), errors
        stopped_after.append(read_checkpoint(tmp_path / "last.ckpt")["position"]["step"])
        assert errors.splitlines()[-1] == stopped_line(tmp_path, stopped_after[-1])
    assert stopped_after[0] < stopped_after[1] <= EPOCH_ENDS[2], "the machine was too slow for this test"
    code, output = run_cli("train", *options)
    assert code == 0, output
    last = [tensors(folder / "last.safetensors") for folder in (tmp_path, unbroken.folder)]
    assert_same_bits(*last)


# --- Not resumed ----------------------------------------------------------------------------------------------


def test_a_folder_that_holds_a_training_is_left_alone_without_resume(copied: Path, shapes: Path) -> None:
    before = contents(copied)
    line = mistake("train", *small_options(shapes, copied, lr=5e-4))
    assert f"`ssd-deploy train {copied} --resume`" in line and "another folder" in line and "--out" in line
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 7}, ("seed 233", "7")),
        ({"freeze": "stages=1"}, ("freeze none", "stages=1")),
        ({"limit": 6}, ("training images 5", "6")),
        ({"classes": "more.txt"}, ("classes", "hexagon")),
        ({"network": "ssd_512_mobilenet1.0_custom"}, (f"network {NETWORK}",)),
        ({"ema": True}, ("ema False", "True")),
        ({"flip": 0.25}, ("flip 0.5", "0.25")),
        ({"balance": True}, ("balance False", "True")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_another_training_is_refused_with_what_differs(
    copied: Path, shapes: Path, tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    (tmp_path / "more.txt").write_text("circle\ncross\nhexagon\nsquare\nstar\ntriangle\n")
    if "classes" in changes:
        changes = {"classes": tmp_path / "more.txt"}
    before = contents(copied)
    line = mistake("train", *small_options(shapes, copied, resume="auto", **changes))
    assert all(word in line for word in words) and "--out" in line
    assert contents(copied) == before


def test_a_checkpoint_of_another_precision_is_refused_too(shapes: Path, tmp_path: Path) -> None:
    # On a CPU the small network does not train in bf16.
    small = {"network": PACKAGED, "limit": 2, "epochs": 1}
    train_silently(shapes, tmp_path, **small)
    before = contents(tmp_path)
    line = mistake("train", *small_options(shapes, tmp_path, resume="auto", amp="bf16", **small))
    assert all(word in line for word in ("amp off", "bf16", "--out"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "no whole checkpoint"),
        (b"hello", "no whole checkpoint"),
        ("first half", "no whole checkpoint"),
        ("weights", "no checkpoint of a training"),
        ("other dict", "--init"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_and_nothing_is_written(
    unbroken: Run, shapes: Path, tmp_path: Path, content: bytes | str | None, words: str
) -> None:
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "first half":
        whole = (unbroken.folder / "last.ckpt").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "weights":
        shutil.copy(unbroken.folder / "last.safetensors", path)
        words = "name a run's last.ckpt"
    elif content == "other dict":
        torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)
    line = mistake("train", *small_options(shapes, tmp_path / "run", resume=path))
    assert str(path) in line and words in line
    assert not (tmp_path / "run").exists()
