"""Whether an engine may run here: its plan, its description, the version of TensorRT, the GPU and its tensors.

Checked before TensorRT sees the plan, as far as that goes: its own answers would be hard to read, or a crash.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from export.engine.file import AGAIN, EngineInfo, read_info
from export.engine.flavours import FLAVOURS
from ssd_train.errors import BackendError, ModelError

if TYPE_CHECKING:
    import tensorrt as trt

# The first compute capability of Ampere, the oldest generation of hardware-compatible and portable engines.
AMPERE = (8, 0)


def read_plan(path: Path) -> tuple[EngineInfo, bytes]:
    """Return an engine's description and its plan; raise ModelError unless they are there and belong together."""
    info = read_info(path)
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if len(plan) != info.size_bytes:
        raise ModelError(
            f"{path}: has {len(plan)} bytes instead of the {info.size_bytes} in its description, so a copy was cut "
            f"short or the two files do not belong together; copy both again, or {AGAIN}"
        )
    if hashlib.sha256(plan).hexdigest() != info.plan_sha256:
        raise ModelError(
            f"{path}: was changed since it was built (its SHA-256 is not the one in its description); copy both files "
            f"again, or {AGAIN}"
        )
    return info, plan


def check_version(path: Path, info: EngineInfo, installed: str) -> None:
    """Raise BackendError where another version of TensorRT built an engine, unless it may run in others."""
    if installed != info.tensorrt_version and not info.options.version_compatible:
        raise BackendError(
            f"{path}: was built by {info.flavour} {info.tensorrt_version} and runs in no other version, but "
            f"{installed} is installed; {AGAIN}, or install {info.flavour}=={info.tensorrt_version}"
        )


def check_gpu(path: Path, info: EngineInfo, name: str, compute_capability: str) -> None:
    """Raise BackendError where an engine was not built for the GPU that is here.

    A card that TensorRT for RTX does not support at all is left for it to refuse, in its own words.
    """
    here = f"this is {name} with compute capability {compute_capability}"
    major, minor = map(int, compute_capability.split("."))
    any_card = FLAVOURS[info.flavour].builds_without_gpu
    if info.options.target_sm:
        if major * 10 + minor not in info.options.target_sm:
            built_for = ", ".join(f"{target // 10}.{target % 10}" for target in info.options.target_sm)
            raise BackendError(
                f"{path}: was built for compute capability {built_for}, but {here}; build it again with target_sm "
                f"{major * 10 + minor}"
            )
    elif any_card or info.options.hardware_compatible:
        if (major, minor) < AMPERE:
            cure = f"with target_sm {major}{minor}" if any_card else "on this GPU"
            raise BackendError(
                f"{path}: runs on Ampere (compute capability 8.0) and later, but {here}; build it again {cure}"
            )
    elif (info.gpu, info.compute_capability) != (name, compute_capability):
        raise BackendError(
            f"{path}: was built on {info.gpu} with compute capability {info.compute_capability} and runs on no other "
            f"GPU, but {here}; build it again here, or there with hardware_compatible"
        )


class EngineTensor(NamedTuple):
    """An input or output as the engine itself describes it; `batches` of an input are the least and the most."""

    is_input: bool
    dtype: str
    shape: tuple[int, ...]
    batches: tuple[int, int] | None


def read_tensors(trt: Any, engine: "trt.ICudaEngine") -> dict[str, EngineTensor]:
    """Return an engine's inputs and outputs by name; apart from their check, whose errors must not hold the engine."""
    tensors = {}
    for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
        is_input, batches = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, None
        if is_input:
            profile = engine.get_tensor_profile_shape(name, 0)
            batches = (int(profile[0][0]), int(profile[2][0]))
        shape = tuple(engine.get_tensor_shape(name)[:])
        tensors[name] = EngineTensor(is_input, engine.get_tensor_dtype(name).name, shape, batches)
    return tensors


def check_tensors(path: Path, info: EngineInfo, tensors: Mapping[str, EngineTensor], outputs: tuple[str, ...]) -> None:
    """Raise ModelError where tensors are not a detector's, or batch sizes not those of `info`."""
    if sorted(tensors) != sorted((info.spec.input.tensor, *outputs)):
        raise ModelError(
            f"{path}: the engine has the tensors {', '.join(sorted(tensors))} instead of {info.spec.input.tensor}, "
            f"{', '.join(outputs)}; {AGAIN}"
        )
    kept = info.spec.postprocess.max_detections
    # Of one image; None where the description does not say (the number of anchors).
    wanted: dict[str, tuple[int | None, ...]] = {
        info.spec.input.tensor: info.spec.image_shape,
        "boxes": (kept, 4),
        "scores": (kept,),
        "labels": (kept,),
        "cls_logits": (None, len(info.spec.class_names) + 1),
        "box_offsets": (None, 4),
    }
    dtypes = {"labels": "INT64", info.spec.input.tensor: "UINT8" if info.spec.input.is_8_bit else "FLOAT"}
    batches = (info.options.min_batch, info.options.max_batch)
    for name, tensor in tensors.items():
        dtype = dtypes.get(name, "FLOAT")
        fits = len(tensor.shape) == len(wanted[name]) + 1 and all(
            size in (None, found) and found > 0 for size, found in zip(wanted[name], tensor.shape[1:], strict=True)
        )
        fits = fits and tensor.shape[0] in (-1, info.options.max_batch)
        if not fits or tensor.dtype != dtype or tensor.is_input != (name == info.spec.input.tensor):
            text = ", ".join("any" if size is None else str(size) for size in wanted[name])
            raise ModelError(
                f"{path}: the engine's {'input' if tensor.is_input else 'output'} {name} is {tensor.dtype} of shape "
                f"{tensor.shape} instead of {dtype} of shape (batch, {text}); {AGAIN}"
            )
        if tensor.batches not in (None, batches):
            raise ModelError(
                f"{path}: the engine takes batches of {tensor.batches} images at least and at most, its description "
                f"says {batches}; {AGAIN}"
            )
