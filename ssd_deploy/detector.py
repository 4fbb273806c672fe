"""Images in, detections in image pixels out, whatever the backend."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends import AUTO, RunOptions
from ssd_deploy.backends.base import Runner
from ssd_deploy.model_source import find_model, open_runner
from ssd_deploy.sources.base import Reconnect, Source
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import Named
from ssd_deploy.stream import stream
from ssd_train.detections import Detections
from ssd_train.errors import BackendError, ImageError
from ssd_train.evaluation.loop import detect_images
from ssd_train.preprocess import check_image
from ssd_train.spec import DetectorSpec, PostprocessSettings
from ssd_train.thresholds import keeping


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
            BackendError: the backend answered with something that is no detections, such as NaN.
        """

        def checked(index: int) -> NDArray[np.uint8]:
            try:
                check_image(images[index])
            except ImageError as error:
                raise ImageError(f"images[{index}]: {error}") from error
            return images[index]

        found = detect_images(
            range(len(images)),
            checked,
            self.runner.run,
            self.spec,
            name_of=lambda index: f"images[{index}]",
            batch_size=self.batch_size,
        )
        return [of_image.detections for of_image in found]

    def stream(
        self,
        source: Source | Named | Sequence[Named],
        *,
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
        reconnect: Reconnect | None = None,
        drop_late: bool | None = None,
    ) -> Generator[tuple[Frame, Detections], None, None]:
        """Detect in a video, a camera, a stream or pictures, frame by frame, with bounded memory.

        Decoding, pre-processing and the network run beside each other. Closing the generator ends their threads and
        closes the source. A frame that is broken, a picture that cannot be read, and a stream that is lost and comes
        back are warnings in the log; open the source with `open_source` to be told them otherwise.

        Args:
            source: a video file, the number of a camera, an address (RTSP, HTTP, ...), a picture, a folder, a pattern,
                an RGB uint8 array, a list of these, or an open source.
            score_threshold, class_thresholds, max_detections: as for `detect`.
            batch_size: frames a call of the backend; None for the detector's own, and for 1 where frames come live.
            reconnect: when a lost camera or stream is tried again; None: it ends there.
            drop_late: leave out frames that come while the detector is busy; None: of cameras and streams that cannot
                wait, yes, of files and HTTP, no.

        Yields:
            Each frame, `image` filled in, and its `Detections`, boxes in the frame's pixels, not clipped to it.

        Raises:
            SourceError: the source cannot be opened, when the first frame is asked for.
            SpecError: a threshold outside its range.
            BackendError: PyAV, which videos need, is not installed; the backend answered with no detections.
        """
        kept = keeping(
            self.spec,
            score_threshold=score_threshold,
            class_thresholds=class_thresholds,
            max_detections=max_detections,
        )
        return stream(self, source, kept, batch_size=batch_size, reconnect=reconnect, drop_late=drop_late)


def load_detector(
    model: str | Path,
    backend: str = AUTO,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    provider: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    allow_tf32: bool = False,
    settings: PostprocessSettings | None = None,
    precision: str | None = None,
    calibration_data: Path | None = None,
    cuda_graph: bool = False,
) -> Detector:
    """Load a detector.

    Args:
        model: an exported `.onnx` file or an engine, a network such as `ssd_300_vgg16_atrous_voc`, a run folder of
            `ssd-deploy train`, or a weight file of this project.
        backend: a row of `ssd_deploy.backends.BACKENDS`, or `auto`: PyTorch for a network, ONNX Runtime for an
            `.onnx` file, an engine's own flavour of TensorRT. A network is exported for a backend that runs files.
            TensorRT builds its engine of an `.onnx` file in the cache folder first, for batches of up to `batch_size`.
        weights: for a network: a weight file, `shapes`, `random[:SEED]`, or None for the published weights.
        classes: class names of a `_custom` network.
        provider: ONNX Runtime's `cpu`, `cuda` or `tensorrt`; another name of `device` there.
        device: one of the backend's, such as `cuda` or `cuda:1`; None for its usual one, `auto` for the fastest that
            works.
        batch_size: images a call of the backend, at most an engine's own limit.
        allow_tf32: let a GPU compute float32 with TF32 rounding.
        settings: thresholds of a network, GluonCV's where None; an exported file has its own.
        precision: of a network: `fp32`, `fp16`, `bf16` or `int8`; an exported file has its own.
        calibration_data: folder of images that a precision of int8 is calibrated on.
        cuda_graph: PyTorch and TensorRT: record the GPU's work once for each batch size and replay it.

    Raises:
        BackendError: no such backend, or it or an option of another one does not fit the model, or it
            does not work here.
        ModelError, NetworkError, WeightsError: the model cannot be loaded.
    """
    source = find_model(model, weights=weights, classes=classes)
    if provider is not None and device not in (None, provider):
        raise BackendError(f"provider {provider!r} and device {device!r} contradict each other; leave one out")
    if provider is not None and source.file is None and backend != "onnxruntime":
        raise BackendError(f"provider {provider!r} is for ONNX Runtime; name its backend, or a device")
    int8 = None
    if calibration_data is not None:
        from export.quantize_options import QuantizeOptions

        int8 = QuantizeOptions(calibration_data=calibration_data)
    options = RunOptions(
        device=device or provider,
        variants=("cuda-graph",) if cuda_graph else (),
        batch_size=batch_size,
        allow_tf32=allow_tf32,
        settings=settings,
    )
    runner = open_runner(source, options, backend=backend, precision=precision, int8=int8)
    return Detector(runner, batch_size=batch_size)
