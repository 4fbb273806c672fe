"""The table of export steps: what can be made of an exported file, and all that is asked of a step.

    net.fp32.onnx -> winograd -> net.fp32.winograd.onnx -> cpu -> net.fp32.winograd.cpu.onnx
    net.fp32.onnx -> int8 -> net.int8.onnx -> cpu -> net.int8.cpu.onnx
    net.int8.onnx -> tensorrt -> net.int8.tensorrt.engine

Light: what a row calls is imported when it is called.
"""

from typing import TYPE_CHECKING, Any

from export.engine.step import ENGINE_STEPS
from export.quantize_options import QuantizeOptions, check_quantizable
from export.step import ExportStep, Likeness, OnProgress, Rewritten, onnx_step
from ssd_train.errors import ModelError
from ssd_train.spec import OUTPUT_NAMES, RAW_NAMES
from ssd_train.table import Table

if TYPE_CHECKING:
    from export.graph import ExportedGraph


def _winograd(source: "ExportedGraph", settings: Any, on_progress: OnProgress | None) -> Rewritten:
    from export import winograd

    return winograd.rewrite(source, settings, on_progress)


def _cpu(source: "ExportedGraph", settings: Any, on_progress: OnProgress | None) -> Rewritten:
    from export import cpu_graph

    return cpu_graph.rewrite(source, settings, on_progress)


def _int8(source: "ExportedGraph", settings: Any, on_progress: OnProgress | None) -> Rewritten:
    from export import quantize

    return quantize.rewrite(source, settings, on_progress)


STEPS: Table[ExportStep] = Table(
    "export step",
    (
        onnx_step(
            name="int8",
            suffix=".int8.onnx",
            takes="fp32",
            gives="int8",
            help="Computes in 8-bit integers, by calibration on images.",
            follows=(),
            # 2 to 8 % are seen with trained weights, 28 % with random ones; scales that do not fit give as much as
            # there is.
            likeness=Likeness(
                outputs=RAW_NAMES,
                error="rms",
                allowed=0.5,
                advice="; calibrate on other images or with another calibration_method",
                arguments=("calibration_method",),
            ),
            rewrite=_int8,
            settings=QuantizeOptions,
            check=check_quantizable,
        ),
        onnx_step(
            name="winograd",
            suffix=".winograd.onnx",
            takes="fp32",
            gives=None,
            help="3x3 convolutions by Winograd's algorithm: faster on a CPU, takes more memory.",
            follows=("winograd",),
            # Less than 1e-5 is seen.
            likeness=Likeness(outputs=RAW_NAMES, error="largest", allowed=1e-3),
            rewrite=_winograd,
        ),
        onnx_step(
            name="cpu",
            suffix=".cpu.onnx",
            takes=None,
            gives=None,
            help="For this CPU and this release of ONNX Runtime alone: opens faster, takes less memory.",
            follows=("int8", "winograd"),
            likeness=Likeness(outputs=OUTPUT_NAMES, error="largest", allowed=0),
            rewrite=_cpu,
            only_standard_operators=False,
        ),
        *ENGINE_STEPS,
    ),
    ModelError,
)
