"""What an exported file says of itself beside its `DetectorSpec`: which steps it went through, and how. No onnx.

Two steps make files for CPUs: for one kind (`export.cpu_graph`) or for any (`export.winograd`). Where such a file does
not belong it is refused.
"""

import dataclasses
import enum
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssd_train.errors import ModelError
from ssd_train.json_input import quoted
from ssd_train.metadata import TextEntries

# The entries that tell which steps a file went through.
INT8_KEY = "int8_target"
CPU_GRAPH_KEY = "cpu_graph_for"
WINOGRAD_KEY = "winograd"
INPUT_KEY, OUTPUTS_KEY, BATCH_KEY, OPSET_KEY = "input_kind", "outputs", "batch_size", "opset"
# What every file is written in at least; nothing in a graph needs more, and more runtimes read that.
LEAST_OPSET = 17
# Those whose step is called as their value is.
_NAMED_BY_VALUE = (INPUT_KEY, OUTPUTS_KEY)
_STEP_OF = {
    INT8_KEY: "int8",
    WINOGRAD_KEY: "winograd",
    INPUT_KEY: "input",
    OUTPUTS_KEY: "outputs",
    BATCH_KEY: "batch",
    OPSET_KEY: "opset",
    CPU_GRAPH_KEY: "cpu",
}


def steps_behind(metadata: Mapping[str, str]) -> list[str]:
    """Return the names of the steps (see `export.steps`) that a file with this metadata went through."""
    return [metadata[key] if key in _NAMED_BY_VALUE else name for key, name in _STEP_OF.items() if key in metadata]


class Int8Target(enum.StrEnum):
    """What activations are quantized to: see `quantize`."""

    PORTABLE = "portable"
    CPU = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a file was quantized: its activations, the calibration, and the layers that were kept in float32."""

    target: Int8Target
    method: str
    images: int
    images_sha256: str
    float_layers: tuple[str, ...]

    def to_metadata(self) -> dict[str, str]:
        return {
            INT8_KEY: self.target.value,
            "calibration_method": self.method,
            "calibration_images": str(self.images),
            "calibration_sha256": self.images_sha256,
            "float_layers": json.dumps(self.float_layers),
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> "Quantization | None":
        """Read back what `to_metadata` wrote, or raise ModelError; None for a file that is not int8."""
        read = TextEntries(entries=metadata, source=source)
        if INT8_KEY not in read:
            return None
        return cls(
            target=read.choice(INT8_KEY, Int8Target),
            method=read.text("calibration_method"),
            images=read.value("calibration_images", int),
            images_sha256=read.text("calibration_sha256"),
            float_layers=read.value("float_layers", tuple[str, ...]),
        )


def describe_metadata(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Return what the steps left in a file's metadata, as plain values; raise ModelError where it is unreadable."""
    quantization = Quantization.from_metadata(metadata, source)
    known: dict[str, Any] = {"steps": steps_behind(metadata)}
    if quantization is not None:
        known["calibration"] = dataclasses.asdict(quantization) | {"target": quantization.target.value}
    return known | {key: metadata[key] for key in (CPU_GRAPH_KEY, WINOGRAD_KEY) if key in metadata}


def this_cpu(onnxruntime_version: str) -> dict[str, str]:
    """Return what a CPU's graph depends on: release of ONNX Runtime, architecture, and its vector instructions."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        flags = None  # not Linux
    words = flags.group(1).split() if flags else [platform.processor()]
    vectors = sorted(word for word in words if not flags or re.match(r"avx|amx|asimd|sve", word))
    release = ".".join(onnxruntime_version.split(".")[:2])
    return {"onnxruntime": release, "machine": platform.machine(), "vectors": " ".join(vectors)}


def check_runs_here(metadata: Mapping[str, str], name: str, onnxruntime_version: str, *, on_cpu: bool) -> None:
    """Raise ModelError where a file was rewritten for another CPU or release, or for any and is to run on a GPU."""
    if WINOGRAD_KEY in metadata and not on_cpu:
        raise ModelError(
            f"{name}: has Winograd's convolutions for a CPU, where a GPU has its own; use the file that it was made of"
        )
    if CPU_GRAPH_KEY not in metadata:
        return
    again = "use the file that it was made of, or rewrite that here with `ssd-deploy export`"
    if not on_cpu:
        raise ModelError(f"{name}: was rewritten for a CPU and does not run on a GPU; {again}")
    made_for = TextEntries(entries=metadata, source=name).value(CPU_GRAPH_KEY, dict[str, str])
    here = this_cpu(onnxruntime_version)
    for what, value in here.items():
        if made_for.get(what) != value:
            raise ModelError(
                f"{name}: was rewritten for another CPU or release of ONNX Runtime ({what}: "
                f"{quoted(made_for.get(what))}, here {value!r}); {again}"
            )
