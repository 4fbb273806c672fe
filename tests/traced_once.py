"""A network is traced once in a run of the tests, whichever test and process asks first.

Tracing takes more than ten seconds, and most tests that export want the same few networks. All else of an export, its
check against PyTorch included, is done each time; were two networks taken for one, that check would fail.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from filelock import FileLock

from ssd_train.networks.detector import Detector
from ssd_train.spec import DetectorSpec

Trace = Callable[[Detector, DetectorSpec], onnx.ModelProto]


def traced_once(trace: Trace, folder: Path) -> Trace:
    """Return a `trace` that keeps its graphs in a folder, which several processes may share."""

    def traced(detector: Detector, spec: DetectorSpec) -> onnx.ModelProto:
        path = folder / f"{_key(detector, spec)}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                half = path.with_suffix(".half")
                onnx.save(trace(detector, spec), half)
                os.replace(half, path)
            return onnx.load(path)

    return traced


def _key(detector: Detector, spec: DetectorSpec) -> str:
    """A hash of all that a trace can depend on: modules, weights, precision, input size and thresholds."""
    seen = hashlib.sha256(repr((detector, detector.postprocess.settings, spec.precision, spec.input_size)).encode())
    for name, value in [*detector.named_parameters(), *detector.named_buffers()]:
        seen.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        seen.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()[:32]
