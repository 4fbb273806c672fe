"""Pictures in files or in arrays."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssd_deploy.sources.base import Source
from ssd_deploy.sources.frame import Frame, SourceInfo
from ssd_train.errors import ImageError
from ssd_train.evaluation.loop import NO_IMAGE
from ssd_train.pixel_limit import check_pixels
from ssd_train.preprocess import checked_image, errors_of, load_image


class Pictures(Source):
    """Picture files and arrays, each read when its turn comes.

    Args:
        items: paths, and RGB uint8 arrays (H, W, 3).
        name: what the user called them.
        max_pixels: most that one may have; None for the process's limit, see `ssd_train.pixel_limit`.
    """

    def __init__(self, items: Sequence[Path | NDArray[np.uint8]], name: str, *, max_pixels: int | None = None) -> None:
        super().__init__()
        self._items = items
        self._max_pixels = max_pixels
        self.info = SourceInfo(name=name, kind="pictures", frames=len(items))

    def frames(self) -> Generator[Frame, None, None]:
        for index, item in enumerate(self._items):
            path = item if isinstance(item, Path) else None
            name = f"images[{index}]" if path is None else path.name
            yield Frame(index=index, name=name, image=NO_IMAGE, path=path, time_s=None, source=self.info)

    def load(self, frame: Frame) -> NDArray[np.uint8]:
        item = self._items[frame.index]
        if isinstance(item, Path):
            return load_image(item, max_pixels=self._max_pixels)
        with errors_of(frame.name):
            if isinstance(item, np.ndarray) and item.ndim == 3 and item.size:
                check_pixels(frame.name, item.shape[:2], self._max_pixels)
            try:
                return checked_image(item)
            except ImageError as error:
                raise ImageError(f"{frame.name}: {error}") from error
