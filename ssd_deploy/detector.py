"""Images in, detections in image pixels out, whatever the backend."""

import contextlib
import functools
import logging
import operator
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.backends import AUTO, RunOptions, parse_backend
from ssd_deploy.backends.base import Runner
from ssd_deploy.images_given import Given, told_apart
from ssd_deploy.model_source import ModelSource, find_model, open_runner
from ssd_deploy.sources.base import Reconnect, Source
from ssd_deploy.sources.frame import Frame
from ssd_deploy.sources.open import Named
from ssd_deploy.stream import stream
from ssd_train.detections import Detections, PaddedDetections
from ssd_train.errors import BackendError, ModelError, SSDDeployError
from ssd_train.evaluation.loop import detect_images
from ssd_train.image_input import Color, OneImage, check_color
from ssd_train.paths import user_path
from ssd_train.pixel_limit import max_pixels as pixel_limit
from ssd_train.preprocess import Images
from ssd_train.spec import DetectorSpec, PostprocessSettings
from ssd_train.thresholds import Keeping, keeping, nothing_found
from ssd_train.weights.load import SHAPES, stored_weights

logger = logging.getLogger(__name__)


class Detector:
    """A runner with pre-processing in front, and image coordinates and thresholds behind it.

    It is a context manager, which closes it. One that `load_detector` made can be pickled: what is kept is what it was
    loaded from and how, and it is loaded again where it is unpickled, in another process for instance. Several threads
    may detect at once; a runner of PyTorch with `cuda_graph` takes one call at a time.

    Args:
        runner: any backend.
        batch_size: images a call of the runner, at most its own limit.
        score_threshold: lowest score that is given out, included; 0 to 1. None for the working thresholds saved with
            the detector (`ssd-deploy eval --save-thresholds`), or all that its graph gives where there are none.
        class_thresholds: class name -> its own, which goes before all others.
        max_detections: most in an image, best first; None for the graph's own.
        max_pixels: most that a picture or a frame of a video may have; None for the process's limit, see
            `ssd_train.pixel_limit`.
        reopen: makes the detector once more, for pickling; None where nobody can.

    Attributes:
        runner: the backend.
        spec: what the detector expects and means.
        batch_size: images a call of the runner.

    Raises:
        BackendError: a batch size below 1.
        SpecError: a threshold that the detector cannot have; see `ssd_train.thresholds.keeping`.
        ImageError: `max_pixels` is no number of pixels.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        batch_size: int = 8,
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
        max_pixels: int | None = None,
        reopen: "Callable[[], Detector] | None" = None,
    ) -> None:
        if batch_size < 1:
            raise BackendError(
                f"a batch size of {batch_size} is not possible; use 1 or more", arguments=("batch_size",)
            )
        self.runner = runner
        self.batch_size = min(batch_size, runner.max_batch_size or batch_size)
        self._asked: dict[str, Any] = {
            "score_threshold": score_threshold,
            "class_thresholds": class_thresholds,
            "max_detections": max_detections,
        }
        self._kept = keeping(self.spec, **self._asked)
        self._max_pixels = None if max_pixels is None else pixel_limit(max_pixels)
        self._reopen = reopen
        self._is_closed = self._has_told = False

    @property
    def spec(self) -> DetectorSpec:
        return self.runner.spec

    @overload
    def detect(  # type: ignore[overload-overlap]  # a path is a sequence of letters
        self,
        images: OneImage,
        *,
        color: Color = "rgb",
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
    ) -> Detections: ...

    @overload
    def detect(  # type: ignore[overload-overlap]  # a sequence is an iterable
        self,
        images: Sequence[OneImage],
        *,
        color: Color = "rgb",
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
    ) -> list[Detections]: ...

    @overload
    def detect(
        self,
        images: Iterable[OneImage],
        *,
        color: Color = "rgb",
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
    ) -> Generator[Detections, None, None]: ...

    def detect(
        self,
        images: "OneImage | Iterable[OneImage]",
        *,
        color: Color = "rgb",
        score_threshold: float | None = None,
        class_thresholds: Mapping[str, float] | None = None,
        max_detections: int | None = None,
    ) -> "Detections | list[Detections] | Generator[Detections, None, None]":
        """Detect in one image or in many, of any sizes.

        Args:
            images: one image, a list or tuple of them, or any other iterable, such as a generator. An image is
                an array (H, W, 3), (H, W, 4) or (H, W) of uint8, or of uint16, whose upper byte counts;
                a PyTorch tensor (3, H, W), (1, H, W) or (H, W) on any device, uint8, or floats from 0 to 1;
                a Pillow image, turned upright as its Exif entry says;
                or the path of a file. A folder's path and a pattern such as `photos/*.jpg` are a list of files, and an
                array (N, H, W, 3) or a tensor (N, 3, H, W) a list of images. Type checkers take each of these four
                for one image; `list(stack)` tells them better.
            color: `bgr` for arrays as OpenCV reads them; the other kinds have their own order.
            score_threshold, class_thresholds, max_detections: for this call, instead of the detector's.

        Returns:
            One `Detections` for one image, boxes in that image's pixels, not clipped to it. A list for a list. For
            another iterable a generator, which takes images as it needs them, at most a batch and one more ahead of
            what it gives; closing it ends its threads.

        Raises:
            ImageError: something is no image, or cannot be read; one of many is called `images[3]`.
            SpecError: a threshold that the detector cannot have.
            BackendError: the detector was closed, or the backend answered with something that is no detections, such
                as NaN.
        """
        self._check_open()
        check_color(color)
        asked = {"score_threshold": score_threshold, "class_thresholds": class_thresholds}
        kept = self._keeping(**asked, max_detections=max_detections)
        given = told_apart(images, color, self._max_pixels)
        if isinstance(given, Given):
            (found,) = self._detections([given], kept, workers=1)
            return found
        found_images = self._detections(given, kept)
        return list(found_images) if isinstance(given, list) else found_images

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
        self._check_open()
        kept = self._keeping(
            score_threshold=score_threshold, class_thresholds=class_thresholds, max_detections=max_detections
        )
        return stream(
            self,
            source,
            kept,
            run=self._run,
            batch_size=batch_size,
            reconnect=reconnect,
            drop_late=drop_late,
            max_pixels=self._max_pixels,
        )

    def close(self) -> None:
        """Give back what the backend holds; afterwards the detector does nothing more. May be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self.runner.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> "tuple[Callable[[], Detector], tuple[()]]":
        self._check_open()
        if self._reopen is None:
            raise BackendError(
                "a detector made of a runner cannot be pickled, since nobody knows how to open that again; make it "
                "with load_detector"
            )
        return self._reopen, ()

    def _keeping(self, **asked: Any) -> Keeping:
        """Return what a call is to give out: as it asks, and as the detector was made where it does not."""
        given = {name: value for name, value in asked.items() if value is not None}
        return keeping(self.spec, **(self._asked | given)) if given else self._kept

    def _detections(
        self, images: Iterable[Given], kept: Keeping, *, workers: int = 2
    ) -> Generator[Detections, None, None]:
        name_of = operator.attrgetter("name")
        found_images = detect_images(
            images, _load, self._run, self.spec, name_of=name_of, batch_size=self.batch_size, workers=workers
        )
        with contextlib.closing(found_images):
            for found in found_images:
                shown = kept.apply(found.detections)
                if not len(shown):
                    self._tell_nothing_found(found.item.name, found.detections, kept)
                yield shown

    def _tell_nothing_found(self, name: str, found: Detections, kept: Keeping) -> None:
        # The first time may be a threshold that does not fit; further images without objects are nothing odd.
        level = logging.INFO if self._has_told else logging.WARNING
        self._has_told = True
        highest = max(found.scores.tolist(), default=None)
        logger.log(level, "%s: nothing found; %s", name, nothing_found(highest, kept, in_python=True))

    def _run(self, images: Images) -> PaddedDetections:
        # Also in the middle of what a generator gives.
        self._check_open()
        return self.runner.run(images)

    def _check_open(self) -> None:
        if self._is_closed:
            raise BackendError(f"the detector {self.spec.network} was closed; load it again")


def load_detector(
    model: str | os.PathLike[str] | bytes,
    backend: str = AUTO,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    provider: str | None = None,
    device: str | None = None,
    threads: int = 0,
    batch_size: int = 8,
    score_threshold: float | None = None,
    class_thresholds: Mapping[str, float] | None = None,
    max_detections: int | None = None,
    max_pixels: int | None = None,
    allow_tf32: bool = False,
    settings: PostprocessSettings | None = None,
    precision: str | None = None,
    calibration_data: Path | None = None,
    cuda_graph: bool = False,
) -> Detector:
    """Load a detector.

    Args:
        model: what the command line takes as MODEL: an exported `.onnx` file or an engine, a network such as
            `ssd_300_vgg16_atrous_voc`, a run folder of `ssd-deploy train`, or a weight file; `~` is the home folder.
            Or bytes: what is in an `.onnx` file.
        backend: a row of `ssd_deploy.backends.BACKENDS`, or `auto`: PyTorch for a network, ONNX Runtime for an
            `.onnx` file, an engine's own flavour of TensorRT. A device and variants may follow a colon, as in
            `torch:cuda+eager`. A network is exported for a backend that runs files.
            TensorRT builds its engine of an `.onnx` file in the cache folder first, for batches of up to `batch_size`.
        weights: for a network: a weight file, `shapes`, `random[:SEED]`, or None for the published weights.
        classes: class names of a `_custom` network.
        provider: ONNX Runtime's `cpu`, `cuda` or `tensorrt`; another name of `device` there.
        device: one of the backend's, such as `cuda` or `cuda:1`; None for its usual one, `auto` for the fastest that
            works.
        threads: CPU threads of one operator; 0 leaves the backend its default.
        batch_size: images a call of the backend, at most an engine's own limit.
        score_threshold, class_thresholds, max_detections: what is given out, above what the graph itself gives; see
            `Detector`.
        max_pixels: most that a picture or a frame of a video may have, 10^8 where None; the header is asked before
            anything is decoded.
        allow_tf32: let a GPU compute float32 with TF32 rounding.
        settings: thresholds in the graph of a network, its own where None; an exported file has its own.
        precision: of a network: `fp32`, `fp16`, `bf16` or `int8`. Of a float32 file: one that the backend computes
            such files in, as OpenVINO does in `bf16`; other files have their own.
        calibration_data: folder of images that a precision of int8 is calibrated on.
        cuda_graph: record the GPU's work once for each batch size, at its first call, and replay it; it is an error
            where that fails. Without it PyTorch and ONNX Runtime do so for batch sizes that come again, where it finds
            the same, unless the variant `eager` or `plain` is named.

    Raises:
        BackendError: no such backend, or it or an option of another one does not fit the model, or it
            does not work here.
        ModelError, NetworkError, WeightsError: the model cannot be loaded.
        SpecError: a threshold that the detector cannot have.
    """
    arguments = dict(locals())  # before anything else is one: all that is needed to load it again
    if not isinstance(model, str | os.PathLike | bytes):
        raise BackendError(f"a model is a {type(model).__name__}; name one, or give the bytes of an ONNX file")
    source = find_model(model if isinstance(model, str | bytes) else Path(model), weights=weights, classes=classes)
    if provider is not None and device not in (None, provider):
        raise BackendError(f"provider {provider!r} and device {device!r} contradict each other; leave one out")
    choice = None if backend == AUTO else parse_backend(backend)
    row, place = (choice.backend.name, choice.device) if choice is not None else (AUTO, None)
    if place is not None and device not in (None, place):
        raise BackendError(f"backend {backend!r} and device {device!r} contradict each other; leave one out")
    if provider is not None and source.network is not None and row != "onnxruntime":
        raise BackendError(f"provider {provider!r} is for ONNX Runtime; name its backend, or a device")
    if threads < 0:
        raise BackendError(f"threads {threads}: expected 0, which leaves them to the backend, or more")
    int8 = None
    if calibration_data is not None:
        from export.quantize_options import QuantizeOptions

        arguments["calibration_data"] = Path(calibration_data).absolute()
        int8 = QuantizeOptions(calibration_data=calibration_data)
    options = RunOptions(
        device=device or provider or place,
        variants=tuple(dict.fromkeys((*(choice.variants if choice else ()), *(("cuda-graph",) if cuda_graph else ())))),
        batch_size=batch_size,
        allow_tf32=allow_tf32,
        threads=threads,
        settings=settings,
    )
    runner = open_runner(source, options, backend=row, precision=precision, int8=int8)
    try:
        return Detector(
            runner,
            batch_size=batch_size,
            score_threshold=score_threshold,
            class_thresholds=class_thresholds,
            max_detections=max_detections,
            max_pixels=max_pixels,
            reopen=functools.partial(load_detector, **(arguments | _from_anywhere(model, weights, source))),
        )
    except SSDDeployError:
        runner.close()
        raise


def _from_anywhere(model: Any, weights: str | Path | None, source: ModelSource) -> dict[str, Any]:
    """Return those arguments that are paths, for a process that runs in another folder."""
    paths: dict[str, Any] = {}
    if source.content is None and source.address is None and source.network != str(model):
        paths["model"] = user_path(model, ModelError).absolute()
    if source.network is not None and weights is not None and weights != SHAPES:
        paths["weights"] = stored_weights(source.network, weights)
    return {name: path.absolute() for name, path in paths.items() if path is not None}


def _load(image: Given) -> NDArray[np.uint8]:
    return image.load()
