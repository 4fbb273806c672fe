"""Which convolutions of an exported file has cuDNN no plan for, and what mends it?

    python benchmarks/cudnn_plans.py MODEL.fp16.onnx [--batch-size 1] [--seconds 140] [--json OUT.json]

Each distinct convolution becomes a file of its own, which ONNX Runtime opens on CUDA four times: without tensor cores
(`use_tf32=0`), with them, with them in N, H, W, C order, and with its channels rounded up to multiples of 8. A row says
what cuDNN printed ("No execution plans support the graph" where it had none) and how long a run took, by the host's
clock. Rows are printed as they are measured, and the time is kept. On a CPU, to try the script out: `--device cpu`.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference

from _common.turns import recorded_environment
from export.session import open_session
from ssd_deploy.backends.onnxruntime_options import provider_list
from ssd_train.errors import SSDDeployError, first_line
from ssd_train.files import write_json

NO_PLAN = "No execution plans support the graph"
RUNS = 5
WARNINGS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolution:
    """What makes a convolution another one for cuDNN.

    Attributes:
        input_shape: (C, H, W).
        weight_shape: (M, C / group, kernel height, kernel width).
        element_type: ONNX's number of it.
        attributes: strides, pads, dilations and group, with their defaults filled in.
    """

    input_shape: tuple[int, int, int]
    weight_shape: tuple[int, int, int, int]
    element_type: int
    has_bias: bool
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    def __str__(self) -> str:
        channels, height, width = self.input_shape
        outputs, _, *kernel = self.weight_shape
        parts = [f"{channels}x{height}x{width} -> {outputs}, {'x'.join(map(str, kernel))}"]
        parts += [f"stride {self.strides[0]}"] * (set(self.strides) != {1})
        parts += [f"dilation {self.dilations[0]}"] * (set(self.dilations) != {1})
        parts += [f"pads {','.join(map(str, self.pads))}"] * (self.pads[:2] != self.pads[2:])
        parts += [f"group {self.group}"] * (self.group != 1)
        return ", ".join([*parts, *(["bias"] if self.has_bias else [])])

    def rounded_up(self, multiple: int) -> "Convolution | None":
        """Return it with channels rounded up to a multiple; None where they are, or where groups forbid it."""
        up = [-(-channels // multiple) * multiple for channels in (self.input_shape[0], self.weight_shape[0])]
        if self.group != 1 or up == [self.input_shape[0], self.weight_shape[0]]:
            return None
        return dataclasses.replace(
            self,
            input_shape=(up[0], *self.input_shape[1:]),
            weight_shape=(up[1], up[0], *self.weight_shape[2:]),
        )


def distinct_convolutions(model: onnx.ModelProto) -> dict[Convolution, list[str]]:
    """Return the distinct convolutions of a model in the order of its nodes, each with the names of its nodes."""
    graph = shape_inference.infer_shapes(model).graph
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    weights = {value.name: tuple(value.dims) for value in graph.initializer}
    found: dict[Convolution, list[str]] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        images = values[node.input[0]]
        channels, height, width = (dimension.dim_value for dimension in images.shape.dim[1:])
        outputs, inputs, *kernel = weights[node.input[1]]
        convolution = Convolution(
            input_shape=(channels, height, width),
            weight_shape=(outputs, inputs, kernel[0], kernel[1]),
            element_type=images.elem_type,
            has_bias=len(node.input) > 2,
            strides=tuple(given.get("strides", (1, 1))),
            pads=tuple(given.get("pads", (0, 0, 0, 0))),
            dilations=tuple(given.get("dilations", (1, 1))),
            group=given.get("group", 1),
        )
        found.setdefault(convolution, []).append(node.name)
    return found


def model_of(convolution: Convolution, batch_size: int) -> bytes:
    """Return an ONNX file of one convolution with random weights: images -> features."""
    dtype = helper.tensor_dtype_to_np_dtype(convolution.element_type)
    rng = np.random.default_rng(0)
    weights = {"weight": rng.normal(0, 0.1, convolution.weight_shape)}
    if convolution.has_bias:
        weights["bias"] = rng.normal(0, 0.1, convolution.weight_shape[:1])
    node = helper.make_node(
        "Conv",
        ["images", *weights],
        ["features"],
        **{name: getattr(convolution, name) for name in ("strides", "pads", "dilations", "group")},
    )
    graph = helper.make_graph(
        [node],
        "one convolution",
        [helper.make_tensor_value_info("images", convolution.element_type, (batch_size, *convolution.input_shape))],
        [helper.make_tensor_value_info("features", convolution.element_type, None)],
        [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


@contextlib.contextmanager
def captured_prints() -> Iterator[Callable[[], str]]:
    """Yield what reads back the text that the process prints in the block, libraries written in C++ included."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush(), sys.stderr.flush()
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield lambda: (ctypes.CDLL(None).fflush(None), os.pread(file.fileno(), 1 << 20, 0))[1].decode(
                errors="replace"
            )
        finally:
            for number, own in zip((1, 2), kept, strict=True):
                os.dup2(own, number)
                os.close(own)


def measure(convolution: Convolution, batch_size: int, providers: list[Any]) -> dict[str, Any]:
    """Open one convolution and run it; return what was printed, `no plan` or nothing, and the median milliseconds."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = WARNINGS
    dtype = helper.tensor_dtype_to_np_dtype(convolution.element_type)
    images = np.random.default_rng(1).normal(size=(batch_size, *convolution.input_shape)).astype(dtype)
    times_ms = []
    with captured_prints() as printed:
        try:
            session = open_session(model_of(convolution, batch_size), str(convolution), options, providers)
            # cuDNN is asked for a plan in the first run, and the provider may log that for the whole process.
            onnxruntime.set_default_logger_severity(WARNINGS)
            binding = session.io_binding()
            binding.bind_cpu_input("images", images)
            binding.bind_output("features", "cpu" if providers[0] == "CPUExecutionProvider" else "cuda")
            for _ in range(RUNS + 1):
                start = time.perf_counter()
                session.run_with_iobinding(binding)
                binding.synchronize_outputs()
                times_ms.append((time.perf_counter() - start) * 1e3)
            error = None
        except Exception as problem:  # ONNX Runtime's exceptions share no narrower base
            error = first_line(problem)
        text = printed()
    return {
        "has_plan": error is None and NO_PLAN not in text,
        "error": error,
        "printed": text.strip()[:500],
        "ms": statistics.median(times_ms[1:]) if times_ms[1:] else None,
    }


def settings(device: str) -> dict[str, tuple[list[Any], int]]:
    """Return each setting's providers, and the multiple that channels are rounded up to."""
    if device == "cpu":
        return {"as it is": (provider_list("cpu", tensor_cores=False), 1), "padded": (["CPUExecutionProvider"], 8)}
    with_cores = provider_list(device, tensor_cores=True)
    return {
        "no tensor cores": (provider_list(device, tensor_cores=False), 1),
        "tensor cores": (with_cores, 1),
        "nhwc": (provider_list(device, tensor_cores=True, variants=("nhwc",)), 1),
        "padded": (with_cores, 8),
    }


def cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    plan = "plan" if result["has_plan"] else result["error"] or "NO PLAN"
    return plan if result["ms"] is None else f"{plan} {result['ms']:.3f} ms"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=140)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    end = time.monotonic() + options.seconds
    try:
        ways = settings(options.device)
        # Whether the provider works at all is told once, and not for each convolution.
        open_session(model_of(FIRST, 1), "a test model", providers=next(iter(ways.values()))[0])
        convolutions = distinct_convolutions(onnx.load(options.model))
    except (SSDDeployError, OSError) as error:
        sys.exit(f"nothing was measured: {error}")
    print(f"{options.model.name}: {len(convolutions)} distinct convolutions, batch {options.batch_size}", flush=True)
    rows: list[dict[str, Any]] = []
    for convolution, nodes in convolutions.items():
        if time.monotonic() > end:
            print(f"{len(convolutions) - len(rows)} were not measured: {options.seconds:g} s are over", flush=True)
            break
        results: dict[str, dict[str, Any] | None] = {}
        for name, (providers, multiple) in ways.items():
            changed = convolution if multiple == 1 else convolution.rounded_up(multiple)
            results[name] = changed and measure(changed, options.batch_size, providers)
        rows.append({"convolution": str(convolution), "nodes": nodes, "results": results})
        cells = "; ".join(f"{name}: {cell(result)}" for name, result in results.items())
        print(f"{len(nodes)} x {convolution}: {cells}", flush=True)
        if options.json is not None:
            write_json(options.json, {"environment": recorded_environment(), "model": options.model.name, "rows": rows})
    for name in ways:
        measured = [result for row in rows if (result := row["results"][name]) is not None]
        without = sum(not result["has_plan"] for result in measured)
        total = sum(len(row["nodes"]) * (row["results"][name] or {}).get("ms", 0) for row in rows)
        print(f"{name}: {without} of {len(measured)} have no plan; together {total:.2f} ms", flush=True)


FIRST = Convolution(
    input_shape=(8, 8, 8),
    weight_shape=(8, 8, 3, 3),
    element_type=TensorProto.FLOAT16,
    has_bias=True,
    strides=(1, 1),
    pads=(1, 1, 1, 1),
    dilations=(1, 1),
    group=1,
)

if __name__ == "__main__":
    main()
