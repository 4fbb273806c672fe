"""The table of other projects' detectors: state dicts that are told apart by the names of their tensors. No torch.

A layout that can be read says which network it is of and how its tensors become ours; one that is known and cannot be
read says what to do instead.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssd_train.errors import WeightsError
from ssd_train.table import Table

if TYPE_CHECKING:
    from torch import Tensor

    from ssd_train.networks.ssd import SSD

# Name of a tensor -> its shape.
Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForeignLayout:
    """One row: either `network_of`, `num_classes` and `state`, or a `refusal`.

    Attributes:
        name: for people, such as `torchvision's SSD`.
        is_it: whether tensors of such names and shapes are of it.
        network_of: the network of ours that they are of, its name.
        num_classes: how many classes they tell apart, without the background.
        state: what `SSD.load_state_dict` takes strictly; raises WeightsError where tensors are missing, unknown or
            misshapen, or of another number of classes.
        refusal: what to do with a file that is not read, without the file's name: half a sentence.
    """

    name: str
    is_it: Callable[[Shapes], bool]
    network_of: Callable[[Shapes], str] | None = None
    num_classes: Callable[[Shapes], int] | None = None
    state: "Callable[[Mapping[str, Tensor], SSD, Path], dict[str, Tensor]] | None" = None
    refusal: str = ""

    def __post_init__(self) -> None:
        columns = [column is not None for column in (self.network_of, self.num_classes, self.state)]
        if columns != [not self.refusal] * 3:
            raise ValueError(f"{self.name}: expected network_of, num_classes and state, or a refusal")


LAYOUTS: Table[ForeignLayout] = Table("layout of weights", (), WeightsError)


def layout_of(shapes: Shapes, path: Path) -> ForeignLayout | None:
    """Return the layout that a file's tensors have; None for this project's own, GluonCV's and pytorch-cv's.

    Raises:
        WeightsError: they are of a kind that is known and not read.
    """
    layout = next((row for row in LAYOUTS.values() if row.is_it(shapes)), None)
    if layout is not None and layout.refusal:
        raise WeightsError(f"{path}: holds weights of {layout.name}; {layout.refusal}")
    return layout


def shapes_of(tensors: "Mapping[str, Tensor]") -> Shapes:
    """Return the shapes of a file's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
