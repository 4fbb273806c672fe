"""Files that were rewritten for CPUs: for one kind (`export.cpu_graph`) or for any (`export.winograd`).

Their metadata say so, and where such a file does not belong it is refused.
"""

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from ssd_train.errors import ModelError

CPU_GRAPH_KEY = "cpu_graph_for"
WINOGRAD_KEY = "winograd"


def this_cpu(onnxruntime_version: str) -> dict[str, str]:
    """Return what such a graph depends on: release of ONNX Runtime, architecture, and its vector instructions."""
    try:
        flags = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        flags = None  # not Linux
    words = flags.group(1).split() if flags else [platform.processor()]
    vectors = sorted(word for word in words if not flags or re.match(r"avx|amx|asimd|sve", word))
    release = ".".join(onnxruntime_version.split(".")[:2])
    return {"onnxruntime": release, "machine": platform.machine(), "vectors": " ".join(vectors)}


def is_cpu_graph(metadata: Mapping[str, str]) -> bool:
    """Return whether a file with this metadata was rewritten for a CPU."""
    return CPU_GRAPH_KEY in metadata


def check_cpu_graph(metadata: Mapping[str, str], name: str, onnxruntime_version: str, *, on_cpu: bool) -> None:
    """Raise ModelError where a file was rewritten for another CPU or release, or for any and is to run on a GPU."""
    if WINOGRAD_KEY in metadata and not on_cpu:
        raise ModelError(
            f"{name}: has Winograd's convolutions for a CPU, where a GPU has its own; use the file that it was made of"
        )
    if not is_cpu_graph(metadata):
        return
    again = "use the file that it was made of, or export it here with --optimize-for-cpu"
    if not on_cpu:
        raise ModelError(f"{name}: was rewritten for a CPU and does not run on a GPU; {again}")
    made_for, here = json.loads(metadata[CPU_GRAPH_KEY]), this_cpu(onnxruntime_version)
    for what, value in here.items():
        if made_for.get(what) != value:
            raise ModelError(
                f"{name}: was rewritten for another CPU or release of ONNX Runtime ({what}: {made_for.get(what)!r}, "
                f"here {value!r}); {again}"
            )
