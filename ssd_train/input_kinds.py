"""The table of inputs: what an exported file may take, and how its images lie in memory. No NumPy.

A file of 8-bit pixels normalises them itself, so that whoever runs it carries no mean and no standard deviation.
Resizing stays outside: no operator of ONNX does what the rule of `DetectorSpec.resize` says.
"""

import dataclasses

from ssd_train.errors import SpecError
from ssd_train.table import Table

FLOAT = "float32"


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputKind:
    """One row.

    Attributes:
        name: what options, file names and descriptions call it.
        tensor: name of the input in a file.
        dtype: NumPy's name of its type; 8-bit pixels are not normalised.
        order: of the channels.
    """

    name: str
    tensor: str
    dtype: str
    order: str

    @property
    def is_8_bit(self) -> bool:
        return self.dtype == "uint8"

    def image_shape(self, input_size: tuple[int, int]) -> tuple[int, int, int]:
        """Return the shape of one image of (height, width): pixels as decoders give them, planes as a network takes."""
        return (*input_size, 3) if self.is_8_bit else (3, *input_size)


INPUT_KINDS: Table[InputKind] = Table(
    "input",
    (
        InputKind(name=FLOAT, tensor="images", dtype="float32", order="RGB"),
        InputKind(name="uint8", tensor="images_uint8", dtype="uint8", order="RGB"),
        # What OpenCV, GStreamer and most cameras give.
        InputKind(name="uint8-bgr", tensor="images_uint8", dtype="uint8", order="BGR"),
    ),
    SpecError,
)
