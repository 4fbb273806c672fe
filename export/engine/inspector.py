"""What the engine inspector says -> in which precision the convolutions of an engine really compute.

TensorRT's JSON for a layer differs between versions and cards: a convolution is called `CaskConvolution` or
`correlation`, or it is part of a `fusion`, and formats may be unknown where shapes are dynamic. So what it says is
recorded and warned of; see `BuildOptions.strict`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from export.engine.bindings import Messages, make_logger, starting
from export.engine.file import BuildOptions
from ssd_train.errors import BackendError
from ssd_train.json_input import parse_leniently
from ssd_train.precisions import PRECISIONS
from ssd_train.spec import DetectorSpec

# Type of weights or of a tensor -> precision; the first that fits. TensorRT calls bfloat16 BFloat16, BF16 and BFP16.
TYPES = (
    (re.compile(r"bfloat16|bfp?16"), "bf16"),
    (re.compile(r"half|fp16|float16"), "fp16"),
    (re.compile(r"fp8|float8"), "fp8"),
    (re.compile(r"int8"), "int8"),
    (re.compile(r"fp32|float"), "fp32"),
)

# A kernel's name holds the types of what it multiplies, as in `..._implicit_gemm_f16f16_f16f16_f16_nhwc...`.
TACTICS = (
    (re.compile(r"tf32"), "tf32"),
    (re.compile(r"bf16bf16|_bf16"), "bf16"),
    (re.compile(r"f16f16|f16f32|h884|h1688|h16816"), "fp16"),
    (re.compile(r"i8i8|i8f32|i8i32"), "int8"),
    (re.compile(r"f32f32|sgemm"), "fp32"),
)

CONVOLUTION_KINDS = re.compile(r"conv|correlation")

# Kinds that stand for several ONNX nodes, which their metadata names: "[ONNX Layer: node_conv2d_3]".
FUSED_KINDS = ("fusion", "kgen", "gemm")
CONVOLUTION_NODE = re.compile(r"(?:^|[^a-z])conv(?:2d)?(?:_\d+)?\]")


def read_layers(trt: Any, plan: bytes, spec: DetectorSpec, options: BuildOptions) -> dict[str, Any]:
    """Load a plan and return the inspector's JSON for it.

    Raises:
        BackendError: TensorRT cannot load what it built.
        ValueError: the inspector gave no JSON.
    """
    messages = Messages()
    with starting(f"TensorRT {trt.__version__}", messages):
        runtime = trt.Runtime(make_logger(trt, messages))
    runtime.engine_host_code_allowed = options.version_compatible
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load the engine that it built: {messages.last_errors()}")
    inspector = engine.create_engine_inspector()
    context = engine.create_execution_context()
    if context is not None and context.set_input_shape(spec.input.tensor, (options.opt_batch, *spec.image_shape)):
        # Formats of a dynamic engine are known for a shape only.
        inspector.execution_context = context
    layers: dict[str, Any] = parse_leniently(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    return layers


def precision_problems(precision: str, counts: Mapping[str, int] | None) -> tuple[str, ...]:
    """Say in at most one sentence what is wrong with the convolutions of an engine.

    Args:
        precision: what was asked for.
        counts: as `count_convolutions` returns; None where the inspector gave no answer.
    """
    row = PRECISIONS.get(precision)
    allowed = row.engine_kinds if row else frozenset()
    known = {kind: count for kind, count in (counts or {}).items() if kind != "unknown"}
    if not known:
        return ("the engine inspector does not tell in which precision the convolutions compute",)
    wrong = {kind: count for kind, count in known.items() if kind not in allowed}
    if wrong:
        found = ", ".join(f"{count} in {kind}" for kind, count in wrong.items())
        return (f"asked for {precision}, but TensorRT built convolutions otherwise: {found}",)
    # What an option allows, as it does TF32, need not be used; what the file says has to be.
    if row and row.in_file and precision not in known:
        return (f"asked for {precision}, but TensorRT built none of the {sum(known.values())} convolutions in it",)
    return ()


def count_convolutions(information: dict[str, Any]) -> dict[str, int]:
    """Count an engine's convolutions by precision: `fp16`, `fp32`, ..., or `unknown` where a layer does not tell.

    Args:
        information: the inspector's JSON for an engine that was built with detailed verbosity.
    """
    # Without detailed verbosity a layer is its name alone.
    layers = [layer for layer in information.get("Layers", []) if isinstance(layer, dict)]
    return dict(Counter(_precision(layer) for layer in layers if _is_convolution(layer)))


def _is_convolution(layer: dict[str, Any]) -> bool:
    kind = str(layer.get("LayerType", "")).lower()
    if layer.get("ParameterType") == "Convolution" or CONVOLUTION_KINDS.search(kind):
        return True
    return kind in FUSED_KINDS and bool(CONVOLUTION_NODE.search(str(layer.get("Metadata", "")).lower()))


def _precision(layer: dict[str, Any]) -> str:
    weights = layer.get("Weights")
    stated = _first(TYPES, weights.get("Type")) if isinstance(weights, dict) else None
    tactic = _first(TACTICS, layer.get("TacticName"))
    if stated == "fp32" and tactic == "tf32":
        return "tf32"
    if stated or tactic:
        return stated or tactic or "unknown"
    taken, given = (_types(layer.get(side, [])) for side in ("Inputs", "Outputs"))
    # What goes in tells what is multiplied; what comes out may have been cast behind it. Wide in and narrow out is
    # a cast in front of the products, or no convolution at all: kernels that cast for one carry its name too.
    if not taken or (taken[0] == "fp32" and any(each != "fp32" for each in given)):
        return "unknown"
    return taken[0]


def _types(tensors: list[Any]) -> list[str]:
    known: list[dict[str, Any]] = [tensor for tensor in tensors if isinstance(tensor, dict)]
    names = [each.get("Format/Datatype") or each.get("DataType") or each.get("Format") for each in known]
    return [found for name in names if (found := _first(TYPES, name))]


def _first(words: tuple[tuple[re.Pattern[str], str], ...], text: Any) -> str | None:
    return next((precision for pattern, precision in words if pattern.search(str(text or "").lower())), None)
