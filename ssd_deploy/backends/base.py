"""The contract that every backend fulfils, and the checks they share.

`tests/deploy/test_backend_contract.py` runs over all of them.
"""

from collections.abc import Set
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ssd_train.detections import PaddedDetections
from ssd_train.errors import BackendError, ModelError
from ssd_train.preprocess import Images
from ssd_train.spec import OUTPUT_NAMES, RAW, RAW_NAMES, DetectorSpec


class RawPredictions(NamedTuple):
    """A network's output before decoding: logits (N, A, C + 1) and offsets (N, A, 4), float32."""

    cls_logits: NDArray[np.float32]
    box_offsets: NDArray[np.float32]


class Runner(Protocol):
    """A detector in one backend.

    Attributes:
        name: backend and where it really runs, for example `onnxruntime (CUDA)`.
        spec: what the detector expects and means.
        max_batch_size: most images a call takes; None where there is no limit.
    """

    name: str
    spec: DetectorSpec
    max_batch_size: int | None

    def run(self, images: Images) -> PaddedDetections:
        """Detect in a batch.

        Args:
            images: N images, at least 1, as `preprocess` makes them: (N, 3, H, W) float32 unless `spec` says otherwise.
                Not modified.

        Returns:
            N images' detections on the CPU, in memory that stays valid after the next call.

        Raises:
            BackendError: dtype, shape or batch size do not fit.
        """
        ...

    def run_raw(self, images: Images) -> RawPredictions:
        """Return what the network predicts before decoding, for parity checks; like `run` otherwise."""
        ...

    def close(self) -> None:
        """Give back what the backend holds; a runner that was closed is not used again. May be called twice."""
        ...


@runtime_checkable
class DeviceTimed(Protocol):
    """A runner that can time its computation on a GPU without the transfers around it.

    Attributes:
        device_clock: what measures, for example `CUDA_EVENTS`; None where this runner uses no GPU, and then
            `device_times_ms` raises BackendError.
    """

    device_clock: str | None

    def device_times_ms(self, images: Images, runs: int) -> list[float]:
        """Return the times of `runs` computations by `device_clock`, in milliseconds.

        A computation is network, decode and NMS, from the input in the GPU's memory to the detections
        there; the first runs may still warm up.
        """
        ...


CUDA_EVENTS = "CUDA events"


def check_model_file(path: Path) -> None:
    """Raise ModelError unless there is such a file."""
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; name the .onnx file in it")
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file; make one with `ssd-deploy export`")


def check_detects(spec: DetectorSpec, name: str) -> None:
    """Raise ModelError where a model gives raw predictions alone; errors call it by `name`."""
    if spec.outputs == RAW:
        raise ModelError(
            f"{name}: gives {' and '.join(RAW_NAMES)} for others to decode, and no detections; name the file that it "
            "was made of"
        )


def check_values(inputs: Set[str], outputs: Set[str], spec: DetectorSpec, name: str) -> None:
    """Raise ModelError unless an ONNX file takes and gives what an exported one does; errors call it by `name`."""
    check_detects(spec, name)
    if inputs != {spec.input.tensor} or not outputs >= set(OUTPUT_NAMES):
        raise ModelError(
            f"{name}: has inputs {sorted(inputs)} and outputs {sorted(outputs)} instead of {spec.input.tensor} -> "
            f"{', '.join(OUTPUT_NAMES)}; export it again with `ssd-deploy export`"
        )


def check_images(images: Images, spec: DetectorSpec, max_batch_size: int | None) -> None:
    """Raise BackendError unless a batch has the dtype, shape and size that a runner takes."""
    if images.dtype != spec.input.dtype or images.shape[1:] != spec.image_shape:
        raise BackendError(
            f"{spec.network} takes {spec.input.dtype} images of shape (N, {', '.join(map(str, spec.image_shape))}), "
            f"but got {images.dtype} of shape {images.shape}"
        )
    count = len(images)
    if count == 0 or (max_batch_size is not None and count > max_batch_size):
        limit = "any number from 1" if max_batch_size is None else f"1 to {max_batch_size}"
        raise BackendError(f"{spec.network}: a batch of {count} images, but this backend takes {limit} a call")


def filled(images: Images, least: int | None) -> Images:
    """Repeat the last image of a batch that is smaller than a model takes: the last of a data set may be."""
    missing = (least or 0) - len(images)
    return images if missing <= 0 else np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
