"""The table of resize rules: how a picture of any size becomes one of the network's input size. No NumPy.

Which rule a network was trained with decides most of its pixels, so the rule's text travels with a model file. Each
rule stretches: the aspect ratio is not kept. `preprocess` carries them out.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from ssd_train.errors import SpecError
from ssd_train.table import Table

Filter = Literal["linear", "cubic", "area"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeRule:
    """One rule.

    Attributes:
        name: for options.
        text: what `DetectorSpec.resize` says; never changed, since files have it.
        filter_for: the filter for (height, width) of the picture and of the input, of OpenCV unless on floats.
        on_floats: float32 values are resized, so that the result is no 8-bit picture; else 8 bits, and 8 bits come out.
        project: whose pre-processing it is.
    """

    name: str
    text: str
    filter_for: Callable[[tuple[int, int], tuple[int, int]], Filter]
    on_floats: bool = False
    project: str


def gluoncv_filter(image_size: tuple[int, int], input_size: tuple[int, int]) -> Filter:
    """Return the filter of GluonCV's `imresize` with interpolation "auto"; sizes are (height, width)."""
    (height, width), (new_height, new_width) = image_size, input_size
    if new_height > height and new_width > width:
        return "cubic"
    if new_height < height and new_width < width:
        return "area"
    return "linear"


def _linear(image_size: tuple[int, int], input_size: tuple[int, int]) -> Filter:
    return "linear"


RESIZE_RULES: Table[ResizeRule] = Table(
    "resize rule",
    (
        ResizeRule(
            name="gluoncv",
            text="opencv: cubic if both sides grow, area if both shrink, else linear",
            filter_for=gluoncv_filter,
            project="GluonCV",
        ),
        ResizeRule(name="linear", text="opencv: linear", filter_for=_linear, project="pytorch-ssd"),
        # Linear in the values too, so that mean and std may be applied before or after.
        ResizeRule(
            name="float-linear",
            text="linear without antialiasing, of float32 values",
            filter_for=_linear,
            on_floats=True,
            project="torchvision",
        ),
    ),
    SpecError,
)

_BY_TEXT = {rule.text: rule for rule in RESIZE_RULES.values()}


def rule_of(text: str) -> ResizeRule | None:
    """Return the rule that a model file names; None for a text that is of none."""
    return _BY_TEXT.get(text)
