"""Recipes set values; what the user gives wins, and what a run folder holds stays."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_runs import metrics, run_cli

from ssd_train.errors import SSDDeployError
from ssd_train.training.config import FIELDS, TrainingConfig, resolve, resolve_run
from ssd_train.training.recipes import RECIPES

DATA: dict[str, Any] = {"dataset": "folder"}


def test_every_recipe_makes_a_training_and_gluoncv_s_is_the_defaults() -> None:
    needed = {**DATA, "network": "ssd_300_mobilenet0.25_custom"}
    for name in RECIPES:
        resolve(None, needed, name)
    assert resolve(None, needed, "gluoncv") == resolve(None, needed)
    with pytest.raises(SSDDeployError, match="recipe 'tiny' does not exist; choose gluoncv, small"):
        resolve(None, needed, "tiny")


def test_small_needs_nothing_but_data_and_is_what_was_found_on_blood_cells() -> None:
    config = resolve(None, DATA, "small")
    assert (config.network, config.out) == ("ssd_512_mobilenet0.25_custom", Path("runs/ssd_512_mobilenet0.25_custom"))
    # The values of benchmarks/bccd.py, with a longer warm-up.
    assert (config.batch_size, config.lr, config.lr_mode, config.epochs) == (4, 0.03, "cos", 60)
    assert config.warmup_share == 0.125
    assert (config.max_expansion, config.crop, config.ema) == (1.4, False, True)
    assert config.patience is not None and config.patience < config.epochs
    # Whatever a recipe does not name is as ever.
    for name in FIELDS.keys() - RECIPES["small"].values.keys() - {"network", "dataset", "out"}:
        assert getattr(config, name) == FIELDS[name].default, name


def test_what_is_given_wins_over_the_recipe_and_the_recipe_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**DATA, "network": "ssd_300_vgg16_atrous_custom", "epochs": 9, "seed": 1}))
    config = resolve(path, {"epochs": 5, "network": "ssd_512_resnet50_v1_custom"}, "small")
    assert (config.epochs, config.network, config.seed, config.lr_mode) == (5, "ssd_512_resnet50_v1_custom", 1, "cos")
    assert resolve(path, {}, "small").epochs == 60
    assert resolve(path, {}).epochs == 9


def test_a_rate_that_is_given_is_meant_as_it_is(tmp_path: Path) -> None:
    assert resolve(None, {**DATA, "batch_size": 8}, "small").lr_images == 4
    assert resolve(None, {**DATA, "lr": 0.01}, "small").lr_images is None
    assert resolve(None, {**DATA, "lr": 0.01, "lr_images": 8}, "small").lr_images == 8
    path = tmp_path / "config.json"
    path.write_text(json.dumps(resolve(None, DATA, "small").to_dict()))
    assert resolve(path, {}).lr_images == 4 and resolve(path, {"lr": 0.02}).lr_images is None


def test_a_folder_of_an_earlier_run_keeps_its_values_whatever_recipes_say_today(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolve(None, {**DATA, "out": tmp_path}, "small")
    (tmp_path / "config.json").write_text(json.dumps(before.to_dict()))
    monkeypatch.setitem(RECIPES["small"].values, "lr", 0.5)
    assert resolve_run(tmp_path, {}) == before
    assert resolve_run(tmp_path, {}, "small").lr == 0.5


def test_a_new_run_folder_needs_no_network_where_the_recipe_names_one(tmp_path: Path) -> None:
    assert resolve_run(tmp_path / "new", DATA, "small").out == tmp_path / "new"
    with pytest.raises(SSDDeployError, match="holds no training"):
        resolve_run(tmp_path / "new", DATA, "gluoncv")
    with pytest.raises(SSDDeployError, match="holds no training"):
        resolve_run(tmp_path / "new", {}, "small")


@pytest.mark.slow
def test_small_trains_on_three_pictures_with_what_they_fill(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSD_DEPLOY_ROOT", str(tmp_path / "weights"))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://localhost:9")
    code, output = run_cli(
        "train", "--data", shapes, "--recipe", "small", "--limit", 3, "--epochs", 1, "--device", "cpu", "-j", 0,
        "--log-step", 1, "--warmup-iters", 0,
    )  # fmt: skip
    assert code == 0, output
    assert "a step has 3 images a process and not 4, since there are 3" in output
    # One sentence about the weights that are not there.
    (warning,) = [line for line in output.splitlines() if line.startswith("warning: ")]
    assert "no ImageNet weights of mobilenet0.25 were found" in warning and "random weights" in warning
    folder = tmp_path / "runs" / "ssd_512_mobilenet0.25_custom"
    (step,) = [line for line in metrics(folder) if line["kind"] == "step"]
    # 0.03 for 4 images, in proportion.
    assert step["lr"] == pytest.approx(0.03 * 3 / 4, rel=1e-12)
    written = json.loads((folder / "config.json").read_text())
    assert (written["batch_size"], written["lr"], written["lr_images"], written["epochs"]) == (3, 0.03, 4, 1)
    assert (folder / "best.safetensors").is_file() and (folder / "last.safetensors").is_file()


def test_the_fields_of_recipes_are_fields() -> None:
    assert all(set(recipe.values) <= set(FIELDS) for recipe in RECIPES.values())
    assert TrainingConfig(**{**DATA, "out": Path("a"), **RECIPES["small"].values}).ema
