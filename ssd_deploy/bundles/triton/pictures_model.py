"""Triton's Python backend runs this file as `model.py`: a picture file's bytes in, the network's input out.

The arithmetic is `ssd_train.preprocess`, so that the server prepares pictures as every other way of this project does;
ssd-deploy has to be installed for the Python of Triton's container. What the detector expects is in `config.pbtxt`.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from ssd_train.errors import ImageError
from ssd_train.preprocess import decode_image, preprocess
from ssd_train.spec import DetectorSpec

PREFIX = "ssd_deploy."


class TritonPythonModel:
    """What Triton looks for in the file."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        entries = {key.removeprefix(PREFIX): each["string_value"] for key, each in parameters.items()}
        self.spec = DetectorSpec.from_metadata(entries, args["model_name"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself, so that a broken picture spoils no other request of the batch."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        # (N, 1), a file's bytes each.
        files = pb_utils.get_input_tensor_by_name(request, "pictures").as_numpy()
        try:
            pictures = [decode_image(data, f"picture {number}") for number, data in enumerate(files.ravel())]
            images = np.stack([preprocess(picture, self.spec) for picture in pictures])
        except ImageError as error:
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
        sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
        tensors = [pb_utils.Tensor("images", images), pb_utils.Tensor("image_sizes", sizes)]
        return pb_utils.InferenceResponse(output_tensors=tensors)
