"""ONNX Runtime's CPU as the export uses it: quiet, since whatever it warns of is checked and raised here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ssd_train.errors import ModelError
from ssd_train.spec import INPUT_NAME

if TYPE_CHECKING:
    import onnx


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


def open_graph(model: "onnx.ModelProto", outputs: Sequence[str]) -> Callable[[NDArray[np.float32]], list[Any]]:
    """Return a function from images to values of a graph on the CPU."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), quiet_options(), providers=["CPUExecutionProvider"]
    )
    return lambda images: session.run(list(outputs), {INPUT_NAME: images})
