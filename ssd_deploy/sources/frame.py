"""What every source of pictures gives: frames, and what is known about all of them."""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# pictures: files or arrays; video: a file with an end; live: a camera or a stream, which cannot be asked again.
SourceKind = Literal["pictures", "video", "live"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What is known about a source before its first frame.

    Attributes:
        name: as the user wrote it, without a password.
        kind: see `SourceKind`.
        frames: how many there will be; None where nobody knows.
        rate: frames a second; None for pictures and where it is not known.
        size: (height, width) of each frame in pixels; None where they differ.
    """

    name: str
    kind: SourceKind
    frames: int | None
    rate: Fraction | None = None
    size: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """One picture of a source.

    Attributes:
        index: from 0 within its source, as the source counts them: one that was broken or dropped leaves a gap.
        name: what results call it: a picture's file name; of a video its name and the number, `street.mp4#17`.
        image: (H, W, 3) RGB uint8, upright; empty where it is loaded later.
        path: the picture's own file; None for a frame of a video and for an array.
        time_s: seconds from the start of its video or stream; None for pictures.
        source: what it comes from.
    """

    index: int
    name: str
    image: NDArray[np.uint8]
    path: Path | None
    time_s: float | None
    source: SourceInfo
