"""The table of export steps: what can be made of an exported file, and all that is asked of a step.

net.fp32.onnx -> winograd -> net.fp32.winograd.onnx -> cpu -> net.fp32.winograd.cpu.onnx
net.fp32.onnx -> int8 -> net.int8.onnx -> cpu -> net.int8.cpu.onnx
net.int8.onnx -> tensorrt -> net.int8.tensorrt.engine
"""

from export.engine.flavours import FLAVOURS
from export.engine.step import EngineStep
from export.quantize_options import check_quantizable
from export.step import ExportStep, OnnxStep
from ssd_train.errors import ModelError
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES
from ssd_train.table import Table

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
        ),
        OnnxStep(
            name="cpu",
            module="export.cpu_graph",
            takes=None,
            gives=None,
            follows=("int8", "winograd"),
            compared=OUTPUT_NAMES,
            error="largest",
            allowed=0,
            only_standard_operators=False,
        ),
        *map(EngineStep, FLAVOURS),
    ),
    ModelError,
)
