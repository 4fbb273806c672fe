"""ONNX Runtime's CPU as the export uses it: quiet, since whatever it warns of is checked and raised here."""

from pathlib import Path

import onnxruntime

from ssd_train.evaluation.errors import ModelError


def quiet_options() -> onnxruntime.SessionOptions:
    """Return options that let ONNX Runtime print fatal errors alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def open_file(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Open a model file on the CPU.

    Raises:
        ModelError: ONNX Runtime cannot.
    """
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no narrower base
        reason = " ".join(str(error).split())
        raise ModelError(f"{path}: is not a usable ONNX file ({reason}); make one with `ssd-deploy export`") from error
