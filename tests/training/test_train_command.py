"""`ssd-deploy train` and `python -m ssd_train`: options, refusals in one sentence, and what starts without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from training_runs import (
    CLASSES,
    NETWORK,
    Run,
    assert_same_bits,
    contents,
    metrics,
    mistake,
    run_cli,
    small_options,
    tensors,
)
from typer.testing import CliRunner

from ssd_deploy.cli import app

pytestmark = pytest.mark.slow  # processes that train

OPTIONS = (
    "--network", "--dataset", "--data-root", "--data-shape", "--batch-size", "--test-batch-size", "--lr", "--lr-mode",
    "--lr-decay-epoch", "--lr-decay", "--warmup-factor", "--warmup-iters", "--epochs", "-j", "--amp", "--ema",
    "--sync-bn", "--compile", "--channels-last", "--resume", "--pretrained-backbone", "--init", "--reuse-classes",
    "--val-interval", "--seed", "--out", "--log-step", "--skip-bad-images", "--preview", "--gpus", "--config",
)  # fmt: skip
SCRIPT = Path(sys.executable).parent / "ssd-deploy"


def test_help_lists_every_option_and_loads_nothing_heavy() -> None:
    code = """
import contextlib, io, sys
from ssd_deploy.cli import app
with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
    app(["train", "--help"])
print([name for name in ("torch", "torchvision", "numpy", "cv2", "onnxruntime") if name in sys.modules])
print(printed.getvalue())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, *text = done.stdout.splitlines()
    assert heavy == "[]"
    words = "\n".join(text).replace(",", " ").split()
    assert [option for option in OPTIONS if option not in words] == []


def test_the_module_is_the_command() -> None:
    texts = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
        for command in ([SCRIPT, "train"], [sys.executable, "-m", "ssd_train"])
    ]
    options = [[line.split()[0] for line in text.splitlines() if line.startswith("  -")] for text in texts]
    assert len(options[0]) > 40 and options[0] == options[1]


def test_a_mistake_in_the_real_process_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    options = ["--network", NETWORK, "--dataset", tmp_path / "nosuch", "--out", tmp_path / "run"]
    done = subprocess.run([sys.executable, "-m", "ssd_train", *options], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    first, last = done.stderr.splitlines()
    assert first.startswith("preparing ") and last.startswith(f"Error: {tmp_path / 'nosuch'}: neither voc nor coco")


# --- Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 25, "limit": None}, "24 training images do not fill a batch of 25"),
        ({"batch_size": 6}, "5 training images do not fill a batch of 6"),
        ({"batch_size": 1}, "use a batch_size of 2 to 5 (--batch-size)"),
        ({"batch_size": 0}, "'--batch-size': 0 is not 1 or more"),
        ({"network": "ssd_301_mobilenet0.25_custom"}, "ssd_301_mobilenet0.25_custom"),
        ({"network": None}, "network must be given, or an earlier run's config.json that names them (--network)"),
        ({"network": "ssd_300_mobilenet0.25_voc"}, "class"),
        ({"network": "ssd_300_mobilenet0.25_voc", "classes": "FOLDER/shapes.txt"}, "ssd_300_mobilenet0.25_custom"),
        ({"classes": "FOLDER/nosuch.txt"}, "FOLDER/nosuch.txt"),
        ({"data_shape": 512}, "data_shape 512 does not fit"),
        ({"data_shape": 0}, "'--data-shape': 0 is not 1 or more"),
        ({"dataset": "FOLDER/nosuch"}, "FOLDER/nosuch"),
        ({"dataset": "voc", "data_root": "FOLDER/nosuch"}, "FOLDER/nosuch"),
        ({"data_root": "FOLDER"}, "so the folder FOLDER does not apply"),
        ({"train_split": "nosuch"}, "nosuch"),
        ({"val_split": "nosuch"}, "nosuch"),
        ({"lr": 0}, "'--lr': 0.0 is not above 0"),
        ({"lr_decay_epoch": "160,x"}, "'--lr-decay-epoch': '160,x' is not a list of whole numbers"),
        ({"lr_decay_epoch": "200,160"}, "lr_decay_epoch 200,160: expected ascending epochs from 1 (--lr-decay-epoch)"),
        ({"lr_mode": "linear"}, "step or cos or cosine"),
        ({"amp": "fp16"}, "amp fp16 is for GPUs; on a CPU use bf16 or off (--amp)"),
        ({"sync_bn": True}, "sync_bn is for GPUs; leave it out on a CPU (--sync-bn)"),
        ({"reuse_classes": True}, "name those too (--reuse-classes, --init)"),
        ({"init": "FOLDER/nosuch.safetensors"}, "FOLDER/nosuch.safetensors"),
        ({"init": "FOLDER/shapes.txt"}, "FOLDER/shapes.txt"),
        ({"pretrained_backbone": "FOLDER/nosuch.params"}, "FOLDER/nosuch.params"),
        ({"resume": "FOLDER/nosuch.ckpt"}, "FOLDER/nosuch.ckpt"),
        ({"config": "FOLDER/nosuch.json"}, "FOLDER/nosuch.json"),
        ({"config": "FOLDER/other.json"}, "unknown option learning_rate"),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_a_sentence_and_nothing_is_written(
    shapes: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    (tmp_path / "shapes.txt").write_text("\n".join(CLASSES))
    (tmp_path / "four.txt").write_text("\n".join(CLASSES[:4]))
    (tmp_path / "other.json").write_text('{"learning_rate": 1}')
    before = sorted(tmp_path.iterdir())
    placed = {
        name: value.replace("FOLDER", str(tmp_path)) if isinstance(value, str) else value
        for name, value in changes.items()
    }
    line = mistake("train", *small_options(shapes, tmp_path / "run", **placed))
    assert words.replace("FOLDER", str(tmp_path)) in line
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_that_are_not_there_are_a_sentence(shapes: Path, tmp_path: Path) -> None:
    assert "gpus 1: this machine has 0" in mistake("train", *small_options(shapes, tmp_path / "run"), "--gpus", 1)
    line = mistake("train", *small_options(shapes, tmp_path / "run", device="cuda"))
    assert "device cuda: " in line and "(--device)" in line and "--device cuda" not in line, line
    assert not (tmp_path / "run").exists()


# --- What it starts -------------------------------------------------------------------------------------------


def test_preview_writes_the_picture_alone(unbroken: Run, shapes: Path, tmp_path: Path) -> None:
    code, output = run_cli("train", *small_options(shapes, tmp_path / "run"), "--preview")
    assert code == 0 and output.splitlines()[-1] == str(tmp_path / "run" / "augmented.jpg"), output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["augmented.jpg"]
    # The picture that the training writes as well.
    assert (tmp_path / "run" / "augmented.jpg").read_bytes() == (unbroken.folder / "augmented.jpg").read_bytes()
    assert cv2.imread(str(tmp_path / "run" / "augmented.jpg")) is not None


def test_options_win_over_the_configuration_file_beside_them(unbroken: Run, tmp_path: Path) -> None:
    code, output = run_cli(
        "train", "--config", unbroken.folder / "config.json", "--out", tmp_path / "run", "--limit", 2, "--epochs", 1,
        "--lr-decay-epoch", "3, 5", "-j", 1,
    )  # fmt: skip
    assert code == 0, output
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    before = json.loads((unbroken.folder / "config.json").read_text())
    assert written == before | {
        "out": str(tmp_path / "run"), "limit": 2, "epochs": 1, "lr_decay_epoch": [3, 5], "workers": 1,
    }  # fmt: skip
    assert [line["step"] for line in metrics(tmp_path / "run") if line["kind"] == "step"] == [1]


@pytest.mark.parametrize("reuse", [True, False], ids=["reused", "fresh"])
def test_a_network_of_other_classes_is_a_start(unbroken: Run, shapes: Path, tmp_path: Path, reuse: bool) -> None:
    names = ("star", "moon", "circle", "cross", "square", "triangle")
    (tmp_path / "classes.txt").write_text("\n".join(names))
    last = unbroken.folder / "last.safetensors"
    code, output = run_cli(
        "train",
        # A step so small that it changes nothing.
        *small_options(shapes, tmp_path / "run", classes=tmp_path / "classes.txt", init=last, reuse_classes=reuse,
                       limit=2, epochs=1, lr=1e-20),
    )  # fmt: skip
    assert code == 0, output
    words = "star, circle, cross, square, triangle reused, 1 fresh" if reuse else "no class reused, 6 fresh"
    assert f"note: started from {last} (5 classes); class predictors of {words}" in output
    before, after = tensors(last), tensors(tmp_path / "run" / "last.safetensors")
    name = "class_predictors.1.predictor.weight"
    old, new = before[name].unflatten(0, (-1, 1 + 5)), after[name].unflatten(0, (-1, 1 + 6))
    for row, class_name in enumerate(("background", *names)):
        if class_name == "moon":
            continue
        other = 0 if row == 0 else 1 + CLASSES.index(class_name)
        assert torch.equal(new[:, row], old[:, other]) == reuse, class_name
    for name, value in before.items():
        if not name.startswith("class_predictors.") and "running_" not in name and value.is_floating_point():
            assert torch.equal(after[name], value), name


# --- Run folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("RUN", "--resume"), ("--resume", "RUN"), ("RUN", "--resume", "auto")])
def test_a_stopped_training_needs_nothing_but_its_folder_to_go_on(
    unbroken: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    # Data that were named by a path that holds in one folder only.
    monkeypatch.chdir(shapes.parent)
    code, output = run_cli("train", *small_options(Path(shapes.name), tmp_path / "run", epochs=2))
    assert code == 0, output
    (tmp_path / "run").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    more = ("--epochs", 3, "--json", "-")
    code, output = run_cli("train", *("moved" if word == "RUN" else word for word in arguments), *more)
    assert code == 0, output
    assert "goes on after step 5 (epoch 2)" in output
    assert_same_bits(tensors(tmp_path / "moved" / "last.safetensors"), tensors(unbroken.folder / "last.safetensors"))


def test_the_result_is_on_standard_output_and_all_else_on_standard_error(shapes: Path, tmp_path: Path) -> None:
    options = small_options(shapes, tmp_path / "run", limit=2, epochs=1)
    result = CliRunner().invoke(app, ["train", *options, "--json", str(tmp_path / "result.json")])
    assert result.exit_code == 0, result.output
    best, last = (tmp_path / "run" / f"{name}.safetensors" for name in ("best", "last"))
    assert result.stdout == f"weights: {best} (best validation), {last}\n"
    assert "1 steps of 2 images in 1 epochs" in result.stderr
    assert result.stderr.splitlines()[-1] == f"next: ssd-deploy export {tmp_path / 'run'}"
    written = json.loads((tmp_path / "result.json").read_text())
    assert written.pop("best") == metrics(tmp_path / "run")[-1]["best"]
    assert written == {
        "schema_version": 1, "folder": str(tmp_path / "run"), "best_weights": str(best), "last_weights": str(last),
        "finished": True, "report": None,
    }  # fmt: skip


def test_a_new_run_folder_may_stand_first_and_data_is_another_word_for_dataset(shapes: Path, tmp_path: Path) -> None:
    options = small_options(Path("unused"), tmp_path, dataset=None, out=None, limit=2, epochs=1, lr_mode="cosine")
    code, output = run_cli("train", tmp_path / "run", "--data", shapes, *options)
    assert code == 0, output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dataset"] == str(shapes)


def test_an_option_that_is_given_twice_is_refused(shapes: Path, tmp_path: Path) -> None:
    line = mistake("train", *small_options(shapes, tmp_path / "run"), "--lr", 0.1, "--lr", 0.2)
    assert "--lr is given twice" in line
    assert "both name the run folder" in mistake("train", tmp_path / "other", *small_options(shapes, tmp_path / "run"))
    assert "holds no training" in mistake("train", tmp_path / "nosuch", "--resume")
    assert list(tmp_path.iterdir()) == []


# --- Refused before anything is written -----------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was started in the place of this process, on a machine that seems to have two GPUs."""
    commands: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        commands.append(arguments)
        raise SystemExit(0)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "execv", execv)
    return commands


def test_gpus_start_torchrun_with_the_same_options_and_write_nothing(
    shapes: Path, tmp_path: Path, launched: list[list[str]]
) -> None:
    options = [str(value) for value in (*small_options(shapes, tmp_path / "run", crop=None), "--no-crop", "--gpus", 2)]
    assert run_cli("train", *options)[0] == 0
    ((*launcher, count, dash_m, module), arguments) = launched[0][:8], launched[0][8:]
    assert launcher[-1] == "--nproc-per-node" and (count, dash_m, module) == ("2", "-m", "ssd_train")
    pairs = set(zip(options, options[1:], strict=False))
    assert "--no-crop" in arguments and "--gpus" in arguments and ("--lr", "0.001") not in pairs
    assert sorted(arguments) == sorted("--data" if option == "--dataset" else option for option in options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": 3}, "gpus 3: this machine has 2"),
        ({"dataset": "nosuch"}, "nosuch"),
        ({"network": "ssd_301_mobilenet0.25_custom"}, "ssd_301_mobilenet0.25_custom"),
        ({"epochs": 0}, "0 is not 1 or more"),
    ],
)
def test_gpus_start_nothing_where_the_training_cannot_be(
    shapes: Path, tmp_path: Path, launched: list[list[str]], changes: dict[str, Any], words: str
) -> None:
    assert words in mistake("train", *small_options(shapes, tmp_path / "run", **{"gpus": 2, **changes}))
    assert launched == [] and list(tmp_path.iterdir()) == []


def test_gpus_leave_a_folder_alone_that_holds_a_training(copied: Path, shapes: Path, launched: list[list[str]]) -> None:
    # It used to get the new training's options before the refusal.
    before = contents(copied)
    assert "holds a training already" in mistake("train", *small_options(shapes, copied), "--gpus", 2)
    assert contents(copied) == before and launched == []


def test_a_broken_image_among_the_first_is_refused_before_anything_is_written(own_shapes: Path, tmp_path: Path) -> None:
    path = own_shapes / "JPEGImages" / "shapes0_0000001.jpg"
    path.write_bytes(path.read_bytes()[:3000])
    assert str(path) in mistake("train", *small_options(own_shapes, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
