"""The table of export steps: what can be made of an exported file, and all that is asked of a step.

net.fp32.onnx -> winograd -> net.fp32.winograd.onnx -> cpu -> net.fp32.winograd.cpu.onnx
net.fp32.onnx -> int8 -> net.int8.onnx -> cpu -> net.int8.cpu.onnx
net.fp32.onnx -> uint8 -> net.fp32.uint8.onnx -> batch -> net.fp32.uint8.batch4.onnx
net.int8.onnx -> tensorrt -> net.int8.tensorrt.engine
"""

from typing import Any

from export.engine.flavours import FLAVOURS
from export.engine.step import EngineStep
from export.file_metadata import LEAST_OPSET
from export.quantize_options import check_quantizable
from export.step import ExportStep, OnnxStep
from ssd_train.errors import BackendError, ModelError
from ssd_train.input_kinds import INPUT_KINDS
from ssd_train.spec import MOST_FIXED_BATCH, OUTPUT_NAMES, RAW, RAW_NAMES
from ssd_train.table import Table

_PIXELS = tuple(kind for kind in INPUT_KINDS.values() if kind.is_8_bit)
_PIXEL_STEPS = tuple(kind.name for kind in _PIXELS)


def _check_batch(settings: Any) -> None:
    if not isinstance(settings, int) or not 1 <= settings <= MOST_FIXED_BATCH:
        raise BackendError(
            f"batch_size {settings}: expected 1 to {MOST_FIXED_BATCH}, the images of every call",
            arguments=("batch_size",),
        )


def _check_opset(settings: Any) -> None:
    if not isinstance(settings, int) or settings < LEAST_OPSET:
        raise BackendError(f"opset {settings}: expected {LEAST_OPSET} or more", arguments=("opset",))


STEPS: Table[ExportStep] = Table(
    "export step",
    (
        OnnxStep(
            name="int8",
            module="export.quantize",
            takes="fp32",
            gives="int8",
            follows=(),
            compared=RAW_NAMES,
            # 2 to 8 % are seen with trained weights, 28 % with random ones; scales that do not fit give as much as
            # there is.
            error="rms",
            allowed=0.5,
            advice="; calibrate on other images or with another calibration_method",
            arguments=("calibration_method",),
            check=check_quantizable,
        ),
        OnnxStep(
            name="winograd",
            module="export.winograd",
            takes="fp32",
            gives=None,
            follows=("winograd",),
            compared=RAW_NAMES,
            # Less than 1e-5 is seen.
            error="largest",
            allowed=1e-3,
            is_for_speed=True,
        ),
        OnnxStep(
            name="cpu",
            module="export.cpu_graph",
            takes=None,
            gives=None,
            follows=("int8", "winograd", *_PIXEL_STEPS, RAW, "batch", "opset"),
            compared=OUTPUT_NAMES,
            error="largest",
            allowed=0,
            is_for_speed=True,
            only_standard_operators=False,
        ),
        *(
            OnnxStep(
                name=kind.name,
                module="export.pixel_input",
                takes=None,
                gives=None,
                follows=("int8", "winograd"),
                compared=RAW_NAMES,
                error="largest",
                allowed=1e-6,
                settings=kind.name,
            )
            for kind in _PIXELS
        ),
        OnnxStep(
            name=RAW,
            module="export.raw_outputs",
            takes=None,
            gives=None,
            follows=("int8", "winograd", *_PIXEL_STEPS),
            compared=RAW_NAMES,
            error="largest",
            allowed=0,
        ),
        OnnxStep(
            name="batch",
            module="export.fixed_batch",
            takes=None,
            gives=None,
            follows=("int8", "winograd", *_PIXEL_STEPS, RAW),
            compared=OUTPUT_NAMES,
            error="largest",
            allowed=0,
            arguments=("batch_size",),
            check=_check_batch,
            ending=lambda settings: f"batch{settings}",
        ),
        OnnxStep(
            name="opset",
            module="export.opset",
            takes=None,
            gives=None,
            follows=("int8", "winograd", *_PIXEL_STEPS, RAW, "batch"),
            compared=OUTPUT_NAMES,
            error="largest",
            allowed=0,
            arguments=("opset",),
            check=_check_opset,
            ending=lambda settings: f"opset{settings}",
        ),
        *map(EngineStep, FLAVOURS),
    ),
    ModelError,
)
