"""A training's configuration: ranges, its JSON file and back, and what is given over what the file says."""

import json
from pathlib import Path
from typing import Any

import pytest

from ssd_train.errors import SSDDeployError
from ssd_train.options import about
from ssd_train.training.augmentation import Augmentation
from ssd_train.training.config import FIELDS, TrainingConfig, read_config, resolve, resolve_run

NEEDED: dict[str, Any] = {"network": "ssd_300_mobilenet0.25_custom", "dataset": "voc", "out": Path("run")}


def config_of(**values: Any) -> TrainingConfig:
    return TrainingConfig(**{**NEEDED, **values})


def test_the_defaults_are_the_recipe() -> None:
    config = config_of()
    # Spec 7.3.
    assert (config.lr, config.lr_mode, config.lr_decay, config.lr_decay_epoch) == (0.001, "step", 0.1, (160, 200))
    assert (config.momentum, config.weight_decay, config.warmup_iters) == (0.9, 5e-4, 0)
    assert (config.epochs, config.batch_size, config.seed) == (240, 32, 233)
    # Spec 7.5, step 2.
    assert config.max_expansion == 4.0
    assert (config.amp, config.sync_bn, config.ema, config.resume) == ("off", False, False, "no")


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", [0, -1]),
        ("test_batch_size", [0]),
        ("epochs", [0, -240]),
        ("log_step", [0]),
        ("val_interval", [0]),
        ("limit", [0]),
        ("gpus", [0]),
        ("patience", [0]),
        ("lr_images", [0]),
        ("freeze", ["", "all", "stages", "stages=0", "stages=-1", "stages=2.5", "stages="]),
        ("workers", [-1]),
        ("threads", [-1]),
        ("warmup_iters", [-1]),
        # PyTorch's generators take no more.
        ("seed", [-1, 2**63]),
        ("data_shape", [0, -300]),
        ("lr", [0.0, -0.1, NAN, INFINITY]),
        ("max_expansion", [0.99, 0.0, NAN, INFINITY]),
        ("lr_decay", [0.0, 1.01, NAN]),
        ("weight_decay", [-1e-9, NAN, INFINITY]),
        ("warmup_factor", [-0.1, 1.1, NAN]),
        ("momentum", [-0.1, 1.0, NAN]),
        ("ema_decay", [-0.1, 1.0, NAN]),
        ("lr_decay_epoch", [(0,), (200, 160), (160, 160), (-1, 5)]),
        ("lr_mode", ["poly", "", "Step"]),
        ("amp", ["on", "fp32", ""]),
        ("device", ["gpu", "cuda:", "cuda:x"]),
        ("logger", ["", "clearml", "wandb;mlflow", "tensorboard,none"]),
        ("brightness", [-1.0, 256.0, NAN]),
        ("contrast", [-0.1, 1.1]),
        ("saturation", [-0.1, 1.1]),
        ("hue", [-0.1, INFINITY]),
        ("min_crop", [0.0, 1.1]),
        ("max_crop", [0.0, 1.1]),
        ("flip", [-0.1, 1.1, NAN]),
        ("vertical_flip", [-0.1, 1.1]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(SSDDeployError, match=rf"^{name} .*: expected ") as caught:
            config_of(**{name: value})
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f" {shown}: " in str(caught.value) and caught.value.arguments == (name,)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", [1]),
        ("val_interval", [None, 1]),
        ("limit", [None, 1]),
        ("patience", [None, 1]),
        ("lr_images", [None, 1]),
        ("freeze", ["none", "backbone", "stages=1", "stages=12"]),
        ("workers", [0]),
        ("seed", [0, 2**63 - 1]),
        ("data_shape", [None, 300, 512, 640]),
        ("lr", [1e-9, 10.0]),
        ("max_expansion", [1.0]),
        ("lr_decay", [1e-9, 1.0]),
        ("warmup_factor", [0.0, 1.0]),
        ("momentum", [0.0, 0.999]),
        ("weight_decay", [0.0]),
        ("lr_decay_epoch", [(), (1,), (1, 2, 300)]),
        ("lr_mode", ["step", "cos", "cosine"]),
        ("amp", ["off", "fp16", "bf16"]),
        ("device", ["auto", "cpu", "cuda", "cuda:1"]),
        ("logger", ["auto", "none", "tensorboard", "wandb, mlflow"]),
        ("brightness", [0.0, 255.0]),
        ("contrast", [0.0, 1.0]),
        ("hue", [0.0]),
        ("min_crop", [1e-3, 1.0]),
        ("flip", [0.0, 1.0]),
        ("vertical_flip", [0.0, 1.0]),
    ],
)
def test_the_ends_of_the_ranges_are_taken(name: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(config_of(**{name: value}), name) == value


def test_the_smallest_crop_is_not_larger_than_the_largest() -> None:
    with pytest.raises(SSDDeployError, match=r"^min_crop 0\.8 is larger than max_crop 0\.5; swap them$") as caught:
        config_of(min_crop=0.8, max_crop=0.5)
    assert caught.value.arguments == ("min_crop", "max_crop")


def test_the_augmentation_of_a_training_has_its_fields() -> None:
    assert config_of().augmentation == Augmentation()
    changed = config_of(colour=False, max_expansion=2.0, vertical_flip=0.5).augmentation
    assert changed == Augmentation(colour=False, max_expansion=2.0, vertical_flip=0.5)


def test_taking_classes_along_needs_a_file_to_take_them_from() -> None:
    with pytest.raises(SSDDeployError, match="reuse_classes takes predictors along from the weights in init"):
        config_of(reuse_classes=True)
    assert config_of(reuse_classes=True, init="a.safetensors").reuse_classes


# One value for every field, none of them its default.
OTHER: dict[str, Any] = {
    "network": "ssd_300_vgg16_atrous_coco", "dataset": "/data/own", "out": Path("elsewhere"),
    "data_root": Path("/data"), "train_split": "train", "val_split": "val", "classes": Path("classes.txt"),
    "data_shape": 300, "batch_size": 8, "test_batch_size": 4, "lr": 0.01, "lr_mode": "cos", "lr_decay": 0.5,
    "lr_decay_epoch": (3, 5), "warmup_iters": 7, "warmup_factor": 0.1, "momentum": 0.8, "weight_decay": 0.0,
    "epochs": 6, "workers": 0, "amp": "bf16", "ema": True, "ema_decay": 0.99, "sync_bn": True, "compile": True,
    "channels_last": True, "max_expansion": 2.0, "crop": False, "anchor_steps": "even", "resume": "auto",
    "pretrained_backbone": "none", "threads": 2, "max_pixels": 1_000_000,
    "init": "a.safetensors", "shrink_batch": True, "lr_images": 4, "patience": 7, "freeze": "stages=2",
    "reuse_classes": True, "val_interval": 2, "seed": 1, "log_step": 1, "skip_bad_images": True, "device": "cuda",
    "gpus": 2, "limit": 40, "negatives": True, "balance": True, "logger": "none", "warmup_share": 0.1, "val_share": 0.2,
    "annotations": Path("a.json"), "images": Path("i"), "val_annotations": Path("b.json"), "val_images": Path("j"),
    "report": True, "colour": False, "brightness": 8.0, "contrast": 0.25, "saturation": 0.0, "hue": 0.1,
    "cuda_graphs": True, "min_crop": 0.5, "max_crop": 0.75, "flip": 0.0, "vertical_flip": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("values", [NEEDED, OTHER])
def test_a_configuration_comes_back_from_its_json_file(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    config = TrainingConfig(**values)
    path.write_text(json.dumps(config.to_dict()))
    assert resolve(path, {}) == config
    assert type(resolve(path, {}).lr_decay_epoch) is tuple


def test_the_table_above_changes_every_field() -> None:
    assert set(OTHER) == set(FIELDS)
    assert all(OTHER[name] != field.default for name, field in FIELDS.items())


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_given_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {**NEEDED, "out": "run", "lr": 0.5, "epochs": 3, "limit": 9})
    config = resolve(path, {"lr": 0.25, "limit": None})
    assert (config.lr, config.epochs, config.limit, config.out) == (0.25, 3, None, Path("run"))


def test_a_file_may_set_a_few_options_only(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {"epochs": 3})
    config = resolve(path, {"network": "ssd_300_mobilenet0.25_custom", "dataset": "voc"})
    assert (config.epochs, config.batch_size) == (3, 32)


def test_without_an_out_folder_the_run_is_called_by_its_network() -> None:
    config = resolve(None, {"network": "ssd_300_mobilenet0.25_custom", "dataset": "voc"})
    assert config.out == Path("runs/ssd_300_mobilenet0.25_custom")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "^network and dataset must be given"),
        ({"network": "a"}, "^dataset must be given"),
        ({"dataset": "voc", "network": None}, "^network must be given"),
    ],
)
def test_network_and_data_set_must_be_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SSDDeployError, match=message):
        resolve(None, given)


def test_whole_numbers_stand_for_fractions_and_null_for_nothing(tmp_path: Path) -> None:
    values = read_config(write(tmp_path / "c.json", {"lr": 1, "limit": None, "data_root": None, "lr_decay_epoch": []}))
    assert values == {"lr": 1.0, "limit": None, "data_root": None, "lr_decay_epoch": ()}
    assert type(values["lr"]) is float


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "learning_rate": 1}, r"unknown option epoch, learning_rate; known are network, dataset"),
        ({"epochs": "3"}, r"epochs is '3', expected int"),
        ({"epochs": 3.0}, r"epochs is 3\.0, expected int"),
        ({"epochs": True}, r"epochs is True, expected int"),
        ({"epochs": None}, r"epochs is None, expected int"),
        ({"limit": "all"}, r"limit is 'all', expected int"),
        ({"lr": "0.1"}, r"lr is '0\.1', expected float"),
        ({"lr": True}, r"lr is True, expected float"),
        ({"ema": 1}, r"ema is 1, expected bool"),
        ({"ema": "false"}, r"ema is 'false', expected bool"),
        ({"network": 5}, r"network is 5, expected str"),
        ({"out": 5}, r"out is 5, expected Path"),
        ({"init": ["a"]}, r"init is \['a'\], expected str"),
        ({"classes": ["a"]}, r"classes is \['a'\], expected Path"),
        ({"lr_decay_epoch": 160}, r"lr_decay_epoch is 160, expected array, got int; mend it"),
        ({"lr_decay_epoch": "160,200"}, r"lr_decay_epoch is '160,200', expected array, got str"),
        ({"lr_decay_epoch": [160, "200"]}, r"expected int, got str - at \$\[1\]"),
        ({"lr_decay_epoch": [True]}, r"expected int, got bool"),
        ([], "holds a list; expected an object of options and values"),
        ("3", "holds a int; expected an object"),
        ("{", "the configuration is not JSON"),
        ("", "the configuration is not JSON"),
        ("[" * 100_000, "the configuration is not JSON"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(SSDDeployError, match=r"^\S*config\.json: .*" + message):
        read_config(write(tmp_path / "config.json", content))


def test_bytes_that_are_no_text_and_a_missing_file_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SSDDeployError, match=r"missing\.json: the configuration cannot be read \(No such file"):
        read_config(tmp_path / "missing.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SSDDeployError, match=r"config\.json: the configuration is not JSON"):
        read_config(tmp_path / "config.json")


def test_ranges_hold_for_values_from_a_file_too(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {**NEEDED, "out": "run", "lr": -1})
    with pytest.raises(SSDDeployError, match=r"^lr -1\.0: expected above 0"):
        resolve(path, {})


def test_every_field_says_what_it_means() -> None:
    told = {name: about(field) for name, field in FIELDS.items()}
    assert [name for name, known in told.items() if known is None or not known.help.endswith(".")] == []


# --- Run folders ---


def test_a_run_folder_brings_its_settings_wherever_it_lies_and_what_is_given_wins(tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    write(
        tmp_path / "moved" / "config.json", {**NEEDED, "out": "elsewhere", "lr": 0.5, "epochs": 3, "resume": "a.ckpt"}
    )
    config = resolve_run(tmp_path / "moved", {"epochs": 9, "resume": "auto"})
    assert (config.out, config.lr, config.epochs, config.resume) == (tmp_path / "moved", 0.5, 9, "auto")
    # How that training began is not how another one does.
    assert resolve_run(tmp_path / "moved", {}).resume == "no"


def test_a_new_run_folder_needs_a_network_and_a_data_set(tmp_path: Path) -> None:
    given = {"network": "ssd_300_mobilenet0.25_custom", "dataset": "voc"}
    assert resolve_run(tmp_path / "new", given).out == tmp_path / "new"
    with pytest.raises(SSDDeployError, match=r"new: holds no training, since there is no config\.json"):
        resolve_run(tmp_path / "new", {"network": "ssd_300_mobilenet0.25_custom", "resume": "auto"})


def test_the_processes_of_a_file_are_for_gpus(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {**NEEDED, "out": "run", "gpus": 4})
    assert [resolve(path, given).gpus for given in ({}, {"gpus": 2}, {"device": "cpu"})] == [4, 2, None]
