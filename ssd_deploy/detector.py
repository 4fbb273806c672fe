"""Images in, detections in image pixels out, whatever the backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from export.engine.file import is_engine, read_info
from export.engine.flavours import FLAVOURS
from ssd_deploy.backends import RunOptions
from ssd_deploy.backends.base import Runner
from ssd_train.detections import Detections
from ssd_train.errors import BackendError, ImageError, WeightsError
from ssd_train.preprocess import preprocess
from ssd_train.requirements import require
from ssd_train.spec import DetectorSpec, PostprocessSettings

if TYPE_CHECKING:
    from ssd_train.networks.ssd import SSD

BACKENDS = ("torch", "onnxruntime", *FLAVOURS)


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
    precision: str = "fp32",
    cuda_graph: bool = False,
) -> Detector:
    """Load a detector.

    Args:
        model: an exported `.onnx` or `.engine` file, or a network name such as `ssd_300_vgg16_atrous_voc`.
        backend: `torch`, `onnxruntime`, `tensorrt`, `tensorrt-rtx`, or `auto`: PyTorch for a network, ONNX Runtime
            for an `.onnx` file, an engine's own flavour of TensorRT. TensorRT builds its engine of an `.onnx`
            file in the cache folder first, for batches of up to `batch_size`.
        weights: for a network: a weight file, `shapes`, `random[:SEED]`, or None for the published weights.
        classes: class names of a `_custom` network.
        provider: ONNX Runtime's `cpu`, `cuda` or `tensorrt`.
        device: PyTorch's `cpu` or `cuda`.
        batch_size: images a call of the backend, at most an engine's own limit.
        allow_tf32: let a GPU compute float32 with TF32 rounding.
        settings: thresholds of a network, GluonCV's where None; an exported file has its own.
        precision: of a network: `fp32`, `fp16` or `bf16`; an exported file has its own.
        cuda_graph: PyTorch and TensorRT: record the GPU's work once for each batch size and replay it.

    Raises:
        BackendError: no such backend, or it or an option of another one does not fit the model, or it
            does not work here.
        ModelError, NetworkError, WeightsError: the model cannot be loaded.
    """
    is_file = is_engine(Path(model)) or Path(model).suffix.lower() == ".onnx" or Path(model).is_file()
    if is_engine(Path(model)):
        flavour = read_info(Path(model)).flavour
        if backend not in ("auto", flavour):
            raise BackendError(f"{model}: is an engine of {flavour}, which the {backend} backend does not run")
        backend = flavour
    elif backend == "auto":
        backend = "onnxruntime" if is_file else "torch"
    if backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} does not exist; choose {', '.join(BACKENDS)}")
    if backend != "onnxruntime" and provider != "cpu":
        raise BackendError(f"provider {provider!r} is for ONNX Runtime; choose PyTorch's device, such as 'cuda'")
    if backend == "torch":
        if is_file:
            raise BackendError(
                f"{model}: the torch backend runs a network and its weights; name them, or use onnxruntime"
            )
        network = load_network(str(model), weights, classes)
        from ssd_deploy.backends.pytorch import TorchRunner
        from ssd_train.networks.precision import in_precision

        runner: Runner = TorchRunner(
            in_precision(network, precision),
            settings or PostprocessSettings(),
            device=device,
            allow_tf32=allow_tf32,
            cuda_graph=cuda_graph,
        )
        return Detector(runner, batch_size=batch_size)
    if not is_file:
        raise BackendError(f"{model}: the {backend} backend runs a .onnx file; make it with `ssd-deploy export`")
    if weights is not None or classes is not None or settings is not None or precision != "fp32":
        raise WeightsError(
            f"{model}: an exported model has its own weights, classes, settings and precision; leave yours out"
        )
    if device != "cpu":
        raise BackendError(f"device {device!r} is for PyTorch; choose ONNX Runtime's provider, such as 'cuda'")
    if backend == "onnxruntime":
        if cuda_graph:
            raise BackendError("cuda_graph is for PyTorch and TensorRT; leave it out with onnxruntime")
        from ssd_deploy.backends.onnxruntime import OnnxRuntimeRunner

        return Detector(OnnxRuntimeRunner(Path(model), provider=provider, allow_tf32=allow_tf32), batch_size=batch_size)
    from ssd_deploy.backends.tensorrt import open_runner

    variants = ("cuda-graph",) if cuda_graph else ()
    options = RunOptions(device="cuda", variants=variants, batch_size=batch_size, allow_tf32=allow_tf32)
    return Detector(open_runner(backend, Path(model), options), batch_size=batch_size)


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
