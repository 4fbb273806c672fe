"""How an engine is built, and the JSON beside its plan: what a runner and a person need to know about it.

The plan itself stays as TensorRT wrote it, so that `trtexec` and Triton load it. No tensorrt is imported here.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssd_train.errors import BackendError, ModelError
from ssd_train.files import write_json
from ssd_train.json_input import JSONError, convert, read_json, shown
from ssd_train.options import check_ranges, option
from ssd_train.spec import DetectorSpec, without_usual

# Past any GPU; TensorRT itself would take nonsense, or fail with the number of bytes.
MOST_IMAGES = 65536
MOST_WORKSPACE_MIB = 2**24

ENGINE_SUFFIXES = (".engine", ".plan")

AGAIN = "build the engine again with `ssd-deploy export --format tensorrt`"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built, beside what the ONNX file says.

    Attributes:
        min_batch, opt_batch, max_batch: batch sizes of the one profile; `opt_batch` is a number as soon as this exists.
        strict: decides whether an engine is accepted, not what is built, so that files do not hold it.

    Raises:
        BackendError: a value outside its range, or batch sizes that contradict each other.
    """

    min_batch: int = option(1, "Smallest batch that the engine takes.", least=1, most=MOST_IMAGES)
    opt_batch: int = option(
        None, "Batch that the engine is tuned for; without it the smallest.", least=1, most=MOST_IMAGES
    )
    max_batch: int = option(8, "Largest batch that the engine takes.", least=1, most=MOST_IMAGES)
    allow_tf32: bool = option(False, "Let an engine round FP32 products to 10 bits of mantissa (TF32).")
    workspace_mib: int | None = option(
        None, "Most scratch memory of a layer in MiB; without it all there is.", least=1, most=MOST_WORKSPACE_MIB
    )
    optimization_level: int = option(3, "0, a quick build, to 5, a fast engine.", least=0, most=5)
    target_sm: tuple[int, ...] = option(
        (), "tensorrt-rtx: compute capabilities to build for, such as 75,86,120; without it Ampere and later."
    )
    version_compatible: bool = option(False, "tensorrt: later versions may load the engine.")
    hardware_compatible: bool = option(False, "tensorrt: every GPU from Ampere on may load the engine.")
    strict: bool = option(False, "Refuse an engine whose layers were built in other precisions than asked for.")

    def __post_init__(self) -> None:
        if self.opt_batch is None:
            object.__setattr__(self, "opt_batch", self.min_batch)
        check_ranges(self, BackendError)
        if not self.min_batch <= self.opt_batch <= self.max_batch:
            raise BackendError(
                f"batch sizes min {self.min_batch}, opt {self.opt_batch}, max {self.max_batch} are not in rising order",
                arguments=("min_batch", "opt_batch", "max_batch"),
            )
        if len(set(self.target_sm)) < len(self.target_sm):
            raise BackendError(
                f"target_sm {', '.join(map(str, self.target_sm))} names one twice", arguments=("target_sm",)
            )

    def built_with(self) -> dict[str, Any]:
        """Return what decides what is built, as plain values."""
        values = dataclasses.asdict(self)
        del values["strict"]
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """The card that TensorRT builds on and for.

    Attributes:
        name: as the driver calls it.
        compute_capability: major and minor, "8.9" for instance.
        device_layer: package through which the card is reached.
        current: makes it the one that the calling thread works on, and afterwards the one that was.
    """

    name: str
    compute_capability: str
    device_layer: str
    current: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output: TensorRT's name of its type, and its shape with -1 for the batch."""

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Everything known about an engine.

    Attributes:
        tensorrt_version: the version that built it, and unless `options` say otherwise the only one that runs it.
        spec: the detector, as in the ONNX file; `precision` is `tf32` where TF32 was allowed.
        inputs, outputs: tensors by name.
        gpu, compute_capability: the GPU that it was built on, "8.9" for instance; None for TensorRT
            for RTX, which needs none.
        size_bytes: of the plan.
        build_seconds: time of the build, without the export to ONNX.
        layer_precisions: number of convolutions of each precision that the engine inspector found; None where it was
            not asked or gave no answer.
        warnings: what the layers' precisions give cause to, and what TensorRT warned of while it built.
    """

    flavour: str
    tensorrt_version: str
    spec: DetectorSpec
    options: BuildOptions
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    gpu: str | None
    compute_capability: str | None
    onnx_sha256: str
    plan_sha256: str
    size_bytes: int
    build_seconds: float
    layer_precisions: dict[str, int] | None
    warnings: tuple[str, ...]


def is_engine(path: Path) -> bool:
    """Whether a file is a TensorRT plan, by its name."""
    return path.suffix.lower() in ENGINE_SUFFIXES


def info_path(engine: Path) -> Path:
    """Return the place of an engine's JSON: `x.engine` has `x.engine.json`."""
    return engine.with_name(engine.name + ".json")


def engine_name(spec: DetectorSpec, flavour: str) -> str:
    """Return the file name of an engine, for instance `ssd_300_vgg16_atrous_voc.fp16.tensorrt.engine`."""
    return f"{spec.file_stem}.{flavour}.engine"


def write_info(engine: Path, info: EngineInfo) -> None:
    """Write an engine's JSON beside it, atomically."""
    write_json(info_path(engine), _plain(info))


def read_info(engine: Path) -> EngineInfo:
    """Read the JSON beside an engine; raise ModelError where either is missing, or the JSON not one of ours."""
    path = info_path(engine)
    if not os.path.isfile(engine):  # which takes a name that is too long for one that is not there
        raise ModelError(
            f"{engine}: there is no such engine file; build one with `ssd-deploy export --format tensorrt`"
        )
    if not os.path.isfile(path):
        raise ModelError(f"{path}: the description of the engine is missing; keep both files together, or {AGAIN}")
    try:
        found = read_json(path)
        info: EngineInfo = convert(found, EngineInfo)
    except JSONError as error:
        raise ModelError(f"{path}: cannot be used as the description of an engine ({error}); {AGAIN}") from error
    # msgspec passes over entries that a type does not have, and fills in defaults.
    known = _plain(info)
    foreign = sorted(key for key in found if key not in known or found[key] != known[key])
    if foreign:
        raise ModelError(
            f"{path}: has entries that this version does not know, or lacks some, in "
            f"{', '.join(map(shown, foreign[:10]))}; {AGAIN}"
        )
    return info


def _plain(info: EngineInfo) -> Any:
    """Return a description as JSON holds it."""
    plain = json.loads(json.dumps(dataclasses.asdict(info) | {"options": info.options.built_with()}))
    return plain | {"spec": without_usual(plain["spec"])}
