"""How a large picture is cut into tiles."""

import dataclasses
from typing import NamedTuple

from ssd_train.errors import SSDDeployError
from ssd_train.options import check_ranges, option

# Share of a tile; an object smaller than it is whole in one of them.
USUAL_OVERLAP = 0.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a picture is cut.

    Raises:
        SSDDeployError: a value outside its range, or an overlap without tiles.
    """

    tiles: int | None = option(None, "Cut pictures into squares of this side in pixels, too.", least=32)
    overlap: float | None = option(
        None, "Share of a tile that it has in common with the next one; without it 0.2.", least=0, most=0.9
    )

    def __post_init__(self) -> None:
        check_ranges(self, SSDDeployError)
        if self.overlap is not None and self.tiles is None:
            raise SSDDeployError("an overlap is one of tiles; give their side, too", arguments=("overlap", "tiles"))

    def windows(self, image_size: tuple[int, int]) -> "list[Window]":
        """Return the windows of a picture of (height, width): tiles a row after the other, then the whole picture.

        Steps are a tile less its overlap; the last tile of a row or column moves back to end at the border. A picture
        no larger than a tile is one window.
        """
        height, width = image_size
        if self.tiles is None or max(height, width) <= self.tiles:
            return [Window(0, 0, width, height)]
        overlap = USUAL_OVERLAP if self.overlap is None else self.overlap
        tiles = [
            Window(left, top, min(left + self.tiles, width), min(top + self.tiles, height))
            for top in _starts(height, self.tiles, overlap)
            for left in _starts(width, self.tiles, overlap)
        ]
        return [*tiles, Window(0, 0, width, height)]


class Window(NamedTuple):
    """A rectangle of a picture in its pixels, right and bottom not included."""

    left: int
    top: int
    right: int
    bottom: int


def _starts(length: int, side: int, overlap: float) -> list[int]:
    step = max(1, round(side * (1 - overlap)))
    last = max(0, length - side)
    return [*range(0, last, step), last]
