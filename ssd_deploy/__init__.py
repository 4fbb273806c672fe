"""Run, evaluate and compare SSD detectors in PyTorch, ONNX Runtime and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssd_deploy.detector import load_detector
    from ssd_train.detections import Detections

    __version__: str

__all__ = ["Detections", "__version__", "load_detector"]


def __getattr__(name: str) -> Any:
    # The command line starts here too, and must answer --help before NumPy or OpenCV is loaded.
    if name == "load_detector":
        from ssd_deploy.detector import load_detector

        return load_detector
    if name == "Detections":
        from ssd_train.detections import Detections

        return Detections
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("ssd-deploy")
        except PackageNotFoundError:  # run from a source tree on a machine where nothing may be installed
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
