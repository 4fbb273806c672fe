"""What a training of few images needs: an early end, other batches on resuming, no score where nothing counts."""

import dataclasses
import json
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_loop_interrupted import signalled_in_step
from training_runs import (
    Run,
    assert_same_bits,
    assert_same_outcome,
    contents,
    metrics,
    run_cli,
    small_config,
    small_options,
    tensors,
    train_here,
)

from ssd_train.training import epoch, loop
from ssd_train.training.batches import Key, Stream
from ssd_train.training.checkpoint import read_checkpoint, write_checkpoint
from ssd_train.training.recorder import of_classes

pytestmark = pytest.mark.slow  # real trainings


def scored_as(monkeypatch: pytest.MonkeyPatch, scores: Sequence[float]) -> None:
    """Let validations, by the epoch that they follow, come to these scores."""

    def validate(network: Any, *arguments: Any, **options: Any) -> Any:
        scored = epoch.validate(network, *arguments, **options)
        assert scored is not None
        report, detections = scored
        return dataclasses.replace(report, numbers={**report.numbers, report.headline_name: next(left)}), detections

    left = iter(scores)
    monkeypatch.setattr(loop, "validate", validate)


# --- Patience -------------------------------------------------------------------------------------------------

SCORES = (0.2, 0.5, 0.4, 0.5, 0.3, 0.9)
ENDED = "ends after 4 of 9 epochs: none since epoch 2 was better than its 50.00 % (patience 2)"


@pytest.mark.parametrize("ema", [False, True])
def test_a_training_ends_when_its_patience_does_and_keeps_last_and_best(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: bool
) -> None:
    scored_as(monkeypatch, SCORES)
    changes: dict[str, Any] = {"epochs": 9, "val_interval": 1, "patience": 2, "ema": ema}
    result, lines = train_here(small_config(shapes, tmp_path / "run", **changes))
    assert result.exit_code == 0 and result.best == 0.5
    assert [line for line in lines if line.startswith("ends ")] == [ENDED]
    assert [line["epoch"] for line in metrics(tmp_path / "run") if line["kind"] == "validation"] == [0, 1, 2, 3]
    checkpoint = read_checkpoint(tmp_path / "run" / "last.ckpt")
    last = tensors(tmp_path / "run" / "last.safetensors")
    assert_same_bits(last, dict(checkpoint["average" if ema else "network"]))
    best = tensors(tmp_path / "run" / "best.safetensors")
    assert not torch.equal(best["class_predictors.1.predictor.weight"], last["class_predictors.1.predictor.weight"])

    # Resumed it is still at its end, ...
    before = contents(tmp_path / "run")["last.ckpt"]
    scored_as(monkeypatch, SCORES[4:])
    _, lines = train_here(small_config(shapes, tmp_path / "run", **changes, resume="auto"))
    assert ENDED in lines and contents(tmp_path / "run")["last.ckpt"] == before
    # ... unless it gets more patience.
    result, _ = train_here(
        small_config(shapes, tmp_path / "run", **changes | {"patience": 4, "epochs": 6}, resume="auto")
    )
    assert result.best == 0.9


def test_patience_is_counted_in_epochs_also_where_validations_are_rare(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored_as(monkeypatch, (0.5, 0.4, 0.4, 0.4))
    _, lines = train_here(small_config(shapes, tmp_path, epochs=12, val_interval=2, patience=3))
    assert any(line.startswith("ends after 6 of 12 epochs: none since epoch 2 ") for line in lines)


def test_an_interrupted_training_has_the_same_patience(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"epochs": 9, "val_interval": 1, "patience": 2}
    scored_as(monkeypatch, SCORES)
    train_here(small_config(shapes, tmp_path / "unbroken", **changes))
    scored_as(monkeypatch, SCORES)
    # In the third epoch, so that two validations are done.
    with signalled_in_step(5):
        result, _ = train_here(small_config(shapes, tmp_path / "broken", **changes))
    assert result.exit_code == 128 + signal.SIGTERM
    done = sum(line["kind"] == "validation" for line in metrics(tmp_path / "broken"))
    scored_as(monkeypatch, SCORES[done:])
    train_here(small_config(shapes, tmp_path / "broken", **changes, resume="auto"))
    assert_same_outcome(tmp_path / "broken", tmp_path / "unbroken")


# --- Resumed with other batches ------------------------------------------------------------------------------


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Key]]:
    """The samples that trainings take, without those of the picture."""
    keys: list[Key] = []
    usual = Stream.keys

    def counted(self: Stream, *arguments: Any) -> Iterator[list[Key]]:
        for part in usual(self, *arguments):
            keys.extend(part if self.epochs > 1 else [])
            yield part

    monkeypatch.setattr(Stream, "keys", counted)
    yield keys


@pytest.mark.parametrize("signalled_step", [0, 2], ids=["at the end of an epoch", "amid an epoch"])
def test_a_training_goes_on_with_another_batch_size_at_the_image_where_it_was(
    shapes: Path, tmp_path: Path, taken: list[Key], signalled_step: int
) -> None:
    with signalled_in_step(signalled_step):
        train_here(small_config(shapes, tmp_path, epochs=4))
    steps = read_checkpoint(tmp_path / "last.ckpt")["position"]["step"]
    del taken[2 * steps :]
    result, _ = train_here(small_config(shapes, tmp_path, epochs=4, batch_size=3, resume="auto"))
    assert result.exit_code == 0
    found = list(taken)
    # What does not fill the last batch is left, and nothing comes twice.
    expected = [key for (key,) in Stream(num_samples=5, batch_size=1, epochs=4, seed=233).keys(0)]
    images = 2 * steps + 3 * ((20 - 2 * steps) // 3)
    assert found == expected[:images]
    position = read_checkpoint(tmp_path / "last.ckpt")["position"]
    assert (position["images"], position["epochs"]) == (images, 4)
    written = metrics(tmp_path)
    assert [line["epoch"] for line in written if line["kind"] == "epoch"] == [0, 1, 2, 3]
    assert [line["epoch"] for line in written if line["kind"] == "validation"] == [1, 3]
    numbers = [line["step"] for line in written if line["kind"] == "step"]
    assert numbers == list(range(1, steps + (20 - 2 * steps) // 3 + 1))


def test_an_epoch_that_larger_steps_would_run_past_ends_where_it_is(shapes: Path, tmp_path: Path) -> None:
    with signalled_in_step(1):
        train_here(small_config(shapes, tmp_path, limit=10, epochs=2, val_interval=1))
    assert read_checkpoint(tmp_path / "last.ckpt")["position"]["images"] == 8
    train_here(small_config(shapes, tmp_path, limit=10, epochs=2, val_interval=1, batch_size=5, resume="auto"))
    written = metrics(tmp_path)
    # Images 9 and 10 do not fill a step of 5.
    assert [(line["kind"], line["step"], line["epoch"]) for line in written if line["kind"] != "step"] == [
        ("epoch", 4, 0), ("validation", 4, 0), ("epoch", 6, 1), ("validation", 6, 1),
    ]  # fmt: skip


def test_the_cosine_falls_with_the_images_whatever_the_steps_were(shapes: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"limit": 8, "epochs": 2, "lr_mode": "cos", "val_interval": 2}
    with signalled_in_step(2):
        train_here(small_config(shapes, tmp_path, **changes))
    train_here(small_config(shapes, tmp_path, **changes, batch_size=4, resume="auto"))
    rates = [line["lr"] for line in metrics(tmp_path) if line["kind"] == "step"]
    # 16 images: 4 steps of 2 are half, and 2 of 4 are the rest; the cosine at 0, 1/8, 2/8, 3/8, 4/8 and 6/8.
    expected = [
        0.5e-3 * (1 + float(torch.cos(torch.tensor(torch.pi * share))))
        for share in (0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 6 / 8)
    ]
    assert rates == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("signalled_step", [0, 1, 3])
def test_a_checkpoint_of_version_1_goes_on_to_the_same_weights(
    unbroken: Run, shapes: Path, tmp_path: Path, signalled_step: int
) -> None:
    with signalled_in_step(signalled_step):
        train_here(small_config(shapes, tmp_path))
    state = read_checkpoint(tmp_path / "last.ckpt")
    position = {
        name: value for name, value in state["position"].items() if name not in ("images", "epochs", "best_epochs")
    }
    settings = {name: value for name, value in state["settings"].items() if name != "freeze"} | {"images a step": 2}
    write_checkpoint(tmp_path / "last.ckpt", {**state, "position": position, "settings": settings})
    first = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.save({**first, "version": 1}, tmp_path / "last.ckpt")
    train_here(small_config(shapes, tmp_path, resume="auto"))
    assert_same_outcome(tmp_path, unbroken.folder)


# --- Nothing to find ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("difficult", [True, False], ids=["difficult objects", "no objects"])
def test_without_an_object_in_validation_there_is_no_score_and_the_training_goes_on(
    own_shapes: Path, tmp_path: Path, difficult: bool
) -> None:
    for path in (own_shapes / "Annotations").glob("shapes0_1*.xml"):
        text = path.read_text()
        if difficult:
            text = re.sub(r"<difficult>0</difficult>", "", text).replace(
                "</object>", "<difficult>1</difficult></object>"
            )
        else:
            text = re.sub(r"<object>.*?</object>", "", text, flags=re.DOTALL)
        path.write_text(text)
    code, output = run_cli(
        "train", *small_options(own_shapes, tmp_path / "run", patience=2, epochs=2), "--json", tmp_path / "result.json"
    )
    assert code == 0, output
    lines = output.splitlines()
    (warning,) = [line for line in lines if "none of the 6 validation images has an object that counts" in line]
    assert warning.startswith("warning: ") and "patience 2 does not apply" in warning
    assert lines.index(warning) < next(index for index, line in enumerate(lines) if line.startswith("epoch 1/2"))
    assert f"weights: {tmp_path / 'run' / 'last.safetensors'}" in lines
    assert not (tmp_path / "run" / "best.safetensors").exists()
    assert {line["kind"] for line in metrics(tmp_path / "run")} == {"step", "epoch"}
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["best"] is None and written["best_weights"] is None and written["finished"] is True


# --- Frozen and from the package ------------------------------------------------------------------------------


def test_a_training_from_the_packaged_detector_with_a_frozen_backbone(shapes: Path, tmp_path: Path) -> None:
    options = small_options(shapes, tmp_path / "run", init="shapes", freeze="backbone", epochs=1, ema=True)
    code, output = run_cli("train", *options)
    assert code == 0 and "warning: freeze" not in output, output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init"] == "shapes"
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    code, output = run_cli("train", tmp_path / "run", "--resume", "--epochs", 2)
    assert code == 0, output
    first, then = (tensors(tmp_path / name / "last.safetensors") for name in ("before", "run"))
    for name, value in then.items():
        if name.startswith("features.backbone."):
            assert torch.equal(value, first[name]), name
    assert not torch.equal(first["box_predictors.1.predictor.weight"], then["box_predictors.1.predictor.weight"])


def test_freezing_a_fresh_backbone_is_a_warning(shapes: Path, tmp_path: Path) -> None:
    code, output = run_cli("train", *small_options(shapes, tmp_path / "run", freeze="stages=2", epochs=1))
    assert code == 0 and "warning: freeze stages=2 keeps random weights as they are" in output, output


# --- Classes in the log ---------------------------------------------------------------------------------------


def test_classes_are_told_lowest_first_and_of_many_both_ends() -> None:
    assert of_classes({"cat": 0.5, "dog": 0.125, "cow": float("nan")}) == "dog 12.5, cat 50.0"
    many = of_classes({f"c{number}": number / 100 for number in range(20)})
    assert many == "c0 0.0, c1 1.0, c2 2.0, c3 3.0, ..., c16 16.0, c17 17.0, c18 18.0, c19 19.0"


def test_the_warm_up_may_be_a_share_of_all_steps(shapes: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": 4, "lr_mode": "step", "lr": 0.01, "warmup_factor": 0.0, "warmup_iters": 1}
    train_here(small_config(shapes, tmp_path, limit=10, batch_size=5, warmup_share=0.5, log_step=1, **changes))
    rates = [line["lr"] for line in metrics(tmp_path) if line["kind"] == "step"]
    # Eight steps, half of which rise to the rate.
    assert rates == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01, 0.01])
