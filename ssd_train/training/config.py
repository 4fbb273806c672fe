"""Everything that decides a training, as data: checked, written to the run folder, and read back."""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd_train.errors import SSDDeployError

AMP_MODES = ("off", "fp16", "bf16")
LR_MODES = ("step", "cos")
DEVICES = ("auto", "cpu", "cuda")
ANCHOR_STEPS = ("auto", "gluoncv", "even")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """One training; the defaults are GluonCV's recipe (Liu et al., SSD, section 3.1, after its schedule).

    Attributes:
        network: configuration name, a `_custom` one for classes of one's own.
        dataset: a layout, such as `voc`, or a folder in one, see `layouts.find_source`.
        out: the run folder.
        data_root: the folder of `voc` or `coco`; None for `~/.torch/datasets/<dataset>`.
        train_split, val_split: None for the published trainings' own.
        classes: file with the class list of a `_custom` network; None to take the data set's.
        data_shape: input size that the network must have; None for any.
        batch_size: images a step and process.
        test_batch_size: images a call in validation.
        lr, lr_mode, lr_decay, lr_decay_epoch, warmup_iters, warmup_factor: see `optimizer.learning_rate`.
        anchor_steps: where the cells of anchors lie: `gluoncv`, as in its preset; `even`, over the whole input; or
            `auto`, which is GluonCV's unless they leave a part of the input without anchors.
        crop: train on random parts of the images; without it a training is shorter, where images are plenty.
        max_expansion: see `augment.sample_geometry`; less than 4 suits networks whose anchors are not for the
            tiny objects that it makes.
        momentum, weight_decay: see `optimizer.MXNetSGD`.
        epochs: passes over the training images.
        workers: processes that load images, at most one a core.
        amp: `off`, or the type that convolutions compute in under torch.autocast.
        ema: validate and keep an exponential moving average of the weights.
        ema_decay: share of the average that a step leaves.
        sync_bn: batch norm statistics over all processes; GPUs only.
        compile: run the network through torch.compile.
        channels_last: keep tensors in N, H, W, C order.
        resume: `no`, `auto` (the run folder's last checkpoint, if there is one), or a checkpoint file.
        pretrained_backbone: `auto` (GluonCV's ImageNet weights where they were published), `none`, or a file.
        init: weights of the same network for other or equal classes to start from, a file; None for none.
        reuse_classes: with `init`, take the predictors of classes of the same name along.
        val_interval: epochs from one validation to the next; None for the layout's.
        seed: of order, augmentation and initial weights.
        log_step: steps from one line of `metrics.jsonl` to the next.
        skip_bad_images: go on without images that cannot be read, and count them.
        device: `auto` is the GPU where there is one.
        limit: train on the first so many images only; None for all.

    Raises:
        SSDDeployError: a value outside its range.
    """

    network: str
    dataset: str
    out: Path
    data_root: Path | None = None
    train_split: str | None = None
    val_split: str | None = None
    classes: Path | None = None
    data_shape: int | None = None
    batch_size: int = 32
    test_batch_size: int = 16
    lr: float = 1e-3
    lr_mode: str = "step"
    lr_decay: float = 0.1
    lr_decay_epoch: tuple[int, ...] = (160, 200)
    warmup_iters: int = 0
    warmup_factor: float = 0.01
    anchor_steps: str = "auto"
    max_expansion: float = 4.0
    crop: bool = True
    momentum: float = 0.9
    weight_decay: float = 5e-4
    epochs: int = 240
    workers: int = 16
    amp: str = "off"
    ema: bool = False
    ema_decay: float = 0.999
    sync_bn: bool = False
    compile: bool = False
    channels_last: bool = False
    resume: str = "no"
    pretrained_backbone: str = "auto"
    init: Path | None = None
    reuse_classes: bool = False
    val_interval: int | None = None
    seed: int = 233
    log_step: int = 10
    skip_bad_images: bool = False
    device: str = "auto"
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "test_batch_size", "epochs", "log_step", "val_interval", "limit"):
            self._check(name, lambda value: value is None or value >= 1, "1 or more")
        for name in ("workers", "warmup_iters"):
            self._check(name, lambda value: value >= 0, "0 or more")
        # What PyTorch's generators take.
        self._check("seed", lambda value: 0 <= value < 2**63, "from 0 to below 2**63")
        self._check("data_shape", lambda value: value in (None, 300, 512), "300 or 512")
        self._check("lr", lambda value: 0 < value < math.inf, "above 0")
        self._check("weight_decay", lambda value: 0 <= value < math.inf, "0 or more")
        self._check("max_expansion", lambda value: 1 <= value < math.inf, "1 or more")
        self._check("lr_decay", lambda value: 0 < value <= 1, "above 0, to 1")
        self._check("warmup_factor", lambda value: 0 <= value <= 1, "from 0 to 1")
        for name in ("momentum", "ema_decay"):
            self._check(name, lambda value: 0 <= value < 1, "from 0 to below 1")
        epochs = self.lr_decay_epoch
        self._check(
            "lr_decay_epoch",
            lambda _: all(epoch >= 1 for epoch in epochs) and list(epochs) == sorted(set(epochs)),
            "ascending epochs from 1",
        )
        for name, choices in (
            ("lr_mode", LR_MODES),
            ("amp", AMP_MODES),
            ("device", DEVICES),
            ("anchor_steps", ANCHOR_STEPS),
        ):
            self._check(name, lambda value, choices=choices: value in choices, " or ".join(choices))
        if self.init is not None and self.pretrained_backbone not in ("auto", "none"):
            raise SSDDeployError(
                f"--init {self.init} brings a backbone, so --pretrained-backbone {self.pretrained_backbone} does not "
                "apply; leave one out"
            )
        if self.reuse_classes and self.init is None:
            raise SSDDeployError("--reuse-classes takes predictors along from --init FILE; name that too")

    def _check(self, name: str, is_valid: Any, expected: str) -> None:
        value = getattr(self, name)
        if not is_valid(value):
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise SSDDeployError(f"{option_name(name)} {shown}: expected {expected}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


FIELDS = {field.name: field for field in dataclasses.fields(TrainingConfig)}
_TYPES = typing.get_type_hints(TrainingConfig)


def option_name(field: str) -> str:
    """Return the command line's name of a field."""
    return f"--{field.replace('_', '-')}"


def read_config(path: Path) -> dict[str, Any]:
    """Read the fields that a JSON file sets, each with its type checked.

    Raises:
        SSDDeployError: the file cannot be read, is no JSON object, or has an unknown field or a value of
            another type.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise SSDDeployError(f"{path}: the configuration cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise SSDDeployError(f"{path}: the configuration is not JSON ({error}); mend it") from error
    if not isinstance(content, dict):
        raise SSDDeployError(f"{path}: holds a {type(content).__name__}; expected an object of options and values")
    unknown = [name for name in content if name not in FIELDS]
    if unknown:
        raise SSDDeployError(f"{path}: has the unknown option {', '.join(unknown)}; known are {', '.join(FIELDS)}")
    return {name: _converted(name, value, path) for name, value in content.items()}


def _converted(name: str, value: Any, path: Path) -> Any:
    """Return a JSON value as the field's type."""
    kinds = typing.get_args(_TYPES[name]) if isinstance(_TYPES[name], types.UnionType) else (_TYPES[name],)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if typing.get_origin(kind) is tuple:
        if isinstance(value, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return tuple(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    expected = "a list of whole numbers" if typing.get_origin(kind) is tuple else kind.__name__
    raise SSDDeployError(f"{path}: {name} is {value!r}, expected {expected}; mend it")


def resolve(path: Path | None, given: Mapping[str, Any]) -> TrainingConfig:
    """Put a training together: a configuration file's values, and over them what was given on the command line.

    Raises:
        SSDDeployError: as `read_config` and `TrainingConfig`; or neither names network and data set.
    """
    values = {**(read_config(path) if path is not None else {}), **given}
    missing = [option_name(name) for name in ("network", "dataset") if values.get(name) is None]
    if missing:
        raise SSDDeployError(f"{' and '.join(missing)} must be given, or --config FILE of an earlier run")
    values.setdefault("out", Path("runs") / values["network"])
    return TrainingConfig(**values)
