"""Run, evaluate and compare SSD detectors in PyTorch, ONNX Runtime and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ssd_train as ssd_train  # before ONNX Runtime, which reports home otherwise

if TYPE_CHECKING:
    from ssd_deploy.detector import Detector, load_detector
    from ssd_deploy.sources.base import Reconnect
    from ssd_deploy.sources.frame import Frame
    from ssd_deploy.sources.open import open_source
    from ssd_train.detections import Detection, Detections

    __version__: str

__all__ = [
    "Detection", "Detections", "Detector", "Frame", "Reconnect", "__version__", "load_detector", "open_source",
]  # fmt: skip

_MODULES = {
    "Detection": "ssd_train.detections",
    "Detections": "ssd_train.detections",
    "Detector": "ssd_deploy.detector",
    "Frame": "ssd_deploy.sources.frame",
    "Reconnect": "ssd_deploy.sources.base",
    "load_detector": "ssd_deploy.detector",
    "open_source": "ssd_deploy.sources.open",
}


def __getattr__(name: str) -> Any:
    # The command line starts here too, and must answer --help before NumPy or OpenCV is loaded.
    if name in _MODULES:
        import importlib

        return getattr(importlib.import_module(_MODULES[name]), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("ssd-deploy")
        except PackageNotFoundError:  # run from a source tree on a machine where nothing may be installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
