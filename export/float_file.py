"""An exported float32 file, read back to make another file of it."""

from pathlib import Path

import onnx

from ssd_train.errors import ModelError
from ssd_train.spec import DetectorSpec


def load_float_file(path: Path, advice: str) -> tuple[onnx.ModelProto, dict[str, str], DetectorSpec]:
    """Return graph, metadata and description of a float32 file of `export_onnx`.

    Args:
        advice: what to do with a file of another precision; ends the error's sentence.

    Raises:
        ModelError: the file is not one of ours, or not float32.
    """
    model = onnx.load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    spec = DetectorSpec.from_metadata(metadata, str(path))
    if spec.precision != "fp32":
        raise ModelError(f"{path}: computes in {spec.precision}; {advice}")
    return model, metadata, spec
