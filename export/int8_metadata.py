"""What an int8 file says of itself, in its metadata beside the detector's description. No onnx is imported here."""

import dataclasses
import enum
import json
from collections.abc import Mapping

TARGET_KEY = "int8_target"


class Int8Target(enum.StrEnum):
    """What activations are quantized to: see `quantize`."""

    PORTABLE = "portable"
    CPU = "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a file was quantized; travels in its metadata.

    Attributes:
        target: what its activations are.
        method, images, images_sha256: the calibration.
        float_layers: layers that were kept in float32.
    """

    target: Int8Target
    method: str
    images: int
    images_sha256: str
    float_layers: tuple[str, ...]

    def to_metadata(self) -> dict[str, str]:
        return {
            TARGET_KEY: self.target.value,
            "calibration_method": self.method,
            "calibration_images": str(self.images),
            "calibration_sha256": self.images_sha256,
            "float_layers": json.dumps(self.float_layers),
        }


def int8_target(metadata: Mapping[str, str]) -> Int8Target | None:
    """Return what a file's activations are; None where it is not int8."""
    return Int8Target(metadata[TARGET_KEY]) if TARGET_KEY in metadata else None
