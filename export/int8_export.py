"""An exported float32 file and images -> `<network>.int8.onnx`."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx

from export.calibration import USUAL_METHOD, CalibrationImages, OnProgress, calibrate
from export.cpu_session import open_graph
from export.float_file import load_float_file
from export.int8_metadata import Int8Target, Quantization
from export.quantize import network_only, quantize
from export.sensitivity import Sensitivity, find_float_layers
from ssd_train.errors import ModelError
from ssd_train.files import written_atomically
from ssd_train.preprocess import load_image, preprocess
from ssd_train.spec import RAW_NAMES

# The values of the written graph are looked at on so many calibration images.
CHECKED_IMAGES = 4

# Root mean square error of the raw predictions, as a share of their spread, from which a graph is no detector any
# more. 2 to 8 % are seen with trained weights, 28 % with random ones; scales that do not fit give as much as there is.
RAW_ERROR = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Settings:
    """How to quantize.

    Attributes:
        images: what to calibrate on.
        method: key of `calibration.METHODS`.
        target: what activations become.
        max_drop: points of agreement AP that may be lost, by keeping sensitive layers in float; None to quantize
            all layers and not measure it.
    """

    images: CalibrationImages
    method: str = USUAL_METHOD
    target: Int8Target = Int8Target.PORTABLE
    max_drop: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8Export:
    """What was written.

    Attributes:
        path: the file.
        raw_errors: root mean square error of logits and offsets against float32, as shares of their spread.
        warnings: why its calibration may be of no use, a sentence each.
        sensitivity: None where it was not measured.
    """

    path: Path
    raw_errors: dict[str, float]
    warnings: tuple[str, ...]
    sensitivity: Sensitivity | None


def export_int8(
    float_file: Path,
    out_dir: Path,
    int8: Int8Settings,
    *,
    on_progress: OnProgress | None = None,
    on_layer: OnProgress | None = None,
) -> Int8Export:
    """Quantize an exported file to `out_dir/<network>.int8.onnx`.

    It takes and gives what the float file does (see `onnx_export.export_onnx`, which has folded the batch norms
    already); its metadata also says how it was quantized.

    Args:
        float_file: a file of `export_onnx` in float32.
        on_progress: told how many images were measured.
        on_layer: told how many layers were judged, with `max_drop`.

    Raises:
        ModelError: the file is not float32, or the quantized graph does not compute what it should; nothing is
            written.
        DatasetError, ImageError: calibration images cannot be used.
        SSDDeployError: the folder cannot be written.
    """
    model, metadata, spec = load_float_file(float_file, "quantize the float32 file")
    bare = network_only(model)
    calibration = calibrate(bare, spec, int8.images, method=int8.method, on_progress=on_progress)
    sensitivity = None
    if int8.max_drop is not None:
        sensitivity = find_float_layers(
            model, spec, calibration, int8.target, max_drop=int8.max_drop, on_progress=on_layer
        )
    float_layers = sensitivity.float_layers if sensitivity else ()
    quantized = quantize(model, calibration, int8.target, float_layers=float_layers)
    quantization = Quantization(
        target=int8.target,
        method=int8.method,
        images=len(int8.images.paths),
        images_sha256=int8.images.sha256,
        float_layers=float_layers,
    )
    onnx.helper.set_model_props(quantized, metadata | {"precision": "int8"} | quantization.to_metadata())
    onnx.checker.check_model(quantized, full_check=True)
    images = np.stack([preprocess(load_image(path), spec) for path in int8.images.paths[:CHECKED_IMAGES]])
    raw_errors = _raw_errors(bare, network_only(quantized), images)
    wrong = [name for name, error in raw_errors.items() if not error <= RAW_ERROR]
    if wrong:
        raise ModelError(
            f"{spec.network}: its {wrong[0]} in int8 are {raw_errors[wrong[0]]:.2g} of their spread beside those in "
            "float32, so nothing was written; calibrate on other images or with another --calibration-method"
        )
    path = out_dir / f"{spec.network}.int8.onnx"
    with written_atomically(path) as temporary:
        onnx.save(quantized, temporary)
    return Int8Export(path=path, raw_errors=raw_errors, warnings=calibration.warnings, sensitivity=sensitivity)


def _raw_errors(network: onnx.ModelProto, quantized: onnx.ModelProto, images: np.ndarray) -> dict[str, float]:
    expected, got = (open_graph(graph, RAW_NAMES)(images) for graph in (network, quantized))
    return {
        name: float(np.sqrt(np.mean((ours - theirs) ** 2)) / ours.std())
        for name, ours, theirs in zip(RAW_NAMES, expected, got, strict=True)
    }
