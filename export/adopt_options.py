"""What there is to say of somebody else's ONNX file before it can be adopted. No onnx, no torch."""

import dataclasses
import math
from pathlib import Path

from ssd_train.errors import ModelError
from ssd_train.options import check_ranges, option
from ssd_train.resize_rules import RESIZE_RULES
from ssd_train.spec import MAX_INPUT_SIDE

AUTO = "auto"

# Statistics above it are of pixels from 0 to 255; no standard deviation of values in [0, 1] is above 1.
MOST_OF_UNIT = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdoptOptions:
    """How a file's raw outputs and its input are meant.

    Attributes:
        scores, boxes: names of its values (N, A, C + 1) and (N, A, 4), outputs or inner ones; None where only one pair
            of outputs can be meant.
        anchors: file of the (A, 4) anchors, `.npy`, `.json` or `.csv`; None where boxes are decoded.
        variances: of the offsets dx, dy, dw, dh: four numbers, or one for centres and one for sizes.
        mean, std: of the channels in the order of the file's input, one number or three.

    Raises:
        ModelError: a value is out of its range.
    """

    scores: str | None = option(None, "Name of the class scores (N, A, classes and background).")
    boxes: str | None = option(None, "Name of the boxes or offsets (N, A, 4).")
    score_kind: str = option(
        AUTO, "What the scores are; auto looks at them.", choices=(AUTO, "logits", "probabilities")
    )
    background: str = option("first", "Where the background's column is.", choices=("first", "last"))
    anchors: Path | None = option(None, "The (A, 4) anchors that boxes are offsets of: .npy, .json or .csv.")
    anchor_format: str = option("cxcywh", "Order of an anchor's values.", choices=("cxcywh", "xyxy"))
    variances: str = option("0.1,0.1,0.2,0.2", "Of the offsets dx,dy,dw,dh, or of centres and sizes: 0.1,0.2.")
    box_format: str = option("xyxy", "Order of a decoded box's values.", choices=("xyxy", "cxcywh", "yxyx"))
    box_units: str = option(
        AUTO, "Of anchors or decoded boxes; auto: input's sides where none is above 2.",
        choices=(AUTO, "pixels", "sides"),
    )  # fmt: skip
    mean: str | None = option(None, "Subtracted from the channels: R,G,B of 0 to 1, or of 0 to 255.")
    std: str | None = option(None, "Then divided by, in the same units.")
    pixels: str = option(
        AUTO, "Largest pixel that mean and std are for; auto: 255 where one is above 1.", choices=(AUTO, "1", "255")
    )
    channel_order: str = option("rgb", "Of its input, mean and std.", choices=("rgb", "bgr"))
    resize: str = option("gluoncv", "How pictures are resized to its input.", choices=tuple(RESIZE_RULES))
    input_size: str | None = option(None, "WIDTHxHEIGHT, where its input leaves them open.")

    def __post_init__(self) -> None:
        check_ranges(self, ModelError)

    def four_variances(self) -> tuple[float, float, float, float]:
        """Return the variances of dx, dy, dw, dh."""
        values = _numbers(self.variances, "variances")
        if len(values) == 2:
            values = (values[0], values[0], values[1], values[1])
        if len(values) != 4 or min(values) <= 0:
            raise ModelError(
                f"variances {self.variances!r}: expected four numbers above 0, or two", arguments=("variances",)
            )
        return values[0], values[1], values[2], values[3]

    def statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Return mean and std in RGB order, for values in [0, 1].

        Raises:
            ModelError: one is missing, or no one or three numbers.
        """
        mean, std = (self._three(name) for name in ("mean", "std"))
        is_255 = self.pixels == "255" or (self.pixels == AUTO and max(map(abs, mean + std)) > MOST_OF_UNIT)
        scale = 255.0 if is_255 else 1.0
        order = slice(None, None, -1 if self.channel_order == "bgr" else 1)
        (mean_r, mean_g, mean_b), (std_r, std_g, std_b) = (
            tuple(v / scale for v in each)[order] for each in (mean, std)
        )
        return (mean_r, mean_g, mean_b), (std_r, std_g, std_b)

    def size(self) -> tuple[int, int] | None:
        """Return (height, width) as given; None where it was not."""
        if self.input_size is None:
            return None
        parts = self.input_size.lower().split("x")
        if len(parts) != 2 or not all(
            part.isascii() and part.isdigit() and 0 < int(part) <= MAX_INPUT_SIDE for part in parts
        ):
            raise ModelError(
                f"input_size {self.input_size!r}: expected WIDTHxHEIGHT in pixels, such as 300x300",
                arguments=("input_size",),
            )
        return int(parts[1]), int(parts[0])

    def _three(self, name: str) -> tuple[float, float, float]:
        text = getattr(self, name)
        if text is None:
            raise ModelError(
                f"{name}: is not in the file and has to be given; see how its pictures were normalised in training",
                arguments=(name,),
            )
        values = _numbers(text, name)
        if len(values) == 1:
            values *= 3
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            raise ModelError(f"{name} {text!r}: expected one number or three with commas between", arguments=(name,))
        return values[0], values[1], values[2]


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise ModelError(f"{name} {text!r}: expected numbers with commas between", arguments=(name,))
    return values
