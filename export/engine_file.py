"""The JSON beside a TensorRT plan: what a runner and a person need to know about it.

The plan itself stays as TensorRT wrote it, so that `trtexec` and Triton load it. No tensorrt is imported here.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from ssd_train.errors import BackendError, ModelError, SpecError
from ssd_train.files import write_json
from ssd_train.spec import DetectorSpec

# Past any GPU; TensorRT itself would take nonsense, or fail with the number of bytes.
MOST_IMAGES = 65536
MOST_WORKSPACE_MIB = 2**24

ENGINE_SUFFIXES = (".engine", ".plan")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built, beside what the ONNX file says.

    Attributes:
        min_batch, opt_batch, max_batch: batch sizes of the one profile: least, tuned for, most.
        allow_tf32: let TensorRT round FP32 products to 10 bits of mantissa.
        workspace_mib: most scratch memory of a layer in MiB; None for all there is.
        optimization_level: 0 (quick build) to 5 (fast engine).
        target_sm: TensorRT for RTX: compute capabilities to build for, as 75 or 120; empty is its
            portable default, Ampere and later.
        version_compatible: TensorRT: later versions of it may load the plan.
        hardware_compatible: TensorRT: every GPU from Ampere on may load the plan.

    Raises:
        BackendError: a value outside its range.
    """

    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 8
    allow_tf32: bool = False
    workspace_mib: int | None = None
    optimization_level: int = 3
    target_sm: tuple[int, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise BackendError(
                f"batch sizes min {self.min_batch}, opt {self.opt_batch}, max {self.max_batch} are not in rising order "
                "from 1; change --min-batch, --opt-batch or --max-batch"
            )
        if self.max_batch > MOST_IMAGES:
            raise BackendError(f"a batch of {self.max_batch} images is not possible; use at most {MOST_IMAGES}")
        if self.workspace_mib is not None and not 1 <= self.workspace_mib <= MOST_WORKSPACE_MIB:
            raise BackendError(
                f"a workspace of {self.workspace_mib} MiB is not possible; use 1 to {MOST_WORKSPACE_MIB}"
            )
        if not 0 <= self.optimization_level <= 5:
            raise BackendError(f"optimization level {self.optimization_level} is not in 0 to 5")
        if len(set(self.target_sm)) < len(self.target_sm):
            raise BackendError(f"target list {', '.join(map(str, self.target_sm))} names one twice")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """An input or output: TensorRT's name of its type, and its shape with -1 for the batch."""

    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Everything known about an engine.

    Attributes:
        flavour: `tensorrt` or `tensorrt-rtx`.
        tensorrt_version: the version that built it, and unless `options` say otherwise the only one that runs it.
        spec: the detector, as in the ONNX file; `precision` is `tf32` where TF32 was allowed.
        options: how it was built, the range of batch sizes included.
        inputs, outputs: tensors by name.
        gpu, compute_capability: the GPU that it was built on, "8.9" for instance; None for TensorRT
            for RTX, which needs none.
        onnx_sha256: SHA-256 of the ONNX file that it was built from.
        plan_sha256: SHA-256 of the plan.
        size_bytes: the plan's size.
        build_seconds: time of the build, without the export to ONNX.
        layer_precisions: number of convolutions of each precision that the engine inspector found;
            None where there was no GPU to read them back on.
        warnings: what TensorRT warned of while it built.
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
    return f"{spec.network}.{spec.precision}.{flavour}.engine"


def write_info(engine: Path, info: EngineInfo) -> None:
    """Write an engine's JSON beside it, atomically."""
    write_json(info_path(engine), dataclasses.asdict(info))


def read_info(engine: Path) -> EngineInfo:
    """Read the JSON beside an engine.

    Raises:
        ModelError: the engine or its JSON is missing, or the JSON was not written by this project.
    """
    path = info_path(engine)
    if not engine.is_file():
        raise ModelError(
            f"{engine}: there is no such engine file; build one with `ssd-deploy export --format tensorrt`"
        )
    if not path.is_file():
        raise ModelError(
            f"{path}: the description of the engine is missing; keep both files together, or build the engine again "
            "with `ssd-deploy export --format tensorrt`"
        )
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        spec = values["spec"]
        values["spec"] = DetectorSpec.from_metadata(_flat(spec), str(path))
        values["options"] = BuildOptions(**values["options"] | {"target_sm": tuple(values["options"]["target_sm"])})
        for key in ("inputs", "outputs"):
            values[key] = {
                name: TensorInfo(dtype=tensor["dtype"], shape=tuple(tensor["shape"]))
                for name, tensor in values[key].items()
            }
        values["warnings"] = tuple(values["warnings"])
        return EngineInfo(**values)
    except (AttributeError, KeyError, TypeError, ValueError, SpecError, BackendError) as error:
        raise ModelError(
            f"{path}: cannot be used as the description of an engine ({type(error).__name__}: {error}); build the "
            "engine again with `ssd-deploy export --format tensorrt`"
        ) from error


def _flat(spec: dict[str, Any]) -> dict[str, str]:
    """A description as nested JSON -> the flat text entries that an ONNX file holds."""
    flat = spec | spec["postprocess"]
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}
