"""Everything that decides a training, as data: checked, written to the run folder, and read back."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd_train.cpus import THREADS_HELP
from ssd_train.datasets.source import DataNames, DataSource
from ssd_train.errors import SSDDeployError
from ssd_train.json_input import JSONError, convert, quoted, read_json, shown
from ssd_train.options import option
from ssd_train.paths import user_path
from ssd_train.pixel_limit import DEFAULT_MAX_PIXELS, MAX_PIXELS_HELP, MOST_PIXELS
from ssd_train.training.augmentation import Augmentation
from ssd_train.training.loggers import find_loggers
from ssd_train.training.recipes import RECIPES

CONFIG_NAME = "config.json"
# Fields that name a file or folder, some of which may be a word instead.
_PATHS = (
    "dataset", "data_root", "annotations", "images", "val_annotations", "val_images", "classes", "resume", "init",
    "pretrained_backbone",
)  # fmt: skip

# Of a text in it: as long as a path may be (PATH_MAX of Linux).
MOST_LETTERS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig(DataNames, Augmentation):
    """One training; the defaults are GluonCV's recipe (Liu et al., SSD, section 3.1, after its schedule).

    `resolve` puts another recipe's values in their place. Each field says itself what it means; those of `DataNames`
    and `Augmentation` are fields here too. `optimizer.learning_rate` has more about the fields of the learning rate,
    `optimizer.MXNetSGD` about momentum and weight decay, `freeze` about the stages of backbones.

    Raises:
        SSDDeployError: a value outside its range, or two that exclude each other.
    """

    network: str = option(dataclasses.MISSING, "Network name; see `ssd-deploy models`.")
    dataset: str | None = option(
        None, "voc, coco, or a folder of your own in a known layout.", names=("--dataset", "--data")
    )
    out: Path = option(dataclasses.MISSING, "Run folder; default runs/<network>.")
    data_shape: int | None = option(None, "Side that the network's square input must have.", least=1)
    negatives: bool = option(False, "Train on images without objects too, as background.")
    balance: bool = option(False, "Show images of rare classes more often (repeat factors of LVIS).")
    batch_size: int = option(32, "Images a step and GPU.", least=1)
    shrink_batch: bool = option(False, "Take smaller batches where the images do not fill one, instead of stopping.")
    test_batch_size: int = option(16, "Images a call in validation.", least=1)
    lr: float = option(1e-3, "Learning rate.", above=0)
    lr_images: int | None = option(
        None,
        "Images a step that lr is for; it is scaled in proportion to those of all GPUs. Without it, or with lr "
        "alone, lr is as it is.",
        least=1,
    )
    lr_mode: str = option("step", "step, or cos (cosine).", choices=("step", "cos", "cosine"))
    lr_decay: float = option(0.1, "Factor at each epoch of lr_decay_epoch.", above=0, most=1)
    lr_decay_epoch: tuple[int, ...] = option((160, 200), "Epochs, counted from 0, that begin with a lower rate.")
    warmup_iters: int = option(0, "Steps over which the rate rises.", least=0)
    warmup_share: float = option(0.0, "The same as a share of all steps; the longer one counts.", least=0, most=1)
    warmup_factor: float = option(0.01, "Share of the rate that it rises from.", least=0, most=1)
    anchor_steps: str = option(
        "auto",
        "gluoncv, even, or auto: GluonCV's unless they leave a part of the input out.",
        choices=("auto", "gluoncv", "even"),
    )
    momentum: float = option(0.9, "Share of the last step that is taken again.", least=0, below=1)
    weight_decay: float = option(5e-4, "Of every parameter.", least=0)
    epochs: int = option(240, "Passes over the training images.", least=1)
    patience: int | None = option(
        None, "Stop at the first validation that comes so many epochs or more after the best one.", least=1
    )
    workers: int = option(
        16, "Processes of one thread each that load images, at most one a core.", names=("-j", "--workers"), least=0
    )
    threads: int = option(0, THREADS_HELP, least=0)
    max_pixels: int = option(DEFAULT_MAX_PIXELS, MAX_PIXELS_HELP, least=1, most=MOST_PIXELS)
    amp: str = option("off", "off, fp16 or bf16: what convolutions compute in.", choices=("off", "fp16", "bf16"))
    ema: bool = option(False, "Validate and keep a moving average of the weights.")
    ema_decay: float = option(0.999, "Share of the average that a step leaves.", least=0, below=1)
    sync_bn: bool = option(False, "Batch norm statistics over all GPUs.")
    compile: bool = option(False, "Run the network through torch.compile.")
    cuda_graphs: bool = option(False, "With compile on one GPU, record the network's passes and replay them.")
    channels_last: bool | None = option(
        None, "Keep tensors in N, H, W, C order; without it on a GPU, and not on a CPU."
    )
    resume: str = option(
        "no", "auto: go on from the run folder's checkpoint, if any; or a checkpoint file. Alone it means auto."
    )
    pretrained_backbone: str = option(
        "auto",
        "auto: GluonCV's ImageNet weights, torchvision's where it has none, or fresh ones where those cannot be had; "
        "required: stop there; torchvision: its weights; none; or a weight file.",
    )
    init: str | None = option(
        None, "Detector to start from: a weight file, a run folder, or shapes (the one that comes with this package)."
    )
    reuse_classes: bool = option(False, "With init, keep predictors of classes of the same name.")
    freeze: str = option(
        "none", "none, backbone, or stages=N: layers of the backbone that stay as they are, from the input on."
    )
    val_interval: int | None = option(None, "Epochs from one validation to the next; default 1, for COCO 10.", least=1)
    # As much as PyTorch's generators take.
    seed: int = option(233, "Of order, augmentation and fresh weights.", least=0, below=2**63)
    log_step: int = option(10, "Steps from one line of metrics.jsonl to the next.", least=1)
    logger: str = option(
        "auto",
        "auto (TensorBoard, if installed), none, or some of tensorboard, mlflow and wandb with commas between.",
    )
    report: bool = option(
        False,
        "At the end write a page about the best weights on the validation images into the run folder; a training that "
        "is stopped writes it when it was resumed and ends.",
    )
    skip_bad_images: bool = option(False, "Go on without images that cannot be read, and count them.")
    device: str = option("auto", "auto, cpu or cuda[:N].")
    gpus: int | None = option(
        None, "Start so many processes with torchrun, one a GPU; under torchrun it says nothing.", least=1
    )
    limit: int | None = option(None, "Train on the first N images only.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("out", *_PATHS):
            if value := getattr(self, name):
                path = user_path(value, arguments=(name,))
                object.__setattr__(self, name, path if isinstance(value, Path) else str(path))
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise SSDDeployError(
                f"device {shown(self.device)}: expected auto, cpu, cuda or cuda:N", arguments=("device",)
            )
        find_loggers(self.logger)
        epochs = self.lr_decay_epoch
        if list(epochs) != sorted(set(epochs)) or any(epoch < 1 for epoch in epochs):
            raise SSDDeployError(
                f"lr_decay_epoch {','.join(map(str, epochs))}: expected ascending epochs from 1",
                arguments=("lr_decay_epoch",),
            )
        if not re.fullmatch(r"none|backbone|stages=[1-9]\d*", self.freeze):
            raise SSDDeployError(
                f"freeze {shown(self.freeze)}: expected none, backbone, or stages=N with N from 1",
                arguments=("freeze",),
            )
        if self.init is not None and self.pretrained_backbone not in ("auto", "none"):
            raise SSDDeployError(
                f"init {self.init} brings a backbone, so pretrained_backbone {self.pretrained_backbone} does not "
                "apply; leave one out",
                arguments=("init", "pretrained_backbone"),
            )
        if self.cuda_graphs and not self.compile:
            raise SSDDeployError(
                "cuda_graphs records what torch.compile makes; add compile, or leave it out",
                arguments=("cuda_graphs", "compile"),
            )
        if self.reuse_classes and self.init is None:
            raise SSDDeployError(
                "reuse_classes takes predictors along from the weights in init; name those too",
                arguments=("reuse_classes", "init"),
            )

    def source(self) -> DataSource:
        """Find the data set. Raises DatasetError."""
        return self.source_of(self.dataset)

    @property
    def augmentation(self) -> Augmentation:
        """The fields of augmentation alone, which every process that loads images gets."""
        return Augmentation(**{name: getattr(self, name) for name in AUGMENTATION_FIELDS})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


AUGMENTATION_FIELDS = tuple(field.name for field in dataclasses.fields(Augmentation))
_DATA_FIELDS = tuple(field.name for field in dataclasses.fields(DataNames))
# In a reader's order: the base classes' fields would come first.
FIELDS = {
    field.name: field
    for field in sorted(
        dataclasses.fields(TrainingConfig),
        key=lambda field: (field.name in AUGMENTATION_FIELDS, field.name in _DATA_FIELDS),
    )
}
TYPES = typing.get_type_hints(TrainingConfig)


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields that a JSON file sets, each with its type checked.

    Raises:
        SSDDeployError: the file cannot be read, is no JSON object, or has an unknown field or a value of
            another type.
    """
    try:
        content = read_json(path)
    except JSONError as error:
        raise SSDDeployError(f"{path}: the configuration {error}; mend it") from error
    if not isinstance(content, dict):
        raise SSDDeployError(f"{path}: holds a {type(content).__name__}; expected an object of options and values")
    unknown = [name for name in content if name not in FIELDS]
    if unknown:
        named = ", ".join(map(shown, unknown[:10]))
        raise SSDDeployError(f"{path}: has the unknown option {named}; known are {', '.join(FIELDS)}")
    return {name: _converted(name, value, path) for name, value in content.items()}


def _converted(name: str, value: Any, path: Path) -> Any:
    """Return a JSON value as the field's type; ranges are checked later, once all values are together."""
    try:
        found = convert(value, TYPES[name])
        if isinstance(found, str | Path) and ("\0" in str(found) or len(str(found)) > MOST_LETTERS):
            raise JSONError(f"expected at most {MOST_LETTERS} letters, and none of them a zero byte")
    except JSONError as error:
        raise SSDDeployError(f"{path}: {name} is {quoted(value)}, {error}; mend it", arguments=(name,)) from error
    return found


def recipe_values(name: str) -> dict[str, Any]:
    """Return what a recipe sets: its own values, and the defaults of what other recipes set.

    Raises:
        SSDDeployError: there is no such recipe.
    """
    chosen = RECIPES.find(name)
    names = {field: None for recipe in RECIPES.values() for field in recipe.values}
    defaults = {field: FIELDS[field].default for field in names}
    known = {field: value for field, value in defaults.items() if value is not dataclasses.MISSING}
    return {**known, **chosen.values}


def resolve(path: Path | None, given: Mapping[str, Any], recipe: str | None = None) -> TrainingConfig:
    """Put a training together: a configuration file's values, over them a recipe's, and over all those given.

    Args:
        path: a file of fields, such as a run's `config.json`; None for none.
        given: fields' values.
        recipe: name of a row of `RECIPES`; None leaves the file's values and the defaults.

    Raises:
        SSDDeployError: as `read_config`, `recipe_values` and `TrainingConfig`; or none names network and data set.
    """
    set_values = recipe_values(recipe) if recipe is not None else {}
    values = {**(read_config(path) if path is not None else {}), **set_values, **given}
    if "lr" in given:
        # A rate that is given is meant as it is.
        values["lr_images"] = given.get("lr_images")
    missing = tuple(name for name in ("network", "dataset") if values.get(name) is None)
    if values.get("annotations") is not None:
        missing = tuple(name for name in missing if name != "dataset")
    if missing:
        raise SSDDeployError(
            f"{' and '.join(missing)} must be given, or an earlier run's {CONFIG_NAME} that names them",
            arguments=missing,
        )
    values.setdefault("out", Path("runs") / values["network"])
    if values.get("device") == "cpu" and "gpus" not in given:
        # A file's processes were for its GPUs.
        values["gpus"] = None
    return TrainingConfig(**values)


def resolve_run(folder: Path, given: Mapping[str, Any], recipe: str | None = None) -> TrainingConfig:
    """Return the configuration of a run folder, an earlier one or a new one.

    Args:
        folder: with `resume="auto"` in `given` the training there goes on with the settings of its `config.json`. It
            may have been moved since.
        given: fields' values, which win over the folder's.
        recipe: as for `resolve`.

    Raises:
        SSDDeployError: a folder without settings, and neither network nor data set are given; or as `resolve`.
    """
    path = folder / CONFIG_NAME
    named = given.keys() | (recipe_values(recipe).keys() if recipe is not None else set())
    if not path.is_file() and not {"network", "dataset"} <= named:
        raise SSDDeployError(
            f"{folder}: holds no training, since there is no {CONFIG_NAME}; name another folder, or network and "
            "dataset for a new training",
            arguments=("network", "dataset"),
        )
    return resolve(path if path.is_file() else None, {"resume": "no", **given, "out": folder}, recipe)
