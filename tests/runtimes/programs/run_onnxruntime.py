"""Files in ONNX Runtime, whichever release is found first."""

import numpy as np
import onnxruntime
from cases import answer


def run(model: str, name: str, images: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: images}), strict=True))


answer(onnxruntime.__version__, run)
