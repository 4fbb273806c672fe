"""Images in, detections in image pixels out, whatever the backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends.base import Runner
from ssd_deploy.requirements import require
from ssd_train.evaluation.detections import Detections
from ssd_train.evaluation.errors import BackendError, ImageError, WeightsError
from ssd_train.evaluation.preprocess import preprocess
from ssd_train.evaluation.spec import DetectorSpec, PostprocessSettings

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

BACKENDS = ("torch", "onnxruntime")


class Detector:
    """A runner with pre-processing in front and image coordinates behind it.

    Args:
        runner: any backend.
        batch_size: images a call of the runner, at most its own limit.

    Attributes:
        runner: the backend.
        spec: what the detector expects and means.
    """

    def __init__(self, runner: Runner, *, batch_size: int = 8) -> None:
        if batch_size < 1:
            raise BackendError(f"a batch size of {batch_size} is not possible; use 1 or more")
        self.runner = runner
        self.batch_size = min(batch_size, runner.max_batch_size or batch_size)

    @property
    def spec(self) -> DetectorSpec:
        return self.runner.spec

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Detect in images of any sizes.

        Args:
            images: RGB uint8 arrays (H, W, 3); an empty list is fine.

        Returns:
            One `Detections` an image, boxes in that image's pixels, not clipped to it.

        Raises:
            ImageError: an array is not RGB uint8 of shape (H, W, 3).
        """
        found: list[Detections] = []
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            inputs = [self._preprocess(start + row, image) for row, image in enumerate(batch)]
            padded = self.runner.run(np.stack(inputs))
            for row, image in enumerate(batch):
                found.append(Detections.from_padded(padded, row, self.spec.input_size, image.shape[:2]))
        return found

    def _preprocess(self, index: int, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return preprocess(image, self.spec)
        except ImageError as error:
            raise ImageError(f"images[{index}]: {error}") from error


def load_detector(
    model: str | Path,
    backend: str = "auto",
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    provider: str = "cpu",
    device: str = "cpu",
    batch_size: int = 8,
    allow_tf32: bool = False,
    settings: PostprocessSettings | None = None,
) -> Detector:
    """Load a detector.

    Args:
        model: an exported `.onnx` file, or a network name such as `ssd_300_vgg16_atrous_voc`.
        backend: `torch`, `onnxruntime`, or `auto`: ONNX Runtime for a file, PyTorch for a network.
        weights: for a network: a weight file, `random[:SEED]`, or None for the published weights.
        classes: class names of a `_custom` network.
        provider: ONNX Runtime's `cpu`, `cuda` or `tensorrt`.
        device: PyTorch's `cpu` or `cuda`.
        batch_size: images a call of the backend.
        allow_tf32: let a GPU compute float32 with TF32 rounding.
        settings: thresholds of a network, GluonCV's where None; an exported file has its own.

    Raises:
        BackendError: no such backend, or it or an option of another one does not fit the model, or it
            does not work here.
        ModelError, NetworkError, WeightsError: the model cannot be loaded.
    """
    is_file = Path(model).suffix.lower() == ".onnx" or Path(model).is_file()
    if backend == "auto":
        backend = "onnxruntime" if is_file else "torch"
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} does not exist; choose {', '.join(BACKENDS)}")
    if backend == "onnxruntime":
        if not is_file:
            raise BackendError(f"{model}: the onnxruntime backend runs a .onnx file; make it with `ssd-deploy export`")
        if weights is not None or classes is not None or settings is not None:
            raise WeightsError(f"{model}: an exported model has its own weights, classes and settings; leave yours out")
        if device != "cpu":
            raise BackendError(f"device {device!r} is for PyTorch; choose ONNX Runtime's provider, such as 'cuda'")
        from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

        runner: Runner = OnnxRuntimeRunner(Path(model), provider=provider, allow_tf32=allow_tf32)
        return Detector(runner, batch_size=batch_size)
    if is_file:
        raise BackendError(f"{model}: the torch backend runs a network and its weights; name them, or use onnxruntime")
    if provider != "cpu":
        raise BackendError(f"provider {provider!r} is for ONNX Runtime; choose PyTorch's device, such as 'cuda'")
    network = load_network(str(model), weights, classes)
    from ssd_deploy.backends.pytorch import TorchRunner

    runner = TorchRunner(network, settings or PostprocessSettings(), device=device, allow_tf32=allow_tf32)
    return Detector(runner, batch_size=batch_size)


def load_network(
    name: str,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    *,
    root: Path | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> SSD:
    """Build a network with the weights a user named; without any it gets the published ones.

    Args:
        name, weights, classes: as for `load_detector`.
        root: where fetched weights are kept; None for the default.
        on_progress: told the bytes of a download, done and in all.

    Raises:
        BackendError: torch is not installed.
        NetworkError, WeightsError: as `ssd_train.build_network`, or the published weights cannot be had.
    """
    _require_torch()
    from ssd_train import build_network

    if weights is None:
        weights = fetch_weights(name, root, on_progress)
    return build_network(name, weights=weights, classes=classes)


def fetch_weights(
    name: str, root: Path | None = None, on_progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Return a network's published weights, converted; they are downloaded where `root` lacks them.

    Raises:
        BackendError: torch, which converts them, is not installed.
        NetworkError: no such network.
        WeightsError: none were published, or they cannot be had.
    """
    _require_torch()
    from ssd_train.networks.zoo import find_network
    from ssd_train.weights import store
    from ssd_train.weights.load import published_weights

    return published_weights(find_network(name), root or store.default_root(), on_progress or store.silent)


def _require_torch() -> None:
    require("torch", "export", "A PyTorch network")
    require("safetensors", "export", "A weight file")
