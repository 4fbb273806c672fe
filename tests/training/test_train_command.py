"""`ssd-deploy train` and `python -m ssd_train`: options, refusals in one sentence, and what starts without torch."""

import json
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
    metrics,
    mistake,
    run_cli,
    small_options,
    tensors,
)

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
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"Error: --dataset {tmp_path / 'nosuch'}: ")


# --- Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 25, "limit": None}, "24 training images do not fill a batch of 25"),
        ({"batch_size": 6}, "5 training images do not fill a batch of 6"),
        ({"batch_size": 1}, "--batch-size 2 or more"),
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
        ({"network": "ssd_301_mobilenet0.25_custom"}, "ssd_301_mobilenet0.25_custom"),
        ({"network": None}, "--network must be given"),
        ({"network": "ssd_300_mobilenet0.25_voc"}, "class"),
        ({"network": "ssd_300_mobilenet0.25_voc", "classes": "FOLDER/shapes.txt"}, "ssd_300_mobilenet0.25_custom"),
        ({"classes": "FOLDER/four.txt"}, "triangle"),
        ({"classes": "FOLDER/nosuch.txt"}, "FOLDER/nosuch.txt"),
        ({"data_shape": 512}, "--data-shape 512 does not fit"),
        ({"data_shape": 400}, "expected 300 or 512"),
        ({"dataset": "FOLDER/nosuch"}, "FOLDER/nosuch"),
        ({"dataset": "voc", "data_root": "FOLDER/nosuch"}, "FOLDER/nosuch"),
        ({"data_root": "FOLDER"}, "--data-root FOLDER does not apply"),
        ({"train_split": "nosuch"}, "nosuch"),
        ({"val_split": "nosuch"}, "nosuch"),
        ({"lr": 0}, "--lr 0.0: expected above 0"),
        ({"lr_decay_epoch": "160,x"}, "--lr-decay-epoch 160,x"),
        ({"lr_decay_epoch": "200,160"}, "--lr-decay-epoch 200,160: expected ascending"),
        ({"lr_mode": "linear"}, "step or cos"),
        ({"amp": "fp16"}, "--amp fp16 is for GPUs"),
        ({"sync_bn": True}, "--sync-bn is for GPUs"),
        ({"reuse_classes": True}, "--init FILE"),
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
    assert "--gpus 1: this machine has 0" in mistake("train", *small_options(shapes, tmp_path / "run"), "--gpus", 1)
    line = mistake("train", *small_options(shapes, tmp_path / "run", device="cuda"))
    assert "--device cuda" in line
    assert not (tmp_path / "run").exists()


# --- What it starts -------------------------------------------------------------------------------------------


def test_preview_writes_the_picture_alone(unbroken: Run, shapes: Path, tmp_path: Path) -> None:
    code, output = run_cli("train", *small_options(shapes, tmp_path / "run"), "--preview")
    assert code == 0 and output.strip() == str(tmp_path / "run" / "augmented.jpg")
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
