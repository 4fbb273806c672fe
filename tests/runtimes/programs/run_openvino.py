"""Files in OpenVINO on the CPU, in the precision that is in them."""

import numpy as np
import openvino
from cases import answer

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def run(model: str, name: str, images: np.ndarray) -> dict[str, np.ndarray]:
    compiled = openvino.Core().compile_model(model, "CPU", SETTINGS)
    found = compiled({name: images})
    return {output.any_name: found[output] for output in compiled.outputs}


answer(openvino.__version__, run)
